"""Peers that make lists: their formulas, the structure that they find, and that they see no test visit."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmrec.evaluation.list_metrics import ListTask, list_metrics
from mmrec.experiments import list_peers
from mmrec.experiments.list_peers import LIST_PEERS, make_peer_lists, top_items
from review_tables import interactions

USERS, ITEMS = 60, 40


def random_visits(share=0.2, seed=0):
    dense = (np.random.default_rng(seed).random((USERS, ITEMS)) < share).astype(np.float32)
    dense[0] = 0  # a user without visits, and an item without visitors
    dense[:, 3] = 0
    return dense, csr_matrix(dense)


def test_peers_of_items_follow_their_formulas():
    dense, visits = random_visits()
    together, visitors = dense.T @ dense, dense.sum(0)
    rows = np.array([4, 0, 4, 17])

    def without_diagonal(matrix):
        np.fill_diagonal(matrix, 0)
        return dense[rows] @ matrix

    assert list_peers.popularity(visits)(rows).tolist() == [visitors.tolist()] * 4
    norm = visitors[:, None] ** 0.7 * visitors**0.3 + 20
    expected = without_diagonal(together / norm)
    assert list_peers.item_knn(visits, 0.7, 20)(rows) == pytest.approx(expected, rel=1e-5)
    to_user = dense.T / np.maximum(visitors, 1)[:, None]
    to_item = dense / np.maximum(dense.sum(1, keepdims=True), 1)
    expected = without_diagonal((to_user**0.7 @ to_item**0.7) / np.maximum(visitors, 1) ** 0.4)
    assert list_peers.rp3beta(visits, 0.7, 0.4)(rows) == pytest.approx(expected, rel=1e-5)
    # EASE: each item is the ridge regression on the others.
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = np.delete(np.arange(ITEMS), item)
        gram = together[np.ix_(others, others)] + 50 * np.eye(ITEMS - 1)
        weights[others, item] = np.linalg.solve(gram, together[others, item])
    assert list_peers.ease(visits, 50)(rows) == pytest.approx(dense[rows] @ weights, abs=1e-5)


@pytest.mark.parametrize("max_cells", [1, 3 * ITEMS, 1 << 20])
def test_top_items_are_the_best_unvisited_ones_in_chunks_of_any_size(max_cells, monkeypatch):
    monkeypatch.setattr(list_peers, "_BLOCK_CELLS", max_cells)
    dense, visits = random_visits(0.7)
    dense[5] = 1
    visits = csr_matrix(dense)
    scores = np.random.default_rng(1).integers(4, size=(USERS, ITEMS)).astype(float)  # with ties
    users = np.array([2, 5, 9, 0, 41])
    top = top_items(lambda rows: scores[rows].copy(), visits, users, 15)
    assert top.shape == (5, 15)
    for user, row in zip(users, top, strict=True):
        unvisited = np.flatnonzero(dense[user] == 0)
        listed = row[row >= 0]
        assert len(listed) == len(set(listed)) == min(15, len(unvisited))
        assert (row[len(listed) :] == -1).all()
        assert set(listed) <= set(unvisited)
        assert scores[user, listed].tolist() == sorted(scores[user, unvisited], reverse=True)[:15]
    assert (top[1] == -1).all()
    assert top_items(lambda rows: scores[rows].copy(), visits, users, ITEMS + 5)[0, -1] == -1


def city(noise=0.0):
    """Reviews of users who go to items of their own half, but for a share of `noise`; and three parts."""
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(USERS), 12), []
    for code in range(USERS):
        half = rng.permutation(ITEMS // 2)[:12] * 2 + code % 2
        item.append(np.where(rng.random(12) < noise, rng.integers(ITEMS, size=12), half))
    data = interactions(user.tolist(), np.concatenate(item).tolist())
    parts = np.split(rng.permutation(len(data)), [480, 600])
    return data, rng.random(len(data)) < 0.8, *parts


def tasks(data, label, train, valid, test):
    before = ListTask.from_rows(data, label, train, valid)
    return before, ListTask.from_rows(data, label, np.concatenate([train, valid]), test)


def test_tuned_peers_find_tastes_that_popularity_does_not():
    pytest.importorskip("implicit")
    valid, test = tasks(*city())
    peers = make_peer_lists(valid, test, 0, slow=True)
    assert peers.remarks == []
    assert list(peers.top) == list(peers.settings) == list(LIST_PEERS)
    recall = {name: list_metrics(top, test).recall for name, top in peers.top.items()}
    # Eight unvisited items of one's own half fill the list; popularity spends half of it on the other.
    assert recall.pop("popularity") < 0.75
    assert min(recall.values()) > 0.9, recall
    for name, settings in peers.settings.items():
        assert all(value in LIST_PEERS[name].grid[key] for key, value in settings.items())
    again = make_peer_lists(valid, test, 0, slow=True)
    assert all(np.array_equal(top, again.top[name]) for name, top in peers.top.items())


def test_peers_are_blind_to_test_visits():
    data, label, *parts = city()
    valid, test = tasks(data, label, *parts)
    before = make_peer_lists(valid, test, 0, slow=False)
    item, flipped = data.item.copy(), label.copy()
    item[parts[2]] = (item[parts[2]] + 1) % ITEMS
    flipped[parts[2]] = True
    other_valid, other_test = tasks(replace(data, item=item), flipped, *parts)
    assert other_test.liked.tolist() != test.liked.tolist()
    after = make_peer_lists(other_valid, other_test, 0, slow=False)
    assert before.settings == after.settings
    common = np.intersect1d(test.users, other_test.users)
    assert len(common) > USERS / 2
    for name, top in before.top.items():
        rows, others = np.isin(test.users, common), np.isin(other_test.users, common)
        assert np.array_equal(top[rows], after.top[name][others]), name


def test_settings_are_those_of_the_highest_recall_on_validation():
    valid, test = tasks(*city(0.5))
    recalls = {}
    for beta in (0, 0.2, 0.4, 0.6):
        for alpha in (0.3, 0.5, 0.7, 1):
            scorer = list_peers.rp3beta(valid.visits, alpha, beta)
            recalls[alpha, beta] = list_metrics(top_items(scorer, valid.visits, valid.users), valid).recall
    chosen = make_peer_lists(valid, test, 0, slow=False).settings["RP3beta"]
    assert recalls[chosen["alpha"], chosen["beta"]] == max(recalls.values()) > min(recalls.values())


def test_slow_peers_are_left_out_unless_asked_for_and_missing_libraries_are_named(monkeypatch):
    valid, test = tasks(*city())
    assert list(make_peer_lists(valid, test, 0, slow=False).top) == [
        "popularity",
        "item-kNN",
        "RP3beta",
        "EASE",
    ]
    monkeypatch.setitem(LIST_PEERS, "EASE", LIST_PEERS["EASE"]._replace(quick_items=10, max_items=20))
    for module in ("implicit.als", "implicit.bpr"):
        monkeypatch.setitem(sys.modules, module, None)
    assert list(make_peer_lists(valid, test, 0, slow=False).top) == ["popularity", "item-kNN", "RP3beta"]
    peers = make_peer_lists(valid, test, 0, slow=True)
    assert list(peers.top) == ["popularity", "item-kNN", "RP3beta"]
    assert [remark.split(":")[0] for remark in peers.remarks] == ["EASE", "ALS", "BPR"]
    assert peers.remarks[0] == f"EASE: left out, too slow for {test.visits.nnz:,} visits of 40 items"
    assert all("mmrec[peers]" in remark for remark in peers.remarks[1:])


@pytest.mark.parametrize("limit", ["_MAX_PAIRS", "_MAX_PAIR_CELLS"])
def test_peers_that_count_pairs_of_visits_are_left_out_where_these_are_too_many(monkeypatch, limit):
    valid, test = tasks(*city())
    history = np.diff(test.visits.indptr)
    pairs = min(history @ history, ITEMS**2) if limit == "_MAX_PAIR_CELLS" else history @ history
    monkeypatch.setattr(list_peers, limit, pairs)
    assert "item-kNN" in make_peer_lists(valid, test, 0, slow=False).top
    monkeypatch.setattr(list_peers, limit, pairs - 1)
    peers = make_peer_lists(valid, test, 0, slow=False)
    assert list(peers.top) == ["popularity", "EASE"]
    assert [remark.split(":")[0] for remark in peers.remarks] == ["item-kNN", "RP3beta"]
    assert f"too slow for {test.visits.nnz:,} visits" in peers.remarks[0]
