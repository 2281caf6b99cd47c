"""Metrics of ranked lists, worked by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from mmrec.evaluation.list_metrics import ListTask, full_lists, sampled_lists

ITEMS = 12
NO_PAIRS = np.zeros((0, 2), dtype=np.int64)
# User 0 has reviewed item 0, likes 1 and 3, dislikes 2; user 1 likes 11; user 2 likes nothing.
TASK = ListTask(
    evidence=np.array([[0, 0], [2, 5], [2, 5]]),
    test=np.array([[0, 3], [0, 1], [0, 2], [1, 11], [2, 6]]),
    liked=np.array([True, True, False, True, False]),
    item_count=ITEMS,
)


def low_codes_first(user, item):
    """Items in the order of their codes, for every user."""
    return -item.astype(np.float64)


def high_codes_first(user, item):
    return item.astype(np.float64)


def all_liked(pairs, items=ITEMS):
    return ListTask(NO_PAIRS, np.array(pairs), np.full(len(pairs), True), items)


def recorder(scorer=low_codes_first):
    """A scorer, and the list of (n, 2) pairs of its calls."""
    calls = []

    def score(user, item):
        calls.append(np.stack([user, item], axis=1))
        return scorer(user, item)

    return score, calls


def users_of(calls):
    return np.unique(np.concatenate(calls)[:, 0]).tolist()


def test_full_and_sampled_lists_by_hand():
    # User 0's list is 1, 2, 3, ...: likes at ranks 1 and 3. User 1's is 0, 1, ..., 11: a like at rank 12.
    ndcg = (1 + 1 / 2) / (1 + 1 / np.log2(3))
    metrics = full_lists(low_codes_first, TASK, np.random.default_rng(0))
    assert metrics == pytest.approx((ndcg / 2, 1 / 2, (1 + 1 / 12) / 2, 2))
    # Sampled with every negative: no item that user 0 reviewed, neither the other like nor the dislike.
    metrics = sampled_lists(low_codes_first, TASK, np.random.default_rng(0))
    assert metrics == pytest.approx((1 / 2, 1 / 2, (1 + 1 / 12) / 2, 2))
    # Reversed, the likes of user 0 are at rank 9 of 9, that of user 1 is at rank 1.
    metrics = sampled_lists(high_codes_first, TASK, np.random.default_rng(0))
    assert metrics == pytest.approx(((1 / np.log2(10) + 1) / 2, 1, (1 / 9 + 1) / 2, 2))


@pytest.mark.parametrize("lists", [full_lists, sampled_lists])
def test_an_item_of_the_evidence_is_neither_looked_for_nor_a_candidate(lists):
    task = ListTask(np.array([[0, 4]]), np.array([[0, 4], [0, 1]]), np.full(2, True), ITEMS)
    metrics = lists(low_codes_first, task, np.random.default_rng(0))
    assert metrics == pytest.approx((1 / np.log2(3), 1, 1 / 2, 1))  # item 1 is second
    assert lists(high_codes_first, task, np.random.default_rng(0)).mrr == pytest.approx(1 / (ITEMS - 2))
    alone = ListTask(task.evidence, task.test[:1], task.liked[:1], ITEMS)
    assert lists(low_codes_first, alone, np.random.default_rng(0)).users == 0


def random_task(seed, items=40):
    """Nine users with a few reviews each."""
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.integers(9, size=90), rng.integers(items, size=90)], axis=1)
    return ListTask(pairs[:50], pairs[50:], rng.random(40) < 0.6, items)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_negatives_are_unreviewed_and_distinct_and_the_same_for_every_model(seed):
    task = random_task(seed)
    evidence = set(map(tuple, task.evidence.tolist()))
    liked = set(map(tuple, task.test[task.liked].tolist())) - evidence
    pairs_of_models = []
    for sampling_seed, noise in ((seed, 1), (seed, 2), (seed + 1, 1)):
        rng = np.random.default_rng(noise)
        scorer, calls = recorder(lambda user, item, rng=rng: rng.random(len(user)))
        metrics = sampled_lists(scorer, task, np.random.default_rng(sampling_seed), negatives=5)
        assert metrics.users == len(users_of(calls))
        pairs_of_models.append(list(map(tuple, np.concatenate(calls).tolist())))
    rows, again, other_seed = pairs_of_models
    assert {row for row in rows if row in evidence | set(map(tuple, task.test.tolist()))} == liked
    assert len(rows) == 6 * len(liked) > 0
    for start in range(0, len(rows), 6):
        assert len(set(rows[start : start + 6])) == 6
        assert len({user for user, _ in rows[start : start + 6]}) == 1
    assert rows == again != other_seed


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=50, deadline=None)
def test_full_lists_agree_with_sklearn(seed, pairs_per_call):
    task = random_task(seed)
    scores = np.random.default_rng(seed).permutation(9 * task.item_count).reshape(9, -1) / 100
    rng, options = np.random.default_rng(seed), {"pairs_per_call": pairs_per_call}
    metrics = full_lists(lambda user, item: scores[user, item], task, rng, **options)
    expected = []
    for user in range(9):
        reviewed = set(task.evidence[task.evidence[:, 0] == user, 1].tolist())
        liked = set(task.test[task.liked & (task.test[:, 0] == user), 1].tolist()) - reviewed
        if liked:
            candidates = [item for item in range(task.item_count) if item not in reviewed]
            relevant = np.array([item in liked for item in candidates])
            ndcg = ndcg_score(relevant[None].astype(int), scores[user, candidates][None], k=10)
            first = np.flatnonzero(relevant[np.argsort(-scores[user, candidates])])[0]
            expected.append([ndcg, first < 10, 1 / (first + 1)])
    assert metrics == pytest.approx((*np.mean(expected, axis=0), len(expected)))


@pytest.mark.parametrize("lists", [full_lists, sampled_lists])
def test_a_constant_model_ranks_at_random(lists):
    items = np.random.default_rng(0).integers(100, size=3000)
    task = all_liked(np.stack([np.arange(3000), items], axis=1), 100)
    metrics = lists(lambda user, item: np.zeros(len(user)), task, np.random.default_rng(1))
    assert metrics.hit_rate == pytest.approx(0.1, abs=0.03)
    assert metrics.mrr == pytest.approx((1 / np.arange(1, 101)).mean(), abs=0.02)


def test_full_lists_take_the_same_random_users_for_every_model():
    task = all_liked(np.stack([np.arange(50), np.arange(50) % ITEMS], axis=1))
    users = []
    for scorer, seed in ((low_codes_first, 3), (high_codes_first, 3), (low_codes_first, 4)):
        scorer, calls = recorder(scorer)
        assert full_lists(scorer, task, np.random.default_rng(seed), max_users=7).users == 7
        users.append(users_of(calls))
    assert len(users[0]) == 7
    assert users[0] == users[1] != users[2]


def test_so_many_pairs_are_scored_in_a_call():
    task, (scorer, calls) = all_liked([(user, user) for user in range(7)]), recorder()
    full_lists(scorer, task, np.random.default_rng(0), pairs_per_call=3 * ITEMS)
    assert [len(pairs) for pairs in calls] == [3 * ITEMS, 3 * ITEMS, ITEMS]


@pytest.mark.parametrize("lists", [full_lists, sampled_lists])
def test_a_user_who_has_reviewed_all_items_is_left_out(lists):
    """A list of likes alone would be right in any order."""
    all_items = np.stack([np.zeros(ITEMS, dtype=np.int64), np.arange(ITEMS)], axis=1)
    task = ListTask(all_items[1:], np.array([[0, 0], [1, 3]]), np.array([True, True]), ITEMS)
    scorer, calls = recorder()
    assert lists(scorer, task, np.random.default_rng(0)).users == 1
    assert users_of(calls) == [1]
    # Without likes the metrics are nan.
    no_likes = ListTask(TASK.evidence, TASK.test, np.full(5, False), ITEMS)
    metrics = lists(low_codes_first, no_likes, np.random.default_rng(0))
    assert metrics.users == 0
    assert np.isnan(metrics[:3]).all()
