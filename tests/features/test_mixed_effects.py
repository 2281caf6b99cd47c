"""Mixed effects and factors against the normal equations, and against a slow reference."""

import tracemalloc
from copy import deepcopy
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from mmrec.data import files
from mmrec.features import mixed_effects
from mmrec.features.mixed_effects import EFFECT_COLUMNS, MixedEffects, RatedTexts, TextRegression, TextSums
from review_tables import interactions, tables

seeds = st.integers(0, 2**32 - 1)


def random_texts(data, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(data), 4)).astype(np.float16)
    return RatedTexts(data, vectors, rng.integers(0, 200, size=len(data)))


def random_rows(data, seed):
    """About 70% of all rows, at least one."""
    chosen = np.random.default_rng(seed).random(len(data)) < 0.7
    chosen[0] |= not chosen.any()
    return np.flatnonzero(chosen)


def test_columns_are_shrunk_towards_the_overall_mean_with_five_reviews():
    data = interactions([0, 0, 1], [0, 1, 0], [1, 5, 5])
    texts = RatedTexts(data, np.zeros((3, 2), dtype=np.float16), np.array([0, 10, 10]))
    user = MixedEffects.fit(texts, np.arange(3), (1.0, 1.0)).columns["user"]
    # One of the two reviews of user 0 has at most 1.5 stars and no text; of all three, one.
    expected = pytest.approx([(1 + 5 / 3) / 7, (5 / 3) / 6, 1 / 3])
    assert user["stars to 1.5"].tolist() == expected
    assert user["blank"].tolist() == expected
    assert user["rating effect"][2] == 0


@given(tables(gaps=False), seeds)
@settings(max_examples=40, deadline=None)
def test_effects_depend_on_the_given_rows_only(data, seed):
    rows, texts = random_rows(data, seed), random_texts(data, seed)
    hidden = np.setdiff1d(np.arange(len(data)), rows)
    changed = deepcopy(texts)
    changed.data.rating[hidden] = 6 - data.rating[hidden]
    changed.vectors[hidden], changed.length[hidden] = 9, 1000
    first, second = (MixedEffects.fit(reviews, rows, (2.0, 3.0)) for reviews in (texts, changed))
    for kind, name in product(("user", "item"), EFFECT_COLUMNS):
        assert np.array_equal(first.columns[kind][name], second.columns[kind][name])


@given(tables(gaps=False), seeds)
@settings(max_examples=40, deadline=None)
def test_effects_topics_and_factors_equal_a_slow_reference(data, seed):
    rows, texts = random_rows(data, seed), random_texts(data, seed)
    user, item = data.user[rows], data.item[rows]
    rating, vectors = data.rating[rows].astype(np.float64), texts.vectors[rows].astype(np.float64)
    regression, topics = TextRegression.fit(TextSums.from_rows(texts, rows))
    centred = vectors - vectors.mean(0)
    ridge = Ridge(alpha=3.0, fit_intercept=False).fit(centred, rating - rating.mean())
    assert regression.mean_rating == pytest.approx(rating.mean())
    predicted = regression.predict(texts.vectors[rows].astype(np.float32))
    assert predicted == pytest.approx(ridge.predict(centred), abs=1e-4)
    item_mean = np.zeros((len(data.items) + 1, vectors.shape[1]))
    np.add.at(item_mean, item, centred)
    item_mean /= (np.bincount(item, minlength=len(item_mean)) + 4.0)[:, None]
    scale = max(np.sqrt(np.square(item_mean[np.unique(item)]).sum(1).mean()), 1e-6)
    assert topics @ topics.T == pytest.approx(item_mean @ item_mean.T / scale**2, abs=1e-4)
    effects = MixedEffects.fit(texts, rows, (2.0, 3.0))
    assert np.array_equal(effects.factors["item"], topics.astype(np.float16))
    users, items = len(data.users), len(data.items)
    design = np.concatenate([np.eye(users)[user], np.eye(items)[item]], axis=1)
    gram = design.T @ design + np.diag([2.0] * users + [3.0] * items)
    for name, target in (("rating effect", rating - rating.mean()), ("text rating effect", predicted)):
        solved = [effects.columns[kind][name][:-1] for kind in ("user", "item")]
        expected = np.linalg.solve(gram, design.T @ target)
        assert np.concatenate(solved) == pytest.approx(expected, abs=1e-4)
    residual = rating - rating.mean() - effects.columns["user"]["rating effect"][user]
    residual -= effects.columns["item"]["rating effect"][item]
    for code, factors in enumerate(effects.factors["user"]):
        expected = np.zeros(topics.shape[1])
        if (by_user := user == code).any():
            ridge = Ridge(alpha=15.0, fit_intercept=False)
            expected = ridge.fit(topics[item[by_user]], residual[by_user]).coef_
        assert factors.astype(float) == pytest.approx(expected, abs=2e-3)


def test_a_regression_without_texts_predicts_the_mean():
    texts = random_texts(interactions([0], [0]))
    regression, topics = TextRegression.fit(TextSums.from_rows(texts, np.zeros(0, dtype=np.int64)))
    assert not regression.weights.any()
    assert not topics.any()


@given(tables(gaps=False), seeds, st.sampled_from([1, 30]))
@settings(max_examples=20, deadline=None)
def test_blocks_of_any_size_and_differences_of_sums_give_the_same_effects(data, seed, cells):
    rows, texts = random_rows(data, seed), random_texts(data, seed)
    expected = MixedEffects.fit(texts, rows, (2.0, 3.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixed_effects, "_BLOCK_CELLS", cells)
        patch.setattr(files, "_LARGE", 1)
        hidden = np.setdiff1d(np.arange(len(data)), rows)
        sums = TextSums.from_rows(texts, np.arange(len(data))).without(texts, hidden)
        effects = MixedEffects.fit(texts, rows, (2.0, 3.0), sums)
    for kind, name in product(("user", "item"), EFFECT_COLUMNS):
        assert effects.columns[kind][name] == pytest.approx(expected.columns[kind][name], abs=1e-4)
    scores = []
    for factors in (effects.factors, expected.factors):
        user, item = factors["user"][data.user[rows]], factors["item"][data.item[rows]]
        scores.append((user.astype(np.float32) * item.astype(np.float32)).sum(1))
    assert scores[0] == pytest.approx(scores[1], abs=5e-3)


def test_fitting_takes_memory_for_few_texts_at_once():
    rng = np.random.default_rng(0)
    size = 100_000
    data = interactions((np.arange(size) % 10_000).tolist(), rng.integers(50, size=size).tolist())
    vectors = rng.integers(-5, 6, size=(size, 384), dtype=np.int8).astype(np.float16)
    tracemalloc.start()
    MixedEffects.fit(RatedTexts(data, vectors, np.ones(size)), np.arange(size), (2.0, 2.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes / 4


def test_penalties_are_high_where_effects_are_small():
    rng = np.random.default_rng(0)
    user, item = rng.integers(100, size=4000), rng.integers(100, size=4000)
    effects = rng.normal(0, 0.02, 100)[user] + rng.normal(0, 2.0, 100)[item]
    rating = 3 + effects + rng.normal(0, 1, 4000)
    data, rows = interactions(user.tolist(), item.tolist(), rating.tolist()), np.arange(4000)
    user_penalty, item_penalty = mixed_effects.choose_penalties(data, rows[:3000], rows[3000:])
    assert item_penalty <= 2.0 < user_penalty == 12.0
