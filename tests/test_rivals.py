"""Stronger peers: each finds the structure that it should, and none that is not there."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from conftest import interactions
from mmrec.config import SplitConfig
from mmrec.data.schema import Interactions
from mmrec.data.split import Split, split_reviews
from mmrec.experiments.baselines import baseline_probabilities
from mmrec.experiments.trained_baselines import (
    TRAINED_BASELINES,
    _factor_scores,
    _ridges,
    flatten_features,
    trained_baseline_probabilities,
)
from mmrec.features.tables import EntityFeatures, Features

LIBRARIES = {"LightGBM": "lightgbm", "DeepFM": "torch_rechub"}
ROWS = 2000


def side(
    dense: np.ndarray, blocks: dict[str, np.ndarray], categories: np.ndarray, size: int
) -> EntityFeatures:
    """A view per row of `dense`, and `nothing known`; a block of all zeros is missing."""

    def ended(values: np.ndarray, last: float = 0) -> np.ndarray:
        return np.concatenate([values, np.full((1, *values.shape[1:]), last, dtype=values.dtype)])

    return EntityFeatures(
        tuple(f"column {at}" for at in range(dense.shape[1])),
        ended(dense.astype(np.float32)),
        {name: ended(block.astype(np.float16)) for name, block in blocks.items()},
        {name: ended(block.any(axis=1)) for name, block in blocks.items()},
        ended(categories, size),
    )


def features_of(columns: np.ndarray) -> Features:
    """Rows with views of their own: these columns on the item's side, noise elsewhere."""
    rng, rows = np.random.default_rng(7), len(columns)
    user = side(rng.normal(size=(rows, 1)), {}, np.zeros((rows, 0), dtype=np.int64), 0)
    item = side(columns, {"gist": rng.normal(size=(rows, 6))}, rng.integers(5, size=(rows, 2)), 5)
    return Features(user, item, np.arange(rows), np.arange(rows))


