"""Effects against the normal equations, and what they may not hear; the ridge regression by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from conftest import interactions, tables
from mmrec.data import arrays
from mmrec.data.schema import Interactions
from mmrec.features import mixed_effects, text_regression
from mmrec.features.groups import dense_columns, visible_columns
from mmrec.features.mixed_effects import EFFECT_COLUMNS, MixedEffects, choose_penalties, ridge_factors
from mmrec.features.tables import EntityFeatures, Features
from mmrec.features.text_regression import RatedTexts, TextRegression, TextSums
from mmrec.ranker import inputs as inputs_module
from mmrec.ranker.dlrm import TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.linear import Moments, fit_linear
from toys import ranker_of, toy

seeds = st.integers(0, 2**32 - 1)


def reviewed(data: Interactions, seed: int = 0) -> RatedTexts:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(data), 4)).astype(np.float16)
    return RatedTexts(data, vectors, rng.integers(0, 200, size=len(data)))


def test_effects_solve_the_penalised_least_squares() -> None:
    rng = np.random.default_rng(3)
    data = interactions(
        rng.integers(6, size=80).tolist(),
        rng.integers(5, size=80).tolist(),
        rng.integers(1, 6, size=80).tolist(),
    )
    rows = np.arange(60)
    made = MixedEffects.fit(reviewed(data), rows, (2.0, 7.0))
    design = np.zeros((60, 11))
    design[rows, data.user[rows]] = 1
    design[rows, 6 + data.item[rows]] = 1
    target = data.rating[rows] - data.rating[rows].mean()
    gram = design.T @ design + np.diag([2.0] * 6 + [7.0] * 5)
    expected = np.linalg.solve(gram, design.T @ target)
    assert made.user["rating effect"][:6] == pytest.approx(expected[:6], abs=1e-4)
    assert made.item["rating effect"][:5] == pytest.approx(expected[6:], abs=1e-4)


def test_a_harsh_user_and_a_good_item_are_told_apart() -> None:
    # Nobody but the harsh one goes to item 2, which is better than what else he knows.
    data = interactions([0, 0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 0, 1], [2, 2, 3, 4, 4, 4, 4])
    made = MixedEffects.fit(reviewed(data), np.arange(7), (0.1, 0.1))
    assert made.user["rating effect"][0] < made.user["rating effect"][1] - 1
    assert made.item["rating effect"][2] > made.item["rating effect"][0]


def test_shares_spread_and_lengths_are_drawn_to_the_mean_of_all() -> None:
    data = interactions([0, 0, 1], [0, 1, 0], [1, 5, 5])
    one = RatedTexts(data, np.zeros((3, 2), dtype=np.float16), np.array([0, 10, 10]))
    made = MixedEffects.fit(one, np.arange(3), (1.0, 1.0))
    # User 0 has two reviews, one of them up to 1.5 stars; of all three it is one.
    assert made.user["stars to 1.5"].tolist() == pytest.approx([(1 + 5 / 3) / 7, (5 / 3) / 6, 1 / 3])
    assert made.user["blank"].tolist() == pytest.approx([(1 + 5 / 3) / 7, (5 / 3) / 6, 1 / 3])
    assert made.user["rating effect"][2] == made.item["rating effect"][2] == 0


@given(tables(gaps=False), seeds)
@settings(max_examples=60, deadline=None)
def test_nothing_of_a_row_that_is_not_heard_is_in_the_effects(data: Interactions, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(len(data)) < 0.7)
    if not len(rows):
        return
    silent = np.setdiff1d(np.arange(len(data)), rows)
    one = reviewed(data, seed)
    rating, vectors, length = data.rating.copy(), one.vectors.copy(), one.length.copy()
    rating[silent], vectors[silent], length[silent] = 6 - rating[silent], 9, 1000
    other = Interactions(data.user, data.item, rating, data.time, data.users, data.items)
    first = MixedEffects.fit(one, rows, (2.0, 3.0))
    second = MixedEffects.fit(RatedTexts(other, vectors, length), rows, (2.0, 3.0))
    for name in EFFECT_COLUMNS:
        assert np.array_equal(first.user[name], second.user[name])
        assert np.array_equal(first.item[name], second.item[name])


@given(tables(gaps=False), seeds)
@settings(max_examples=60, deadline=None)
def test_what_texts_and_tastes_are_made_of_equals_a_slow_reference(data: Interactions, seed: int) -> None:
    """Tones, topics and tastes by regressions of whole matrices, user by user."""
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(data)) < 0.8)
    one = reviewed(data, seed)
    rating, vectors = data.rating[rows].astype(np.float64), one.vectors[rows].astype(np.float64)
    read, topics = TextRegression.fit(TextSums.from_rows(one, rows))
    if not len(rows):
        assert not read.weights.any()
        assert not topics.any()
        return
    centred = vectors - vectors.mean(0)
    tone = Ridge(alpha=3.0, fit_intercept=False).fit(centred, rating - rating.mean())
    assert read.mean_rating == pytest.approx(rating.mean())
    assert read.predict(one.vectors[rows].astype(np.float32)) == pytest.approx(
        tone.predict(centred), abs=1e-4
    )
    said = np.zeros((len(data.items) + 1, vectors.shape[1]))
    np.add.at(said, data.item[rows], centred)
    said /= (np.bincount(data.item[rows], minlength=len(said)) + 4.0)[:, None]
    scale = max(np.sqrt(np.square(said[np.unique(data.item[rows])]).sum(1).mean()), 1e-6)
    assert topics @ topics.T == pytest.approx(said @ said.T / scale**2, abs=1e-4)
    made = MixedEffects.fit(one, rows, (2.0, 3.0))
    both = made.user["rating effect"][data.user[rows]] + made.item["rating effect"][data.item[rows]]
    for user in range(len(made.user_factors)):
        own = data.user[rows] == user
        slow = np.zeros(topics.shape[1])
        if own.any():
            slow = (
                Ridge(alpha=15.0, fit_intercept=False)
                .fit(topics[data.item[rows[own]]], (rating - rating.mean() - both)[own])
                .coef_
            )
        assert made.user_factors[user].astype(float) == pytest.approx(slow, abs=2e-3)


@given(tables(gaps=False), seeds, st.sampled_from([1, 30]))
@settings(max_examples=30, deadline=None)
def test_blocks_of_any_size_and_sums_of_the_others_give_the_same_effects(
    data: Interactions, seed: int, cells: int
) -> None:
    rng = np.random.default_rng(seed)
    one, rows = reviewed(data, seed), np.flatnonzero(rng.random(len(data)) < 0.7)
    if not len(rows):
        return
    whole = MixedEffects.fit(one, rows, (2.0, 3.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixed_effects, "_BLOCK_CELLS", cells)
        patch.setattr(text_regression, "_BLOCK_CELLS", cells)
        patch.setattr(arrays, "_LARGE", 1)
        silent = np.setdiff1d(np.arange(len(data)), rows)
        texts = TextSums.from_rows(one, np.arange(len(data))).without(one, silent)
        parts = MixedEffects.fit(one, rows, (2.0, 3.0), texts)
    for name in EFFECT_COLUMNS:
        assert parts.user[name] == pytest.approx(whole.user[name], abs=1e-4)
        assert parts.item[name] == pytest.approx(whole.item[name], abs=1e-4)
    pairs = data.user[rows], data.item[rows]
    assert parts.factor_score(*pairs) == pytest.approx(whole.factor_score(*pairs), abs=5e-3)


@pytest.mark.parametrize("reviews", [0, 1, 5, 6, 40])
def test_a_taste_is_the_same_by_as_many_equations_as_reviews_or_topics(reviews: int) -> None:
    rng = np.random.default_rng(reviews)
    topics, residual = rng.normal(size=(3, reviews, 6)), rng.normal(size=(3, reviews))
    for x, y, made in zip(topics, residual, ridge_factors(topics, residual), strict=True):
        assert made == pytest.approx(np.linalg.solve(x.T @ x + 15 * np.eye(6), x.T @ y))
        assert made == pytest.approx(ridge_factors(x, y))


def test_effects_take_memory_for_few_texts_at_once() -> None:
    rng = np.random.default_rng(0)
    size = 200_000
    data = interactions((np.arange(size) % 20_000).tolist(), rng.integers(50, size=size).tolist())
    vectors = rng.integers(-5, 6, size=(size, 384), dtype=np.int8).astype(np.float16)
    one = RatedTexts(data, vectors, np.ones(size))
    tracemalloc.start()
    MixedEffects.fit(one, np.arange(size), (2.0, 2.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes / 4


def test_penalties_follow_the_noise() -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(100, size=4000), rng.integers(100, size=4000)

    def chosen(of_users: float, of_items: float) -> tuple[float, float]:
        bias = rng.normal(0, of_users, 100)[user] + rng.normal(0, of_items, 100)[item]
        data = interactions(user.tolist(), item.tolist(), (3 + bias + rng.normal(0, 1, 4000)).tolist())
        return choose_penalties(data, np.arange(3000), np.arange(3000, 4000))

    strict, loose = chosen(0.02, 2.0)
    assert strict == 12.0
    assert loose <= 2.0


def test_the_regression_is_scikit_learns_and_leaves_out_what_is_not_heard() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(1, 2, (200, 5)), rng.random(200) < 0.6
    moments = Moments(200, float(y.sum()), x.sum(0), x.T @ x, x.T @ y)
    weights, constant = moments.solve(np.full(5, 30.0), np.ones(5, dtype=bool))
    theirs = Ridge(alpha=30.0).fit(x, y)
    assert weights == pytest.approx(theirs.coef_)
    assert constant == pytest.approx(theirs.intercept_)
    some = np.array([True, False, True, True, False])
    weights, constant = moments.solve(np.full(5, 30.0), some)
    theirs = Ridge(alpha=30.0).fit(x[:, some], y)
    assert weights[~some].tolist() == [0, 0]
    assert weights[some] == pytest.approx(theirs.coef_)
    assert constant == pytest.approx(theirs.intercept_)


@pytest.mark.parametrize("rows_at_once", [7, 1 << 14])
def test_moments_weigh_what_few_voices_say(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(inputs_module, "_ROWS_AT_ONCE", rows_at_once)
    inputs, rows = toy(tastes=2).inputs, np.arange(0, 200, 2)
    rng = torch.Generator().manual_seed(1)
    for side in (inputs.user, inputs.item):
        side.present = {
            name: there * torch.rand(there.shape, generator=rng) for name, there in side.present.items()
        }
    mean, deviation, means, deviations = inputs.moments(rows)
    dense = inputs.row_batch(torch.from_numpy(rows)).dense.double().numpy()
    assert mean.numpy() == pytest.approx(dense.mean(0), abs=1e-5)
    assert deviation.numpy() == pytest.approx(dense.std(0), abs=1e-5)
    for of, side, view in (("user", inputs.user, inputs.user_view), ("item", inputs.item, inputs.item_view)):
        seen = np.unique(view.numpy()[rows])
        weight = side.present[f"{of} gist"].double().numpy()[seen]
        x = side.vectors[f"{of} gist"].double().numpy()[seen][weight[:, 0] > 0]
        weight = weight[weight[:, 0] > 0]
        slow = (weight * x).sum(0) / weight.sum()
        assert means[f"{of} gist"].numpy() == pytest.approx(slow, abs=1e-5)
        spread = np.sqrt(np.square(weight * (x - slow)).mean(0))
        assert deviations[f"{of} gist"].numpy() == pytest.approx(spread, abs=1e-5)


def test_the_linear_part_is_a_logit_that_holds_on_valid_with_the_class_weights_in_it() -> None:
    task = toy(600)
    runs = [TrainingRun(1, 0.0, (0.5, 0.5)), TrainingRun(2, 0.0, (0.8, 0.2))]
    ranker = ranker_of(task, runs, linear=True)
    valid = np.arange(400, 600)
    free = np.zeros(task.inputs.dense_size, dtype=bool)
    fit_linear(ranker, runs, task.inputs, task.label, task.train_rows, valid, free)
    assert ranker.linear is not None
    with torch.inference_mode():
        logit = ranker.linear(ranker.linear_columns(task.inputs.row_batch(torch.from_numpy(valid))))[
            :, :, 0
        ].numpy()
    for own, run in zip(logit, runs, strict=True):
        curve = LogisticRegression(C=1e6).fit(own[:, None], task.label[valid])
        assert curve.coef_[0, 0] == pytest.approx(1, abs=1e-2)
        assert curve.intercept_[0] == pytest.approx(
            np.log(run.class_weights[0] / run.class_weights[1]), abs=1e-2
        )


def test_affinity_tells_who_loves_what_kind_of_item_where_effects_tell_nothing() -> None:
    rng = np.random.default_rng(5)
    user, item = (part.ravel() for part in np.divmod(rng.permutation(900), 30))
    match = user % 2 == item % 2
    data = interactions(user.tolist(), item.tolist(), np.where(match, 5, 1).tolist())
    vectors = np.eye(6)[item % 2] + rng.normal(0, 0.3, (900, 6))
    heard, unseen = np.arange(500), np.arange(500, 900)
    made = MixedEffects.fit(RatedTexts(data, vectors.astype(np.float16), np.ones(900)), heard, (2.0, 2.0))
    pairs = made.user_factors[user[unseen]].astype(np.float32) * made.item_factors[item[unseen]]
    both = made.user["rating effect"][user[unseen]] + made.item["rating effect"][item[unseen]]
    assert roc_auc_score(match[unseen], pairs.sum(1)) > 0.99
    assert roc_auc_score(match[unseen], both) < 0.6
    assert not made.user_factors[-1].any()
    assert not made.item_factors[-1].any()


def test_the_taste_of_a_pair_is_a_number_of_its_own_and_strangers_have_none() -> None:
    def side(taste: list[list[float]]) -> EntityFeatures:
        one = np.array(taste, dtype=np.float16)
        dense, none = (np.zeros((len(one), 1), dtype=np.float32), np.zeros((len(one), 0), dtype=np.int64))
        return EntityFeatures(("mean rating",), dense, {}, {}, none, one)

    features = Features(
        side([[1, 2], [3, 0], [0, 0]]), side([[5, 1], [0, 0]]), np.array([0, 1]), np.array([0, 0])
    )
    inputs = RankerInputs(features)
    assert inputs.dense_size == 3
    assert inputs.row_batch(torch.arange(2)).dense[:, 2].tolist() == [7, 15]
    assert inputs.view_batch(torch.tensor([2, 0]), torch.tensor([0, 1])).dense[:, 2].tolist() == [0, 0]
    assert inputs.moments(np.arange(2))[0].tolist() == [0, 0, 11]
    assert dense_columns(features) == ["user mean rating", "item mean rating", "factor score"]
    deaf = [frozenset[str](), frozenset({"ratings"}), frozenset({"item text"}), frozenset({"user text"})]
    assert visible_columns(["factor score"], deaf)[:, 0].tolist() == [True, False, False, True]
