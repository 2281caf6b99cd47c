"""Ranking of lists, worked by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from mmrec.evaluation import ListMetrics, ListTask, full_lists, sampled_lists
from mmrec.evaluation import list_metrics as module

ITEMS = 12
# User 0 knows item 0, likes 1 and 3, dislikes 2; user 1 knows nothing and likes 11; user 2 likes nothing.
TASK = ListTask(
    evidence=np.array([[0, 0], [2, 5], [2, 5]]),
    test=np.array([[0, 3], [0, 1], [0, 2], [1, 11], [2, 6]]),
    liked=np.array([True, True, False, True, False]),
    item_count=ITEMS,
)


def falling(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Every user likes the items in the order of their codes."""
    return -item.astype(np.float64)


def test_full_lists_by_hand() -> None:
    scores = full_lists(falling, TASK, np.random.default_rng(0))
    assert (scores.users, scores.user_codes.tolist()) == (2, [0, 1])
    # User 0's list is 1, 2, 3, ...: likes at ranks 1 and 3. User 1's is 0, 1, ..., 11: a like at rank 12.
    ndcg = (1 + 1 / 2) / (1 + 1 / np.log2(3))
    assert scores.per_user == pytest.approx(np.array([[ndcg, 1, 1], [0, 0, 1 / 12]]))
    assert (scores.ndcg, scores.hit_rate, scores.mrr) == pytest.approx((ndcg / 2, 1 / 2, 13 / 24))


def test_the_tenth_is_a_hit_and_the_eleventh_is_none() -> None:
    none = np.zeros((0, 2), dtype=np.int64)
    for item, hit in ((9, 1.0), (10, 0.0)):
        task = ListTask(none, np.array([[0, item]]), np.array([True]), ITEMS)
        scores = full_lists(falling, task, np.random.default_rng(0))
        assert scores.hit_rate == hit
        assert scores.ndcg == pytest.approx(hit / np.log2(11))
        assert scores.mrr == pytest.approx(1 / (item + 1))


def test_sampled_lists_with_every_negative_by_hand() -> None:
    # Nothing that user 0 reviewed stands in the way of its likes, neither the other like nor the dislike.
    scores = sampled_lists(falling, TASK, np.random.default_rng(0))
    assert scores.user_codes.tolist() == [0, 1]
    assert scores.per_user == pytest.approx(np.array([[1, 1, 1], [0, 0, 1 / 12]]))
    worst = sampled_lists(lambda user, item: item + 0.0, TASK, np.random.default_rng(0))
    assert worst.per_user[0] == pytest.approx([1 / np.log2(10), 1, 1 / 9])


def test_a_user_counts_once_however_many_likes() -> None:
    task = ListTask(
        np.zeros((0, 2), dtype=np.int64),
        np.array([[0, 0], [0, 1], [0, 11], [1, 11]]),
        np.full(4, True),
        ITEMS,
    )
    scores = sampled_lists(falling, task, np.random.default_rng(0))
    # User 0's likes are at ranks 1, 1 and 10 of ten; user 1's at 12 of twelve.
    assert scores.per_user[:, 2] == pytest.approx([(1 + 1 + 1 / 10) / 3, 1 / 12])
    assert scores.mrr == pytest.approx(((1 + 1 + 1 / 10) / 3 + 1 / 12) / 2)


def test_a_known_item_is_not_looked_for_again() -> None:
    task = ListTask(np.array([[0, 4]]), np.array([[0, 4], [0, 1]]), np.full(2, True), ITEMS)
    for lists in (full_lists, sampled_lists):
        scores = lists(falling, task, np.random.default_rng(0))
        # Item 1 stands second, with nothing else to find.
        assert scores.per_user == pytest.approx(np.array([[1 / np.log2(3), 1, 1 / 2]]))
        worst = lists(lambda user, item: item + 0.0, task, np.random.default_rng(0))
        assert worst.mrr == pytest.approx(1 / (ITEMS - 2))  # item 4 is not a candidate
    alone = ListTask(task.evidence, task.test[:1], task.liked[:1], ITEMS)
    assert full_lists(falling, alone, np.random.default_rng(0)).users == 0


def record(task: ListTask, seed: int, noise: int, negatives: int = 5) -> tuple[np.ndarray, ListMetrics]:
    """The candidates that a model with scores at random is asked for, and its figures."""
    asked = []
    rng = np.random.default_rng(noise)

    def score(user: np.ndarray, item: np.ndarray) -> np.ndarray:
        asked.append(np.stack([user, item], axis=1))
        return rng.random(len(user))

    scores = sampled_lists(score, task, np.random.default_rng(seed), negatives)
    return np.concatenate(asked), scores


