"""Baselines find the structure that they should, none that is not there, and are blind to test rows."""

import sys
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from mmrec.config import SplitConfig
from mmrec.data.schema import split_reviews
from mmrec.evaluation import simple_baselines as simple
from mmrec.evaluation.simple_baselines import ALWAYS_LIKE
from mmrec.evidence.policies import assign_folds
from mmrec.experiments import baselines
from mmrec.experiments.baselines import TRAINED_BASELINES, FeatureFlattener, FeatureTask
from mmrec.features.tables import EntityFeatures, Features
from review_tables import interactions

LIBRARIES = {"LightGBM": "lightgbm", "DeepFM": "torch_rechub"}
ROWS, USERS, ITEMS = 2000, 60, 40


def random_task(deviation, like=4, score=None, rows=ROWS):
    """Random pairs with the ratings 4 + score(rng, user, item) + noise, and random features."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(USERS, size=rows), rng.integers(ITEMS, size=rows)
    rating = 4 + (score(rng, user, item) if score else 0) + rng.normal(0, deviation, rows)
    data = interactions(user.tolist(), item.tolist(), rating.tolist())
    split = split_reviews(data, SplitConfig(), np.random.default_rng(0))
    fold = assign_folds(data, split, 10, rng)
    return FeatureTask(data, split, fold, rating >= like, features_of(rng.normal(size=(rows, 3))), 1)


def biases(rng, user, item):
    """Lenient and strict users, good and bad items."""
    return rng.normal(0, 0.7, USERS)[user] + rng.normal(0, 0.7, ITEMS)[item]


def entity_features(dense, blocks, categories, size):
    """A view per row of `dense`, and the unknown entity; a block of all zeros is missing."""

    def with_unknown(values, last=0):
        return np.concatenate([values, np.full((1, *values.shape[1:]), last, dtype=values.dtype)])

    return EntityFeatures(
        tuple(f"column {number}" for number in range(dense.shape[1])),
        with_unknown(dense.astype(np.float32)),
        {name: with_unknown(block.astype(np.float16)) for name, block in blocks.items()},
        {name: with_unknown(block.any(axis=1)) for name, block in blocks.items()},
        with_unknown(categories, size),
    )


def features_of(columns):
    """A view per row: these columns are the items', all else is noise."""
    rng, rows = np.random.default_rng(7), len(columns)
    user = entity_features(rng.normal(size=(rows, 1)), {}, np.zeros((rows, 0), dtype=np.int64), 0)
    item = entity_features(columns, {"gist": rng.normal(size=(rows, 6))}, rng.integers(5, size=(rows, 2)), 5)
    return Features(user, item, np.arange(rows), np.arange(rows))


def train(task, *names):
    for name in names:
        pytest.importorskip(LIBRARIES.get(name, "sklearn"))
    result, remarks = baselines.trained_baseline_probabilities(task, names)
    assert (list(result), remarks) == (list(names), [])
    for p in result.values():
        assert p.shape == task.label.shape
        assert ((p >= 0) & (p <= 1)).all()
    return result


def auc(task, p):
    return roc_auc_score(task.label[task.split.test], p[task.split.test])


@pytest.mark.parametrize("penalty", [1.0, 5.0])
def test_the_bias_model_is_the_dense_ridge_solution(penalty):
    data, rows = random_task(0.5, score=biases).data, np.arange(0, 400, 2)
    design = np.concatenate([np.eye(USERS)[data.user], np.eye(ITEMS)[data.item]], axis=1)
    rating = data.rating.astype(np.float64)
    mean = rating[rows].mean()
    gram = design[rows].T @ design[rows] + penalty * np.eye(design.shape[1])
    expected = np.linalg.solve(gram, design[rows].T @ (rating[rows] - mean))
    scores = simple.bias_scores(data, rows, (penalty, penalty))
    assert scores == pytest.approx(design @ expected, abs=1e-4)


def test_means_and_unknown_entities_by_hand():
    data = interactions([0, 0, 0, 1, 2], [0, 1, 1, 0, 1], [5, 2, 4, 1, 3])
    rows = np.array([0, 1, 3])  # mean 8/3; user 0: 3.5, user 1: 1, item 0: 3, item 1: 2
    assert simple.mean_scores(data, rows, ["user"]) == pytest.approx([3.5, 3.5, 3.5, 1, 8 / 3])
    assert simple.mean_scores(data, rows, ["item"]) == pytest.approx([3, 2, 2, 3, 2])
    assert simple.mean_scores(data, rows, ["user", "item"]) == pytest.approx([6.5, 5.5, 5.5, 4, 2 + 8 / 3])
    data = interactions([0, 0, 1, 2], [0, 1, 1, 2], [5, 3, 1, 5])
    assert simple.bias_scores(data, np.arange(3), (1.0, 1.0))[3] == 0