def town(rating: np.ndarray | None = None, seed: int = 0) -> tuple[Interactions, Split]:
    """Random pairs of 60 users and 40 items, and their split."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(60, size=ROWS), rng.integers(40, size=ROWS)
    data = interactions(user.tolist(), item.tolist(), None if rating is None else rating.tolist())
    return data, split_reviews(data, SplitConfig(), np.random.default_rng(0))


def answers(
    features: Features, data: Interactions, split: Split, label: np.ndarray, *which: str
) -> dict[str, np.ndarray]:
    for name in which:
        pytest.importorskip(LIBRARIES.get(name, "sklearn"))
    result, remarks = trained_baseline_probabilities(features, data, split, label, 1, which, threads=1)
    assert list(result) == list(which)
    assert not remarks
    for p in result.values():
        assert p.shape == label.shape
        assert ((p >= 0) & (p <= 1)).all()
    return result


def auc(p: np.ndarray, label: np.ndarray, split: Split) -> float:
    return float(roc_auc_score(label[split.test], p[split.test]))


def test_flat_by_hand() -> None:
    rng = np.random.default_rng(0)
    block = rng.normal(size=(30, 4)).astype(np.float16)
    block[3] = 0
    none = np.zeros((2, 0), dtype=np.int64)
    codes = np.tile([[0, 2], [1, 3]], (15, 1))  # 3 is the padding of three categories
    user = side(np.array([[5.0], [7.0]]), {}, none, 0)
    item = side(np.zeros((30, 0)), {"gist": block}, codes, 3)
    user_view, item_view = np.array([0, 1, 1, 2, *[0] * 28]), np.array([0, 1, 3, 30, *range(2, 30)])
    known = np.flatnonzero(item_view < 20)
    matrix, names = flatten_features(Features(user, item, user_view, item_view), known, components=2)
    assert names == [
        "user column 0",
        *(f"item category {code}" for code in range(3)),
        *("item has gist", "item gist 0", "item gist 1"),
    ]
    assert matrix.dtype == np.float32
    assert matrix[:4, :5].tolist() == [[5, 1, 0, 1, 1], [7, 0, 1, 0, 1], [7, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert (matrix[2:4, 5:] == 0).all()
    seen = block[[view for view in range(20) if view != 3]].astype(np.float64)
    components = PCA(2).fit(seen).transform(block.astype(np.float64))
    found = matrix[:, 5:][item_view == 25]
    assert np.abs(found[0]) == pytest.approx(np.abs(components[25]), abs=1e-3)


def test_flat_components_do_not_depend_on_views_of_test_rows() -> None:
    features, known = features_of(np.zeros((ROWS, 1))), np.arange(0, ROWS, 2)
    before, _ = flatten_features(features, known)
    features.item.vectors["gist"][1:ROWS:2] *= 100
    after, _ = flatten_features(features, known)
    assert np.array_equal(before[known], after[known])
    assert not np.allclose(before, after)


def test_flat_survives_a_block_that_is_missing_everywhere() -> None:
    features = features_of(np.zeros((ROWS, 1)))
    features.item.present["gist"][:] = False
    matrix, names = flatten_features(features, np.arange(10))
    assert matrix.shape == (ROWS, len(names))
    assert not any(name.startswith("item gist") for name in names)
    assert "item has gist" in names


def test_logistic_regression_and_deepfm_find_a_line() -> None:
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(ROWS, 3))
    chance = 1 / (1 + np.exp(-3 * columns @ [1.0, -1.0, 0.0]))
    label = rng.random(ROWS) < chance
    data, split = town()
    for name, p in answers(
        features_of(columns), data, split, label, "logistic regression", "DeepFM", "LightGBM"
    ).items():
        assert auc(p, label, split) > auc(chance, label, split) - 0.04, name
        assert p[split.test].mean() == pytest.approx(label[split.test].mean(), abs=0.05), name
        assert np.mean(np.abs(p - chance)[split.test]) < 0.12, name


def test_lightgbm_finds_an_xor_that_logistic_regression_cannot() -> None:
    columns = np.random.default_rng(2).normal(size=(ROWS, 2))
    label = (columns > 0).sum(axis=1) == 1
    data, split = town()
    found = answers(features_of(columns), data, split, label, "logistic regression", "LightGBM")
    assert auc(found["logistic regression"], label, split) < 0.6
    assert auc(found["LightGBM"], label, split) > 0.97


def test_matrix_factorisation_beats_biases_on_rank_one() -> None:
    data, _ = town()
    rng = np.random.default_rng(3)
    tastes = rng.choice([-1.0, 1.0], 60)[data.user] * rng.choice([-1.0, 1.0], 40)[data.item]
    data, split = town(np.clip(np.rint(3.5 + 1.2 * tastes + rng.normal(0, 0.8, ROWS)), 1, 5))
    label = data.rating >= 4
    peers = baseline_probabilities(data, split, label)
    p = answers(features_of(np.zeros((ROWS, 1))), data, split, label, "matrix factorisation")
    assert auc(peers["bias model"], label, split) < 0.65
    assert auc(p["matrix factorisation"], label, split) > 0.85


def test_matrix_factorisation_is_the_bias_model_where_that_is_all_there_is() -> None:
    data, _ = town()
    rng = np.random.default_rng(4)
    biases = rng.normal(0, 0.8, 60)[data.user] + rng.normal(0, 0.8, 40)[data.item]
    data, split = town(3.5 + biases + rng.normal(0, 0.8, ROWS))
    label = data.rating >= 4
    peers = baseline_probabilities(data, split, label)
    p = answers(features_of(np.zeros((ROWS, 1))), data, split, label, "matrix factorisation")
    assert auc(p["matrix factorisation"], label, split) > auc(peers["bias model"], label, split) - 0.01


def test_factors_are_ridge_regressions_that_a_high_penalty_silences() -> None:
    rng = np.random.default_rng(5)
    owner, inputs, left = rng.integers(4, size=90), rng.normal(size=(90, 3)), rng.normal(size=90)
    found = _ridges(owner, 5, inputs, left, 2.0)
    for one in range(4):
        model = Ridge(2.0, fit_intercept=False).fit(inputs[owner == one], left[owner == one])
        assert found[one] == pytest.approx(model.coef_)
    assert (found[4] == 0).all()  # who has no review
    data, split = town(rng.integers(1, 6, size=ROWS).astype(float))
    scores = _factor_scores(lambda data, rows: np.full(len(data), 3.0), 0, 4, 1e6, data, split.train)
    assert scores == pytest.approx(np.full(ROWS, 3.0))


def test_nothing_is_found_in_shuffled_labels_and_test_rows_are_never_looked_at() -> None:
    rng = np.random.default_rng(6)
    label = rng.random(ROWS) < 0.7
    data, split = town(np.where(label, 5.0, 2.0))
    features = features_of(rng.normal(size=(ROWS, 3)))
    before = answers(features, data, split, label, *TRAINED_BASELINES)
    turned, rating = label.copy(), data.rating.copy()
    turned[split.test] = ~turned[split.test]
    rating[split.test] = 6 - rating[split.test]
    after = answers(features, replace(data, rating=rating), split, turned, *TRAINED_BASELINES)
    for name, p in before.items():
        assert auc(p, label, split) == pytest.approx(0.5, abs=0.1), name
        assert np.array_equal(p, after[name]), name


def test_a_missing_library_gives_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in LIBRARIES.values():
        monkeypatch.setitem(sys.modules, library, None)
    data, split = town()
    columns = np.random.default_rng(8).normal(size=(ROWS, 1))
    which = ("LightGBM", "logistic regression", "DeepFM")
    found, remarks = trained_baseline_probabilities(
        features_of(columns), data, split, columns[:, 0] > 0, 1, which
    )
    assert list(found) == ["logistic regression"]
    assert [remark.split(":")[0] for remark in remarks] == ["LightGBM", "DeepFM"]
    assert all("mmrec[peers]" in remark for remark in remarks)


def test_lightgbm_uses_the_threads_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    asked, train = [], lightgbm.train

    def spy(parameters: dict[str, object], *rest: object, **more: object) -> object:
        asked.append(parameters["num_threads"])
        return train(parameters, *rest, **more)

    monkeypatch.setattr(lightgbm, "train", spy)
    data, split = town()
    columns = np.random.default_rng(9).normal(size=(ROWS, 1))
    label = columns[:, 0] > 0
    one, two = (
        trained_baseline_probabilities(features_of(columns), data, split, label, 1, ["LightGBM"], threads)[0][
            "LightGBM"
        ]
        for threads in (1, 2)
    )
    assert set(asked) == {1, 2}
    assert np.array_equal(one, two)
