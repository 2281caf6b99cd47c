"""Metrics of lists, worked by hand and against scikit-learn and loops."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score

from mmrec.evaluation.list_metrics import (
    JudgedCandidates,
    ListResults,
    ListScores,
    ListTask,
    TradePoint,
    compare_lists,
    list_metrics,
)
from mmrec.evaluation.statistics import as_plain
from review_tables import interactions

ITEMS = 30


def task_of(liked, disliked=(), visits=(), users=4):
    """A task from pairs of user and item."""
    matrix = np.zeros((users, ITEMS), np.float32)
    for user, item in visits:
        matrix[user, item] = 1
    numbers = [
        np.array(sorted(u * ITEMS + i for u, i in pairs), dtype=np.int64) for pairs in (liked, disliked)
    ]
    return ListTask(csr_matrix(matrix), *numbers)


def test_metrics_by_hand():
    every_item = [(3, item) for item in range(20)]  # twenty of thirty items have evidence
    task = task_of([(0, 3), (0, 5), (2, 7)], [(0, 4), (1, 1), (2, 8)], every_item)
    assert task.users.tolist() == [0, 2]
    # User 0's likes are at places 1 and 3, a dislike at 2; user 2's like is not listed, its dislike is.
    top = np.array([[3, 4, 5, 6, -1], [8, 3, 4, -1, -1]])
    ndcg = (1 + 1 / 2) / (1 + 1 / np.log2(3))
    # Seven places, in which two users have items 3 and 4 in common.
    metrics = list_metrics(top, task)
    assert metrics == pytest.approx((1 / 2, ndcg / 2, 1 / 2, 2 / 4, 5 / 20, 1 - 2 / 3.5, 2))
    nothing_listed = list_metrics(np.full((2, 20), -1), task)
    assert nothing_listed == pytest.approx((0, 0, 0, np.nan, 0, np.nan, 2), nan_ok=True)


def test_long_lists_count_twenty_places_and_users_with_many_likes_can_reach_one():
    task = task_of([(0, item) for item in range(25)], visits=[(1, 0)])
    top = np.arange(25)[None]
    assert list_metrics(top, task)[:3] == pytest.approx((1, 1, 1))
    late = np.append(np.arange(25, 30), np.arange(20))[None]  # likes from place 6 on
    assert list_metrics(late, task).recall == pytest.approx(15 / 20)
    assert list_metrics(late, task).mrr == pytest.approx(1 / 6)


def test_a_padded_place_is_no_item_of_the_user_before():
    task = task_of([(0, ITEMS - 1), (1, 3)], [(0, 2)], [(3, 0)])
    assert list_metrics(np.full((2, 20), -1), task).recall == 0


def test_held_out_pairs_of_unknown_users_items_or_of_the_evidence_do_not_count():
    users, items = [0, 1, 0, 0, 0, 2, 1, 1, 0, 0], [0, 1, 1, 0, 2, 1, 0, 0, 1, 1]
    data = interactions(users, items)
    label = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
    task = ListTask.from_rows(data, label, np.arange(2), np.arange(2, 10))
    count = len(data.items)
    # Neither (0, 0), which is evidence, nor item 2 or user 2, who have none.
    assert task.liked.tolist() == [0 * count + 1, 1 * count + 0]
    assert task.disliked.tolist() == [0 * count + 1, 1 * count + 0]  # reviewed twice
    assert task.visits.toarray()[:2, :2].tolist() == [[1, 0], [0, 1]]
    assert task.sample(1, np.random.default_rng(0)).users.tolist() in ([0], [1])
    assert task.sample(9, np.random.default_rng(0)).users.tolist() == [0, 1]
    twice = ListTask.from_rows(data, label, np.array([0, 3]), np.array([2]))
    assert twice.visits.toarray()[0, 0] == 1


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_metrics_agree_with_sklearn_and_loops(seed):
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(6 * ITEMS)[:60]
    pairs = np.stack([numbers // ITEMS, numbers % ITEMS], axis=1)
    liked, disliked, visits = (
        part.tolist() for part in np.split(pairs, np.sort(rng.integers(5, 55, size=2)))
    )
    task = task_of(liked, disliked, visits, users=6)
    scores = rng.permutation(6 * ITEMS).reshape(6, ITEMS)[task.users]
    length = int(rng.integers(10, ITEMS))
    top = np.argsort(-scores, axis=1)[:, :length]
    recall, ndcg, found, bad = [], [], 0, 0
    for user, row, row_scores in zip(task.users.tolist(), top.tolist(), scores, strict=True):
        wanted, unwanted = ({i for u, i in pairs if u == user} for pairs in (liked, disliked))
        hits = [item for item in row[:20] if item in wanted]
        recall.append(len(hits) / min(len(wanted), 20))
        relevant = np.isin(np.arange(ITEMS), [*wanted])
        ndcg.append(ndcg_score(relevant[None].astype(int), row_scores[None], k=10))
        found += len(hits)
        bad += len(unwanted & set(row[:20]))
    metrics = list_metrics(top, task)
    assert metrics[:2] == pytest.approx((np.mean(recall), np.mean(ndcg)))
    assert metrics.dislikes == pytest.approx(bad / (found + bad) if found + bad else np.nan, nan_ok=True)
    tens = [set(row[:10]) for row in top.tolist()]
    common = [len(first & second) / 10 for first, second in permutations(tens, 2)]
    assert metrics.difference == pytest.approx(1 - np.mean(common))
    assert metrics.coverage == len(set().union(*tens)) / np.count_nonzero(task.visits.sum(0))


def make_results(tops, task):
    """`a` and `b` are peers."""
    return ListResults(task, tops, {"a": {}, "b": {"k": 3}}, [TradePoint(0.2, None, 0.5, 0.1)])


def test_lists_are_compared_with_the_peer_of_the_highest_recall_over_the_same_users():
    rng = np.random.default_rng(0)
    users = 300
    task = task_of([(u, 0) for u in range(users)], [(u, 1) for u in range(users)], [(9, 9)], users)
    # The liked item for a third, a half and two thirds of the users, and a dislike by all but ours.
    tops = {}
    for name, share, dislikes in (("a", 1 / 3, 1), ("b", 1 / 2, 1), ("ours", 2 / 3, 0)):
        found = rng.random(users) < share
        tops[name] = np.stack([np.where(found, 0, 2), np.full(users, 1 if dislikes else 3)], axis=1)
    comparison = compare_lists(make_results(tops, task), rounds=200)
    assert (comparison.own, comparison.reference) == ("ours", "b")
    gap, value = comparison.differences["ours"], comparison.intervals["ours"]
    for metric in ("recall", "ndcg", "dislikes"):
        of_ours, of_b = (getattr(comparison.metrics[name], metric) for name in ("ours", "b"))
        assert value[metric].mean == pytest.approx(of_ours)
        assert gap[metric].mean == pytest.approx(of_ours - of_b)
        assert gap[metric].low <= gap[metric].mean <= gap[metric].high
    # The variance of a difference of two independent shares.
    deviation = np.sqrt((2 / 9 + 1 / 4) / users)
    assert gap["recall"].high - gap["recall"].low == pytest.approx(2 * 1.96 * deviation, rel=0.25)
    assert gap["recall"].low > 0 > gap["dislikes"].high
    assert comparison.differences["b"]["recall"].interval == (0,)
    as_json = as_plain(vars(comparison))
    assert as_json["metrics"]["ours"]["users"] == users
    assert as_json["trade"] == [{"caution": 0.2, "max_fpr": None, "recall": 0.5, "dislikes": 0.1}]


def test_without_liked_test_reviews_there_is_nothing_to_compare():
    task = task_of([], [(0, 1)])
    tops = dict.fromkeys(("a", "b", "ours"), np.zeros((0, 20), dtype=np.int64))
    comparison = compare_lists(make_results(tops, task))
    assert comparison.metrics["ours"] == pytest.approx((*[np.nan] * 6, 0), nan_ok=True)
    assert comparison.intervals == comparison.differences == {"a": {}, "b": {}, "ours": {}}


def test_the_trade_is_that_of_the_lists_of_every_setting():
    task = task_of([(0, 1)], [(0, 2)], [(3, 3)])
    items, choice = np.array([[2, 1, 3]]), np.array([[1.0, 0.5, 0.0]])
    candidates = JudgedCandidates(items, choice, np.array([[0.3, 0.7, 0.5]]), 0.5)
    points = candidates.trade([0, 2], {None: 0.0, 0.2: 0.4, 0.1: 0.8}, task)
    assert points == [
        *[(0, None, 1, 0.5), (0, 0.2, 1, 0), (0, 0.1, 0, pytest.approx(np.nan, nan_ok=True))],
        *[(2, None, 1, 0.5), (2, 0.2, 1, 0), (2, 0.1, 0, pytest.approx(np.nan, nan_ok=True))],
    ]
    assert ListScores.judge(np.array([[1, 2]]), task).fractions("dislikes")[1].tolist() == [2]


def test_candidates_are_ordered_by_choice_and_caution_and_filtered_by_probability():
    items = np.array([[7, 5, 9, 2], [4, 1, -1, -1]])
    choice = np.array([[3.0, 2.0, 1.0, 0.0], [1.0, 0.9, 0.0, 0.0]])
    probability = np.array([[0.5, 0.5, 0.9, 0.2], [0.4, 0.6, 0.0, 0.0]])
    candidates = JudgedCandidates(items, choice, probability, 0.5)
    assert candidates.lists(0).tolist() == items.tolist()
    # The odds of a dislike are 1, 1, .1 and 4; 1.5 and .7.
    assert candidates.lists(1).tolist() == [[7, 5, 9, 2], [1, 4, -1, -1]]
    assert candidates.lists(3).tolist() == [[9, 7, 5, 2], [1, 4, -1, -1]]
    # Where dislikes are rare, an odds ratio is higher.
    rare = replace(candidates, like_rate=0.75)
    assert rare.lists(1).tolist() == candidates.lists(3).tolist() != candidates.lists(1).tolist()
    assert candidates.lists(1e308).tolist() == [[9, 7, 5, 2], [1, 4, -1, -1]]
    assert candidates.lists(3, 0.5).tolist() == [[9, 7, 5, -1], [1, -1, -1, -1]]
    many = JudgedCandidates(*(np.tile(values[:1], 10) for values in (items, choice, probability)), 0.5)
    assert many.lists(0).shape == (1, 20)