def test_simple_baselines_are_calibrated_and_the_bias_model_beats_means():
    task = random_task(0.5, score=biases)
    probability, test = simple.simple_baseline_probabilities(task), task.split.test
    likes = task.label[task.split.train].mean()
    assert list(probability) == [ALWAYS_LIKE, "user mean", "item mean", "user + item mean", "bias model"]
    assert (probability[ALWAYS_LIKE] == likes).all()
    assert likes != task.label.mean()
    aucs = {name: auc(task, p) for name, p in probability.items()}
    assert aucs["bias model"] > max(aucs["user mean"], aucs["item mean"]) + 0.03
    assert probability["bias model"][test].mean() == pytest.approx(task.label[test].mean(), abs=0.05)
    # For test rows all evidence counts, valid rows too.
    for rows, are_all_evidence in ((task.split.evidence_rows, True), (task.split.train, False)):
        order = np.argsort(simple.mean_scores(task.data, rows, ["user"])[test], kind="stable")
        assert (np.diff(probability["user mean"][test][order]) >= 0).all() == are_all_evidence


def test_a_probability_comes_from_no_rating_of_its_own_row():
    """Rows of train and valid can be compared with a model's, too: nothing is found in noise."""
    task = random_task(1, like=4)
    p = simple.simple_baseline_probabilities(task)["bias model"]
    for rows in (task.split.train, task.split.valid, task.split.test):
        assert roc_auc_score(task.label[rows], p[rows]) == pytest.approx(0.5, abs=0.08)


def test_labels_that_contradict_the_scores_leave_their_order():
    task = random_task(0.5, score=biases)
    task.label[:] ^= True
    for name, p in simple.simple_baseline_probabilities(task).items():
        assert name == ALWAYS_LIKE or auc(task, p) < 0.4  # the order of the ratings
        assert p[task.split.test] == pytest.approx(task.label.mean(), abs=0.05)


def test_baselines_find_nothing_in_noise_and_are_blind_to_test_rows():
    task = random_task(1, like=3.5, rows=1200)
    test = task.split.test
    flipped, rating = task.label.copy(), task.data.rating.copy()
    flipped[test], rating[test] = ~flipped[test], 6 - rating[test]
    other = replace(task, data=replace(task.data, rating=rating), label=flipped)
    before, after = train(task, *TRAINED_BASELINES), train(other, *TRAINED_BASELINES)
    before |= simple.simple_baseline_probabilities(task)
    after |= simple.simple_baseline_probabilities(other)
    assert len(before) == len(TRAINED_BASELINES) + 5
    for name, p in before.items():
        assert auc(task, p) == pytest.approx(0.5, abs=0.1), name
        assert np.array_equal(p, after[name]), name


