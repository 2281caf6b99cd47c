"""Views against the slow definition of every policy, and their sums against a plain loop."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data import files
from mmrec.data.schema import NO_TIME, Split
from mmrec.errors import DataError
from mmrec.evidence import policies as policies_module
from mmrec.evidence.policies import NO_GROUP, VALIDATION_FOLD, Evidence, EvidenceViews, assign_folds
from review_tables import interactions, tables

NO_ROWS = np.zeros(0, dtype=np.int64)
policies = st.sampled_from(["fold", "leave_one_out", "all", "past"])
seeds = st.integers(0, 2**32 - 1)
# Width of the values, cells at once, and whether results are mapped to files.
layouts = st.tuples(st.sampled_from([1, 37]), st.sampled_from([1, 20, 300, 1 << 19]), st.booleans())


def random_split(data, rng):
    """Rows in any parts, some filtered: evidence must be right for every split, not only for ours."""
    part = rng.choice(4, size=len(data), p=[0.55, 0.15, 0.2, 0.1])
    part[rng.integers(len(data))] = 0
    return Split(*(np.flatnonzero(part == number) for number in range(4)))


def derive(data, policy, seed, folds=4):
    rng = np.random.default_rng(seed)
    split = random_split(data, rng)
    if policy == "past" and (data.time == NO_TIME).all():
        data.time[0] = 0
    return Evidence.derive(data, split, policy, folds, rng), split


def slow_visible(data, evidence, split, row):
    """The reviews of any user and item that a row may see, from the text of `mmrec.evidence.policies`."""
    visible = []
    for review in split.evidence_rows.tolist():
        in_same_fold = review in split.valid or evidence.fold[review] == evidence.fold[row]
        hidden = {
            "fold": evidence.fold[row] >= 0 and in_same_fold,
            "leave_one_out": review == row,
            "all": False,
            "past": not data.time[review] < data.time[row] < NO_TIME,
        }
        if not hidden[evidence.policy]:
            visible.append(review)
    return visible


@given(tables(), policies, seeds, st.integers(2, 6))
@settings(max_examples=300, deadline=None)
def test_every_view_is_the_slow_definition_and_equal_views_are_shared(data, policy, seed, folds):
    evidence, split = derive(data, policy, seed, folds)
    for entity, views in ((data.user, evidence.user), (data.item, evidence.item)):
        assert np.array_equal(views.entity[views.view], entity)
        different = set()
        for row in range(len(data)):
            members = sorted(views.members(int(views.view[row])).tolist())
            visible = slow_visible(data, evidence, split, row)
            assert members == [review for review in visible if entity[review] == entity[row]]
            by_fold = visible if policy == "fold" else split.evidence_rows.tolist()
            assert evidence.visible_rows(int(evidence.fold[row])).tolist() == by_fold
            assert policy == "all" or row not in members or row in split.filtered_rows
            assert not set(members) & set(split.test.tolist())
            different.add((int(entity[row]), *members))
        same = [views.members(view).tolist() for view in range(len(views))]
        assert [rows.tolist() for rows in views.review_sets()] == same
        if not len(split.filtered_rows):  # a view of fold and one of none may see the same otherwise
            assert len(views) == len(different)


@given(tables(), policies, seeds, st.sampled_from(["float16", "float32", "float64"]), layouts)
@settings(max_examples=120, deadline=None)
def test_sums_and_means_equal_a_plain_loop_in_blocks_of_any_size(data, policy, seed, dtype, layout):
    evidence, split = derive(data, policy, seed)
    width, cells, mapped = layout
    values = np.random.default_rng(seed).normal(0, 10, (len(data), width)).astype(dtype)
    values[split.test] = np.nan  # only evidence may be read
    for views in (evidence.user, evidence.item):
        count = np.array([len(rows) for rows in views.review_sets()])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(policies_module, "_BLOCK_CELLS", cells)
            patch.setattr(files, "_LARGE", 1 if mapped else 1 << 30)
            sums, means = views.sum(values), views.mean(values, count)
        assert isinstance(sums.base, np.memmap) == mapped == isinstance(means.base, np.memmap)
        assert sums.dtype == ("float32" if dtype == "float16" else values.dtype)
        assert means.dtype == np.float16
        slow = np.array([values[rows].astype(np.float64).sum(0) for rows in views.review_sets()])
        assert np.allclose(sums, slow, rtol=1e-12 if dtype == "float64" else 1e-6, atol=1e-9)
        assert np.allclose(means, slow / np.maximum(count, 1)[:, None], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("policy", ["fold", "leave_one_out", "past"])
def test_sums_over_an_item_with_most_reviews_take_memory_for_few_values(policy):
    rng = np.random.default_rng(0)
    size, width = 200_000, 64
    time = rng.permutation(size).tolist()
    data = interactions(rng.integers(40, size=size).tolist(), [0] * size, time=time)
    values = rng.normal(size=(size, width)).astype(np.float16)
    evidence = Evidence.derive(data, Split(np.arange(size), NO_ROWS, NO_ROWS), policy, 10, rng)
    results = (len(evidence.user) + len(evidence.item)) * width * 2  # bytes of float16
    tracemalloc.start()
    evidence.user.mean(values, np.ones(len(evidence.user)))
    evidence.item.mean(values, np.ones(len(evidence.item)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes + results


def test_views_from_lists_see_exactly_their_lists():
    views = EvidenceViews.from_lists(np.array([5, 6, 5]), [np.array([3, 1]), NO_ROWS, np.array([1])])
    assert [rows.tolist() for rows in views.review_sets()] == [[3, 1], [], [1]]
    assert views.entity.tolist() == [5, 6, 5]
    assert views.view.tolist() == [0, 1, 2]
    assert views.sum(np.arange(8.0).reshape(4, 2)).tolist() == [[8, 10], [0, 0], [2, 3]]
    empty = EvidenceViews.from_lists(np.array([0, 1]), [NO_ROWS, NO_ROWS])
    assert empty.sum(np.ones((3, 2))).tolist() == [[0, 0], [0, 0]]


@given(tables(), seeds, st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_folds_are_balanced_within_every_user(data, seed, folds):
    rng = np.random.default_rng(seed)
    split = random_split(data, rng)
    fold = assign_folds(data, split, folds, rng)
    assert (fold[split.valid] == VALIDATION_FOLD).all()
    assert (fold[np.concatenate([split.test, split.filtered_rows])] == NO_GROUP).all()
    assert ((fold[split.train] >= 1) & (fold[split.train] <= folds)).all()
    for user in np.unique(data.user[split.train]):
        counts = np.bincount(fold[split.train][data.user[split.train] == user] - 1, minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_folds_depend_on_the_seed_and_spread_users_with_one_review():
    data = interactions(list(range(400)), [0] * 400)
    split = Split(np.arange(400), NO_ROWS, NO_ROWS)
    first, same, other = (assign_folds(data, split, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert np.bincount(first, minlength=5)[1:].min() > 60


def test_the_policy_past_requires_times():
    data = interactions([0, 0], [0, 1])
    split = Split(np.arange(2), NO_ROWS, NO_ROWS)
    with pytest.raises(DataError, match="needs reviews with times"):
        Evidence.derive(data, split, "past", 2, np.random.default_rng(0))