def any_task(seed: int, items: int = 40) -> ListTask:
    """Some users with a few reviews each."""
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.integers(9, size=90), rng.integers(items, size=90)], axis=1)
    return ListTask(pairs[:50], pairs[50:], rng.random(40) < 0.6, items)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_negatives_are_strangers_each_once_and_the_same_for_every_model(seed: int) -> None:
    task = any_task(seed)
    asked, scores = record(task, seed, 1)
    reviewed = {(int(user), int(item)) for user, item in np.concatenate([task.evidence, task.test])}
    liked = {(int(user), int(item)) for user, item in task.test[task.liked]}
    liked -= {(int(user), int(item)) for user, item in task.evidence}
    rows = [(int(user), int(item)) for user, item in asked]
    assert {row for row in rows if row in reviewed} == liked
    assert len(rows) == 6 * len(liked)
    for start in range(0, len(rows), 6):
        assert len(set(rows[start : start + 6])) == 6
        assert len({user for user, _ in rows[start : start + 6]}) == 1
    assert scores.user_codes.tolist() == sorted({user for user, _ in liked})
    assert np.array_equal(asked, record(task, seed, 2)[0])


def test_other_seeds_draw_other_negatives() -> None:
    assert not np.array_equal(record(any_task(0), 0, 1)[0], record(any_task(0), 1, 1)[0])


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=50, deadline=None)
def test_full_lists_agree_with_sklearn(seed: int, chunk: int) -> None:
    task = any_task(seed)
    taste = np.random.default_rng(seed).permutation(9 * task.item_count).reshape(9, -1) / 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)  # a list or two at a time
        scores = full_lists(lambda user, item: taste[user, item], task, np.random.default_rng(seed))
    known = {user: set(task.evidence[task.evidence[:, 0] == user, 1].tolist()) for user in range(9)}
    expected = []
    for user in range(9):
        liked = set(task.test[task.liked & (task.test[:, 0] == user), 1].tolist()) - known[user]
        if not liked:
            continue
        left = [item for item in range(task.item_count) if item not in known[user]]
        relevant = np.array([item in liked for item in left])
        ndcg = ndcg_score(relevant[None].astype(int), taste[user, left][None], k=10)
        first = np.flatnonzero(relevant[np.argsort(-taste[user, left])])[0]
        expected.append([user, ndcg, first < 10, 1 / (first + 1)])
    assert np.column_stack([scores.user_codes, scores.per_user]) == pytest.approx(np.array(expected))


def test_a_constant_model_ranks_at_random() -> None:
    rng = np.random.default_rng(0)
    pairs = np.stack([np.arange(3000), rng.integers(100, size=3000)], axis=1)
    task = ListTask(pairs[:0], pairs, np.full(3000, True), 100)
    for lists in (full_lists, sampled_lists):
        scores = lists(lambda user, item: np.zeros(len(user)), task, np.random.default_rng(1))
        assert scores.hit_rate == pytest.approx(0.1, abs=0.03)
        assert scores.mrr == pytest.approx((1 / np.arange(1, 101)).mean(), abs=0.02)


def test_at_most_so_many_users_the_same_for_every_model() -> None:
    pairs = np.stack([np.arange(50), np.arange(50) % ITEMS], axis=1)
    task = ListTask(pairs[:0], pairs, np.full(50, True), ITEMS)
    some = full_lists(falling, task, np.random.default_rng(3), max_users=7)
    assert some.users == len(set(some.user_codes.tolist())) == 7
    again = full_lists(lambda user, item: item + 0.0, task, np.random.default_rng(3), max_users=7)
    assert again.user_codes.tolist() == some.user_codes.tolist()
    other = full_lists(falling, task, np.random.default_rng(4), max_users=7)
    assert other.user_codes.tolist() != some.user_codes.tolist()


def test_a_chunk_is_scored_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(module, "_CHUNK", 3 * ITEMS)
    pairs = np.stack([np.arange(7), np.arange(7)], axis=1)
    task = ListTask(pairs[:0], pairs, np.full(7, True), ITEMS)

    def score(user: np.ndarray, item: np.ndarray) -> np.ndarray:
        sizes.append(len(user))
        return falling(user, item)

    full_lists(score, task, np.random.default_rng(0))
    assert sizes == [3 * ITEMS, 3 * ITEMS, ITEMS]


def test_without_likes_there_is_nothing_to_rank() -> None:
    task = ListTask(TASK.evidence, TASK.test, np.full(5, False), ITEMS)
    for lists in (full_lists, sampled_lists):
        scores = lists(falling, task, np.random.default_rng(0))
        assert scores.users == len(scores.user_codes) == len(scores.per_user) == 0
        assert np.isnan([scores.ndcg, scores.hit_rate, scores.mrr]).all()


def test_who_has_reviewed_all_items_is_not_asked() -> None:
    """A list of nothing but likes would be right in any order."""
    everything = np.stack([np.zeros(ITEMS, dtype=np.int64), np.arange(ITEMS)], axis=1)
    task = ListTask(everything[1:], np.array([[0, 0], [1, 3]]), np.array([True, True]), ITEMS)
    for made in (full_lists, sampled_lists):
        assert made(falling, task, np.random.default_rng(0)).user_codes.tolist() == [1]
