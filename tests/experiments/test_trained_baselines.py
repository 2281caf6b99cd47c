"""Trained baselines: each finds the structure that it should, and none that is not there."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from mmrec.config import SplitConfig
from mmrec.data.schema import Interactions, Split, split_reviews
from mmrec.experiments.baselines import simple_baseline_probabilities
from mmrec.experiments.trained_baselines import (
    TRAINED_BASELINES,
    _factor_scores,
    _ridges,
    flatten_features,
    trained_baseline_probabilities,
)
from mmrec.features.tables import EntityFeatures, Features
from review_tables import interactions

LIBRARIES = {"LightGBM": "lightgbm", "DeepFM": "torch_rechub"}
ROWS = 2000


def entity_features(
    dense: np.ndarray, blocks: dict[str, np.ndarray], categories: np.ndarray, size: int
) -> EntityFeatures:
    """A view per row of `dense`, and the unknown entity; a block of all zeros is missing."""

    def with_unknown(values: np.ndarray, last: float = 0) -> np.ndarray:
        return np.concatenate([values, np.full((1, *values.shape[1:]), last, dtype=values.dtype)])

    return EntityFeatures(
        tuple(f"column {at}" for at in range(dense.shape[1])),
        with_unknown(dense.astype(np.float32)),
        {name: with_unknown(block.astype(np.float16)) for name, block in blocks.items()},
        {name: with_unknown(block.any(axis=1)) for name, block in blocks.items()},
        with_unknown(categories, size),
    )


def features_of(columns: np.ndarray) -> Features:
    """A view per row: these columns are the items', all else is noise."""
    rng, rows = np.random.default_rng(7), len(columns)
    user = entity_features(rng.normal(size=(rows, 1)), {}, np.zeros((rows, 0), dtype=np.int64), 0)
    item = entity_features(columns, {"gist": rng.normal(size=(rows, 6))}, rng.integers(5, size=(rows, 2)), 5)
    return Features(user, item, np.arange(rows), np.arange(rows))


