"""Evidence: fast views equal the slow definition of every policy, and nobody speaks for itself."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import interactions, tables
from mmrec.data import arrays
from mmrec.data.schema import NO_TIME, Interactions
from mmrec.data.split import Split
from mmrec.errors import DataError
from mmrec.evidence import views
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence, Policy, assign_folds
from mmrec.evidence.views import EvidenceViews

POLICIES: tuple[Policy, ...] = ("fold", "leave_one_out", "all", "past")
policies = st.sampled_from(POLICIES)
seeds = st.integers(0, 2**32 - 1)


def any_split(data: Interactions, rng: np.random.Generator) -> Split:
    """Rows in any parts; evidence must hold for every split, not only for those that we make."""
    part = rng.choice(3, size=len(data), p=[0.6, 0.15, 0.25])
    part[rng.integers(len(data))] = 0
    return Split(*(np.flatnonzero(part == at) for at in range(3)))


def derive(data: Interactions, policy: Policy, seed: int, folds: int = 4) -> tuple[Evidence, Split]:
    rng = np.random.default_rng(seed)
    split = any_split(data, rng)
    return Evidence.derive(data, split, policy, folds, rng), split


def timed(data: Interactions, policy: Policy) -> bool:
    return policy != "past" or bool((data.time != NO_TIME).any())


def slow_members(data: Interactions, evidence: Evidence, entity: np.ndarray, row: int) -> list[int]:
    heard = []
    outside = np.flatnonzero(evidence.fold < 0)
    for other in evidence.evidence_rows.tolist():
        if entity[other] != entity[row]:
            continue
        own = evidence.fold[other] in (evidence.fold[row], VALIDATION_FOLD)
        if evidence.policy == "fold" and row not in outside and own:
            continue
        if evidence.policy == "leave_one_out" and other == row:
            continue
        if evidence.policy == "past" and (
            data.time[row] == NO_TIME or data.time[other] == NO_TIME or data.time[other] >= data.time[row]
        ):
            continue
        heard.append(other)
    return heard


def sides(data: Interactions, evidence: Evidence) -> list[tuple[np.ndarray, EvidenceViews]]:
    return [(data.user, evidence.user), (data.item, evidence.item)]


@given(tables(), policies, seeds, st.integers(2, 6))
@settings(max_examples=300, deadline=None)
def test_every_row_hears_just_what_the_slow_definition_says(
    data: Interactions, policy: Policy, seed: int, folds: int
) -> None:
    if not timed(data, policy):
        return
    evidence, _ = derive(data, policy, seed, folds)
    for entity, side in sides(data, evidence):
        assert np.array_equal(side.entity[side.view], entity)
        for row in range(len(data)):
            heard = side.members(int(side.view[row])).tolist()
            assert sorted(heard) == slow_members(data, evidence, entity, row)


@given(tables(), policies, seeds)
@settings(max_examples=200, deadline=None)
def test_no_row_speaks_for_itself_but_under_all(data: Interactions, policy: Policy, seed: int) -> None:
    if not timed(data, policy):
        return
    evidence, split = derive(data, policy, seed)
    for entity, side in sides(data, evidence):
        for row in range(len(data)):
            heard = side.members(int(side.view[row]))
            assert (row in heard) == (policy == "all" and row in split.evidence_rows)
            assert set(entity[heard].tolist()) <= {int(entity[row])}
            assert not set(heard.tolist()) & set(split.test.tolist())


@given(tables(), seeds)
@settings(max_examples=100, deadline=None)
def test_only_test_hears_valid(data: Interactions, seed: int) -> None:
    evidence, split = derive(data, "fold", seed)
    for fold in np.unique(evidence.fold):
        said = np.isin(split.valid, evidence.visible_rows(int(fold)))
        assert said.all() if fold < 0 else not said.any()
    for _, side in sides(data, evidence):
        for row in np.concatenate([split.train, split.valid]).tolist():
            heard = side.members(int(side.view[row]))
            assert not np.isin(heard, split.valid).any()
            assert np.isin(heard, evidence.visible_rows(int(evidence.fold[row]))).all()


@given(tables(), seeds)
@settings(max_examples=100, deadline=None)
def test_no_row_hears_its_own_fold_and_test_rows_hear_all(data: Interactions, seed: int) -> None:
    evidence, split = derive(data, "fold", seed)
    for entity, side in sides(data, evidence):
        for row in split.evidence_rows.tolist():
            assert not (evidence.fold[side.members(int(side.view[row]))] == evidence.fold[row]).any()
        for row in split.test.tolist():
            everyone = split.evidence_rows[entity[split.evidence_rows] == entity[row]]
            assert sorted(side.members(int(side.view[row])).tolist()) == everyone.tolist()


@given(tables(), seeds)
@settings(max_examples=100, deadline=None)
def test_the_past_is_strictly_earlier_and_rows_without_time_hear_nothing(
    data: Interactions, seed: int
) -> None:
    if not timed(data, "past"):
        return
    evidence, _ = derive(data, "past", seed)
    for _, side in sides(data, evidence):
        for row in range(len(data)):
            heard = side.members(int(side.view[row]))
            assert (data.time[heard] < data.time[row]).all()
            assert data.time[row] != NO_TIME or not len(heard)


@given(tables(), policies, seeds)
@settings(max_examples=150, deadline=None)
def test_rows_that_hear_the_same_of_one_entity_share_a_view(
    data: Interactions, policy: Policy, seed: int
) -> None:
    if not timed(data, policy):
        return
    evidence, _ = derive(data, policy, seed)
    for entity, side in sides(data, evidence):
        heard = [(int(entity[row]), *slow_members(data, evidence, entity, row)) for row in range(len(data))]
        assert len(side) == len(set(heard))
        assert len({(view, words) for view, words in zip(side.view.tolist(), heard, strict=True)}) == len(
            side
        )
        assert [one.tolist() for one in side.review_sets()] == [
            side.members(view).tolist() for view in range(len(side))
        ]


@given(
    tables(),
    policies,
    seeds,
    st.sampled_from(["float16", "float32", "float64"]),
    st.sampled_from([1, 3, 131]),
    st.sampled_from([1, 20, 300, 1 << 19]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_sums_and_means_equal_an_obvious_loop_in_blocks_of_any_size(
    data: Interactions, policy: Policy, seed: int, dtype: str, width: int, cells: int, mapped: bool
) -> None:
    if not timed(data, policy):
        return
    evidence, split = derive(data, policy, seed)
    values = np.random.default_rng(seed).normal(0, 10, (len(data), width)).astype(dtype)
    values[split.test] = np.nan  # what is not known must not be read
    for _, side in sides(data, evidence):
        count = np.array([len(rows) for rows in side.review_sets()])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(views, "_BLOCK_CELLS", cells)
            patch.setattr(arrays, "_LARGE", 1 if mapped else 1 << 30)
            sums, means = side.sum(values), side.mean(values, count)
        assert isinstance(sums.base, np.memmap) == mapped == isinstance(means.base, np.memmap)
        assert sums.dtype == ("float32" if dtype == "float16" else values.dtype)
        assert means.dtype == np.float16
        slow = np.array([values[side.members(view)].astype(np.float64).sum(0) for view in range(len(side))])
        assert np.allclose(sums, slow, rtol=1e-12 if dtype == "float64" else 1e-6, atol=1e-9)
        assert np.allclose(means, slow / np.maximum(count, 1)[:, None], rtol=1e-3, atol=1e-6)


def test_sums_take_memory_for_few_values_at_once() -> None:
    rng = np.random.default_rng(0)
    size, width = 200_000, 64
    data = interactions(rng.integers(40, size=size).tolist(), [0] * size)
    values = rng.normal(size=(size, width)).astype(np.float16)
    split = Split(np.arange(size), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    evidence = Evidence.derive(data, split, "fold", 10, rng)
    for side in (evidence.user, evidence.item):  # the item alone has more reviews than a block
        tracemalloc.start()
        side.mean(values, np.ones(len(side)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < values.nbytes


def test_a_sum_is_exact_beside_neighbours_of_another_size() -> None:
    data = interactions([0, 0, 1, 1], [0, 1, 0, 1])
    split = Split(np.arange(4), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    evidence = Evidence.derive(data, split, "leave_one_out", 2, np.random.default_rng(0))
    values = np.array([[1e6], [2e6], [0.25], [0.5]])
    assert evidence.user.sum(values)[evidence.user.view, 0].tolist() == [2e6, 1e6, 0.5, 0.25]


@given(tables(), seeds, st.integers(2, 12))
@settings(max_examples=150, deadline=None)
def test_folds_are_balanced_within_every_user_and_valid_is_fold_0(
    data: Interactions, seed: int, folds: int
) -> None:
    rng = np.random.default_rng(seed)
    split = any_split(data, rng)
    fold = assign_folds(data, split, folds, rng)
    assert (fold[split.valid] == 0).all()
    assert (fold[split.test] == -1).all()
    assert ((fold[split.train] >= 1) & (fold[split.train] <= folds)).all()
    for user in np.unique(data.user[split.train]):
        mine = fold[split.train][data.user[split.train] == user]
        counts = np.bincount(mine - 1, minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_folds_come_from_the_generator_alone() -> None:
    data = interactions([0, 1, 2, 3] * 10, list(range(8)) * 5)
    split = Split(np.arange(36), np.arange(36, 38), np.arange(38, 40))
    one, same, other = (assign_folds(data, split, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_users_with_one_review_are_spread_over_the_folds() -> None:
    data = interactions(list(range(400)), [0] * 400)
    split = Split(np.arange(400), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    counts = np.bincount(assign_folds(data, split, 4, np.random.default_rng(0)), minlength=5)
    assert counts[1:].min() > 60


def test_folds_by_hand() -> None:
    data = interactions([0, 0, 0, 1], [0, 1, 1, 1])
    fold = np.array([1, 2, 1, -1])
    side = EvidenceViews.excluding(data.user, np.array([0, 1, 2]), fold)
    heard = [sorted(side.members(int(side.view[row])).tolist()) for row in range(4)]
    assert heard == [[1], [0, 2], [1], []]
    assert len(side) == 3
    side = EvidenceViews.excluding(data.item, np.array([0, 1, 2]), fold)
    heard = [sorted(side.members(int(side.view[row])).tolist()) for row in range(4)]
    assert heard == [[], [2], [1], [1, 2]]


def test_the_past_needs_times() -> None:
    data = interactions([0, 0], [0, 1])
    split = Split(np.arange(2), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="needs reviews with times"):
        Evidence.derive(data, split, "past", 2, np.random.default_rng(0))


def test_listed_views_hear_just_their_lists() -> None:
    sets = [np.array([3, 1]), np.array([], dtype=np.int64), np.array([1])]
    side = EvidenceViews.from_lists(np.array([5, 6, 5]), sets)
    assert [one.tolist() for one in side.review_sets()] == [[3, 1], [], [1]]
    assert side.entity.tolist() == [5, 6, 5]
    assert side.view.tolist() == [0, 1, 2]
    assert side.sum(np.arange(8.0).reshape(4, 2)).tolist() == [[8, 10], [0, 0], [2, 3]]


def test_views_that_hear_nothing_sum_to_zero() -> None:
    side = EvidenceViews.from_lists(np.array([0, 1]), [np.zeros(0, dtype=np.int64)] * 2)
    assert side.sum(np.ones((3, 2))).tolist() == [[0, 0], [0, 0]]