def test_flattened_features_by_hand():
    rng = np.random.default_rng(0)
    block = rng.normal(size=(30, 4)).astype(np.float16)
    block[3] = 0
    no_categories = np.zeros((2, 0), dtype=np.int64)
    codes = np.tile([[0, 2], [1, 3]], (15, 1))  # 3 is the padding of three categories
    user = entity_features(np.array([[5.0], [7.0]]), {}, no_categories, 0)
    item = entity_features(np.zeros((30, 0)), {"gist": block}, codes, 3)
    user_view, item_view = np.array([0, 1, 1, 2, *[0] * 28]), np.array([0, 1, 3, 30, *range(2, 30)])
    rows = np.flatnonzero(item_view < 20)
    features = Features(user, item, user_view, item_view)
    # A column of the user; of the item three categories, whether it has a gist, and two components of it.
    matrix = FeatureFlattener(features, rows, components=2).columns(features)
    assert matrix.shape == (len(user_view), 7)
    assert matrix.dtype == np.float32
    assert matrix[:4, :5].tolist() == [[5, 1, 0, 1, 1], [7, 0, 1, 0, 1], [7, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert (matrix[2:4, 5:] == 0).all()
    seen = block[[view for view in range(20) if view != 3]].astype(np.float64)
    components = PCA(2).fit(seen).transform(block.astype(np.float64))
    reduced = matrix[:, 5:][item_view == 25]
    assert np.abs(reduced[0]) == pytest.approx(np.abs(components[25]), abs=1e-3)


def test_components_come_from_views_of_train_rows_and_a_missing_block_has_none():
    features, rows = features_of(np.zeros((100, 1))), np.arange(0, 100, 2)
    before = FeatureFlattener(features, rows).columns(features)
    features.item.vectors["gist"][1:100:2] *= 100
    after = FeatureFlattener(features, rows).columns(features)
    assert np.array_equal(before[rows], after[rows])
    assert not np.allclose(before, after)
    features.item.present["gist"][:] = False
    without = FeatureFlattener(features, rows).columns(features)
    assert without.shape[1] < after.shape[1]
    assert not without[:, -1].any()  # only that it is missing


def test_baselines_with_features_find_a_line():
    task, rng = random_task(1), np.random.default_rng(1)
    columns = rng.normal(size=(ROWS, 3))
    chance = 1 / (1 + np.exp(-3 * columns @ [1.0, -1.0, 0.0]))
    task = replace(task, features=features_of(columns), label=rng.random(ROWS) < chance)
    test = task.split.test
    for name, p in train(task, "logistic regression", "DeepFM", "LightGBM").items():
        assert auc(task, p) > auc(task, chance) - 0.04, name
        assert p[test].mean() == pytest.approx(task.label[test].mean(), abs=0.05), name
        assert np.mean(np.abs(p - chance)[test]) < 0.12, name


def test_lightgbm_finds_an_xor_that_logistic_regression_cannot():
    columns = np.random.default_rng(2).normal(size=(ROWS, 2))
    label = (columns > 0).sum(axis=1) == 1
    task = replace(random_task(1), features=features_of(columns), label=label)
    p = train(task, "logistic regression", "LightGBM")
    assert auc(task, p["logistic regression"]) < 0.6
    assert auc(task, p["LightGBM"]) > 0.97


def test_matrix_factorisation_beats_biases_on_rank_one_and_equals_them_where_there_is_nothing_else():
    def rank_one(rng, user, item):
        return 1.2 * rng.choice([-1.0, 1.0], USERS)[user] * rng.choice([-1.0, 1.0], ITEMS)[item]

    aucs = []
    for task in (random_task(0.9, score=rank_one), random_task(0.8, score=biases)):
        p = simple.simple_baseline_probabilities(task) | train(task, "matrix factorisation")
        aucs += [auc(task, p["bias model"]), auc(task, p["matrix factorisation"])]
    assert aucs[0] < 0.65 < 0.85 < aucs[1]
    assert aucs[3] > aucs[2] - 0.01


def test_factors_are_ridge_regressions_and_vanish_at_a_high_penalty():
    rng = np.random.default_rng(5)
    entity, inputs, target = rng.integers(4, size=90), rng.normal(size=(90, 3)), rng.normal(size=90)
    coefficients = baselines._ridges(entity, 5, inputs, target, 2.0)
    for code in range(4):
        model = Ridge(2.0, fit_intercept=False).fit(inputs[entity == code], target[entity == code])
        assert coefficients[code] == pytest.approx(model.coef_)
    assert (coefficients[4] == 0).all()  # without a row
    task = random_task(1)
    nothing = lambda data, rows: np.zeros(len(data))  # noqa: E731
    scores = baselines._factor_scores(nothing, 0, 4, 1e6, task.data, task.split.train)
    assert scores == pytest.approx(np.full(ROWS, task.data.rating[task.split.train].mean()))


def test_a_missing_library_gives_a_remark_and_an_error_of_the_training_does_not(monkeypatch):
    for module in ("lightgbm", "torch_rechub.basic.features"):
        monkeypatch.setitem(sys.modules, module, None)
    names = ("LightGBM", "logistic regression", "DeepFM")
    p, remarks = baselines.trained_baseline_probabilities(random_task(1), names)
    assert list(p) == ["logistic regression"]
    assert [remark.split(":")[0] for remark in remarks] == ["LightGBM", "DeepFM"]
    assert all("mmrec[peers]" in remark for remark in remarks)
    full_disk = Mock(side_effect=OSError("no space left"))
    monkeypatch.setitem(TRAINED_BASELINES, "LightGBM", (full_disk,))
    with pytest.raises(OSError, match="no space left"):
        baselines.trained_baseline_probabilities(random_task(1), ("LightGBM",))