def random_pairs(rating: np.ndarray | None = None, seed: int = 0) -> tuple[Interactions, Split]:
    """Random pairs of 60 users and 40 items, and their split."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(60, size=ROWS), rng.integers(40, size=ROWS)
    data = interactions(user.tolist(), item.tolist(), None if rating is None else rating.tolist())
    return data, split_reviews(data, SplitConfig(), np.random.default_rng(0))


def train_baselines(
    features: Features, data: Interactions, split: Split, label: np.ndarray, *names: str
) -> dict[str, np.ndarray]:
    for name in names:
        pytest.importorskip(LIBRARIES.get(name, "sklearn"))
    result, remarks = trained_baseline_probabilities(features, data, split, label, 1, names)
    assert list(result) == list(names)
    assert not remarks
    for p in result.values():
        assert p.shape == label.shape
        assert ((p >= 0) & (p <= 1)).all()
    return result


def auc(p: np.ndarray, label: np.ndarray, split: Split) -> float:
    return float(roc_auc_score(label[split.test], p[split.test]))


def test_flattened_features_by_hand() -> None:
    rng = np.random.default_rng(0)
    block = rng.normal(size=(30, 4)).astype(np.float16)
    block[3] = 0
    no_categories = np.zeros((2, 0), dtype=np.int64)
    codes = np.tile([[0, 2], [1, 3]], (15, 1))  # 3 is the padding of three categories
    user = entity_features(np.array([[5.0], [7.0]]), {}, no_categories, 0)
    item = entity_features(np.zeros((30, 0)), {"gist": block}, codes, 3)
    user_view, item_view = np.array([0, 1, 1, 2, *[0] * 28]), np.array([0, 1, 3, 30, *range(2, 30)])
    train = np.flatnonzero(item_view < 20)
    matrix, names = flatten_features(Features(user, item, user_view, item_view), train, components=2)
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
    reduced = matrix[:, 5:][item_view == 25]
    assert np.abs(reduced[0]) == pytest.approx(np.abs(components[25]), abs=1e-3)


def test_components_do_not_depend_on_views_of_test_rows() -> None:
    features, train = features_of(np.zeros((ROWS, 1))), np.arange(0, ROWS, 2)
    before, _ = flatten_features(features, train)
    features.item.vectors["gist"][1:ROWS:2] *= 100
    after, _ = flatten_features(features, train)
    assert np.array_equal(before[train], after[train])
    assert not np.allclose(before, after)


def test_a_block_that_is_missing_everywhere_has_no_components() -> None:
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
    data, split = random_pairs()
    for name, p in train_baselines(
        features_of(columns), data, split, label, "logistic regression", "DeepFM", "LightGBM"
    ).items():
        assert auc(p, label, split) > auc(chance, label, split) - 0.04, name
        assert p[split.test].mean() == pytest.approx(label[split.test].mean(), abs=0.05), name
        assert np.mean(np.abs(p - chance)[split.test]) < 0.12, name


def test_lightgbm_finds_an_xor_that_logistic_regression_cannot() -> None:
    columns = np.random.default_rng(2).normal(size=(ROWS, 2))
    label = (columns > 0).sum(axis=1) == 1
    data, split = random_pairs()
    p = train_baselines(features_of(columns), data, split, label, "logistic regression", "LightGBM")
    assert auc(p["logistic regression"], label, split) < 0.6
    assert auc(p["LightGBM"], label, split) > 0.97


def test_matrix_factorisation_beats_biases_on_rank_one() -> None:
    data, _ = random_pairs()
    rng = np.random.default_rng(3)
    product = rng.choice([-1.0, 1.0], 60)[data.user] * rng.choice([-1.0, 1.0], 40)[data.item]
    data, split = random_pairs(np.clip(np.rint(3.5 + 1.2 * product + rng.normal(0, 0.8, ROWS)), 1, 5))
    label = data.rating >= 4
    simple = simple_baseline_probabilities(data, split, label)
    p = train_baselines(features_of(np.zeros((ROWS, 1))), data, split, label, "matrix factorisation")
    assert auc(simple["bias model"], label, split) < 0.65
    assert auc(p["matrix factorisation"], label, split) > 0.85


def test_matrix_factorisation_is_the_bias_model_where_that_is_all_there_is() -> None:
    data, _ = random_pairs()
    rng = np.random.default_rng(4)
    biases = rng.normal(0, 0.8, 60)[data.user] + rng.normal(0, 0.8, 40)[data.item]
    data, split = random_pairs(3.5 + biases + rng.normal(0, 0.8, ROWS))
    label = data.rating >= 4
    simple = simple_baseline_probabilities(data, split, label)
    p = train_baselines(features_of(np.zeros((ROWS, 1))), data, split, label, "matrix factorisation")
    assert auc(p["matrix factorisation"], label, split) > auc(simple["bias model"], label, split) - 0.01


def test_factors_are_ridge_regressions_and_vanish_at_a_high_penalty() -> None:
    rng = np.random.default_rng(5)
    entity, inputs, target = rng.integers(4, size=90), rng.normal(size=(90, 3)), rng.normal(size=90)
    coefficients = _ridges(entity, 5, inputs, target, 2.0)
    for code in range(4):
        model = Ridge(2.0, fit_intercept=False).fit(inputs[entity == code], target[entity == code])
        assert coefficients[code] == pytest.approx(model.coef_)
    assert (coefficients[4] == 0).all()  # without a row
    data, split = random_pairs(rng.integers(1, 6, size=ROWS).astype(float))
    scores = _factor_scores(lambda data, rows: np.full(len(data), 3.0), 0, 4, 1e6, data, split.train)
    assert scores == pytest.approx(np.full(ROWS, 3.0))


def test_baselines_find_nothing_in_shuffled_labels_and_are_blind_to_test_rows() -> None:
    rng = np.random.default_rng(6)
    label = rng.random(ROWS) < 0.7
    data, split = random_pairs(np.where(label, 5.0, 2.0))
    features = features_of(rng.normal(size=(ROWS, 3)))
    before = train_baselines(features, data, split, label, *TRAINED_BASELINES)
    flipped, rating = label.copy(), data.rating.copy()
    flipped[split.test] = ~flipped[split.test]
    rating[split.test] = 6 - rating[split.test]
    after = train_baselines(features, replace(data, rating=rating), split, flipped, *TRAINED_BASELINES)
    for name, p in before.items():
        assert auc(p, label, split) == pytest.approx(0.5, abs=0.1), name
        assert np.array_equal(p, after[name]), name


def test_a_missing_library_gives_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in LIBRARIES.values():
        monkeypatch.setitem(sys.modules, library, None)
    data, split = random_pairs()
    columns = np.random.default_rng(8).normal(size=(ROWS, 1))
    names = ("LightGBM", "logistic regression", "DeepFM")
    p, remarks = trained_baseline_probabilities(
        features_of(columns), data, split, columns[:, 0] > 0, 1, names
    )
    assert list(p) == ["logistic regression"]
    assert [remark.split(":")[0] for remark in remarks] == ["LightGBM", "DeepFM"]
    assert all("mmrec[peers]" in remark for remark in remarks)
