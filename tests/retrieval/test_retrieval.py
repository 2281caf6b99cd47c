"""Candidates: matrices equal plain formulas, and the blend is learned from visits nobody has seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix

from checkerboard import checkerboard
from mmrec.recommender.saved_arrays import read_arrays, retrieval_specs
from mmrec.retrieval import co_visits, factors
from mmrec.retrieval import retrieval as retrieval_module
from mmrec.retrieval.blend import _PROPOSED, fit_weights, input_names, propose
from mmrec.retrieval.histories import Histories, TopicAxes, Visits, unit_rows, visit_matrix
from mmrec.retrieval.proposers import PROPOSER_NAMES, SIMILARITIES, Proposers
from mmrec.retrieval.retrieval import Retrieval

USERS, ITEMS, TOPICS = 60, 40, 6


def random_visits(users=USERS, items=ITEMS, share=0.2, seed=0):
    """A random part of all pairs; two thirds are liked, and texts are noise."""
    rng = np.random.default_rng(seed)
    user, item = (rng.random((users, items)) < share).nonzero()
    topics = rng.normal(size=(len(user), TOPICS)).astype(np.float32)
    return Visits(user, item, rng.random(len(user)) < 2 / 3, topics, users, items)


def axes(topics=TOPICS):
    """Vectors are topics themselves."""
    return TopicAxes(np.zeros(topics, np.float32), np.eye(topics, dtype=np.float32))


@pytest.fixture(scope="module")
def fitted():
    return Retrieval.fit(random_visits(), axes(), seed=1)


@pytest.mark.parametrize("users", [6, 200])
def test_unknown_users_get_what_is_popular_also_where_everybody_has_visited_much(users):
    rng = np.random.default_rng(5)
    share = rng.permutation(np.linspace(0.05, 0.6, ITEMS))  # codes of items say nothing
    user, item = (rng.random((users, ITEMS)) < share).nonzero()
    assert np.bincount(user).min() >= 6
    topics = rng.normal(size=(len(user), TOPICS)).astype(np.float32)
    visits = Visits(user, item, rng.random(len(user)) < 0.8, topics, users, ITEMS)
    nothing = csr_matrix((1, ITEMS), dtype=np.float32)
    unknown = Histories(nothing, nothing, np.zeros((1, TOPICS), np.float32))
    ((items, _),) = Retrieval.fit(visits, axes(), seed=0).candidates(unknown, ITEMS)
    count = np.bincount(item, minlength=ITEMS)[items]
    assert np.corrcoef(count, -np.arange(ITEMS))[0, 1] > 0.8


def check_highest(similarity, expected, kept):
    """Each row holds the highest values of the expected one, but for the item itself."""
    expected = expected.copy()
    np.fill_diagonal(expected, 0)
    dense = similarity.toarray()
    assert np.diagonal(dense).any() == 0
    stored = dense > 0
    assert dense[stored] == pytest.approx(expected[stored], rel=1e-5)
    best = -np.sort(-expected, axis=1)[:, :kept]
    assert -np.sort(-dense, axis=1)[:, :kept] == pytest.approx(best, rel=1e-5)
    assert stored.sum(1).max() <= kept < len(dense)


@pytest.mark.parametrize("block_cells", [1 << 24, 300, 1])
@pytest.mark.parametrize("kept", [5, 30])
def test_similarities_of_visits_are_their_formulas_in_blocks_of_any_size(monkeypatch, block_cells, kept):
    monkeypatch.setattr(co_visits, "_BLOCK_CELLS", block_cells)
    monkeypatch.setattr(co_visits, "_NEIGHBORS", kept)
    monkeypatch.setattr(co_visits, "_TEXT_NEIGHBORS", kept)
    visits = random_visits()
    matrix = Histories.from_visits(visits).visits
    matrix.data[matrix.indices == 7] = 0  # an item that nobody visited
    matrix.eliminate_zeros()
    dense = matrix.toarray().astype(np.float64)
    weight = np.maximum(dense.sum(1, keepdims=True), 1) ** -0.6
    weighted = dense * weight  # (n, m)
    count, both = weighted.sum(0), dense.T @ weighted
    shrinkage = 20 * weighted.sum() / dense.sum()
    cosine = both / (count[:, None] ** 0.7 * count**0.3 + shrinkage)
    check_highest(co_visits.co_visit_similarity(matrix), cosine, kept)
    step = (dense / np.maximum(dense.sum(0), 1) ** 0.7).T
    walks = step @ (dense / np.maximum(dense.sum(1, keepdims=True), 1) ** 0.7)
    check_highest(co_visits.walk_similarity(matrix), walks, kept)
    vectors = visits.topics[:ITEMS] / np.linalg.norm(visits.topics[:ITEMS], axis=1, keepdims=True)
    # The nearest others of each item are in its column, and none is negative.
    check_highest(co_visits.text_similarity(vectors).T, np.maximum(vectors @ vectors.T, 0), kept)


@pytest.mark.parametrize("block_cells", [1 << 24, 5000])
def test_nearest_texts_of_many_items_are_almost_those_of_all_pairs(monkeypatch, block_cells):
    monkeypatch.setattr(co_visits, "_BLOCK_CELLS", block_cells)
    rng = np.random.default_rng(3)
    topics = rng.standard_normal((60, 16))[np.arange(2000) % 60] + rng.standard_normal((2000, 16)) / 2
    topics[::10] = 0  # items without texts
    topics[5::20] = topics[5]  # the same text
    vectors = unit_rows(topics.astype(np.float32))
    exact = co_visits.text_similarity(vectors).toarray()
    monkeypatch.setattr(co_visits, "_EXACT_TEXTS", 1000)
    found = co_visits.text_similarity(vectors).toarray()
    assert not found.diagonal().any()
    assert not found[::10].any()
    assert not found[:, ::10].any()
    start, end = found.nonzero()
    assert found[start, end] == pytest.approx((vectors @ vectors.T)[start, end], abs=1e-5)
    assert ((found > 0).sum(0) <= 30).all()
    assert 0.98 < found.sum() / exact.sum() < 1  # fewer pairs were compared
    assert co_visits.text_similarity(np.zeros((50, 16), np.float32)).nnz == 0


def test_long_histories_are_cut_at_random_and_others_stay(monkeypatch):
    visits = Histories.from_visits(random_visits()).visits
    assert co_visits.limit_histories(visits, np.random.default_rng(0)) is visits
    monkeypatch.setattr(co_visits, "_MAX_HISTORY", 8)
    limited = co_visits.limit_histories(visits, np.random.default_rng(0))
    count, before = np.diff(limited.indptr), np.diff(visits.indptr)
    assert (count[before <= 8] == before[before <= 8]).all()
    assert before[before > 8].mean() > 8.5
    assert count[before > 8].mean() == pytest.approx(8, abs=1)
    assert (limited.toarray() <= visits.toarray()).all()


def test_factors_keep_the_directions_in_which_visits_vary_most(monkeypatch):
    monkeypatch.setattr(factors, "RANKS", (2, 6))
    visits = Histories.from_visits(random_visits()).visits
    visits.data[: visits.indptr[1]] = 0
    visits.eliminate_zeros()
    count = np.asarray(visits.sum(0)).ravel()
    item_factors = factors.fit_item_factors(visits, seed=2)
    user_scale = np.maximum(np.asarray(visits.sum(1)), 1) ** 0.3
    scaled = visits.toarray() / user_scale / np.maximum(count, 1) ** 0.5
    expected = np.linalg.svd(scaled)[2][:6]
    # Singular values 6 and 7 are alike, so a few rounds find what is nearly as good.
    kept = np.square(scaled @ item_factors).sum() / np.square(scaled @ expected.T).sum()
    assert 0.99 < kept <= 1.0001
    scale = np.maximum(count, 1)[None] ** 0.5
    for rank, scores in zip((2, 6), factors.factor_scores(visits, item_factors, count), strict=True):
        projection = item_factors[:, :rank] @ item_factors[:, :rank].T
        assert scores == pytest.approx((visits.toarray() / scale) @ projection * scale, abs=1e-5)
        assert not scores[0].any()


def test_candidates_are_allowed_unvisited_items_and_the_best_of_each_proposer(fitted, monkeypatch):
    monkeypatch.setattr("mmrec.retrieval.blend._PROPOSED", 3)
    histories = Histories.from_visits(random_visits())
    visited, allowed = histories.visits.toarray() > 0, np.arange(ITEMS) % 3 > 0
    scores = fitted.proposers.scores(histories)
    for limit, visited_too, some in ((0, False, None), (5, True, allowed), (ITEMS, False, allowed)):
        pairs, inputs = propose(fitted.proposers, histories, limit, some, visited_too=visited_too)
        is_open = np.ones_like(visited) if visited_too else ~visited
        is_open = is_open & (True if some is None else some)
        found = np.zeros_like(is_open)
        found[tuple(pairs.T.numpy())] = True
        open_scores = np.where(is_open, scores, -np.inf)
        last = -np.sort(-open_scores, axis=2)[:, :, [max(3, limit) - 1]]  # equal scores may tie with it
        assert not (found & ~(is_open & (scores >= last).any(0))).any()
        assert found[(open_scores > last).any(0)].all()
        assert 0 < found.sum() <= is_open.sum()
        assert inputs.shape == (len(pairs), len(input_names(fitted.proposers.names)))
        assert torch.isfinite(inputs).all()
    for row, (items, score) in enumerate(fitted.candidates(histories, 5, allowed)):
        assert len(items) == len({*items}) == 5
        assert allowed[items].all()
        assert not visited[row, items].any()
        assert (np.diff(score) <= 0).all()


def test_batches_of_any_size_find_the_same_lists(fitted, monkeypatch):
    histories = Histories.from_visits(random_visits())
    together = fitted.candidates(histories, 7)
    monkeypatch.setattr(retrieval_module, "_BATCH_CELLS", 3 * ITEMS)
    assert _PROPOSED > ITEMS  # so all items are candidates
    for first, second in zip(together, fitted.candidates(histories, 7), strict=True):
        assert first[0].tolist() == second[0].tolist()
        assert first[1] == pytest.approx(second[1], abs=5e-3)


def test_weights_find_the_proposer_that_tells_choices_and_few_targets_leave_plain_ones():
    rng, lists = np.random.default_rng(0), torch.arange(200).repeat_interleave(20)
    inputs = torch.from_numpy(rng.normal(size=(4000, 9)).astype(np.float32)) * torch.arange(1, 10)
    strength = 2 * inputs[:, 3] / inputs[:, 3].std()
    choice = (strength + torch.from_numpy(rng.gumbel(size=4000))).view(200, 20).argmax(1)
    chosen = torch.zeros(200, 20).scatter_(1, choice[:, None], 1.0).flatten()
    plain = torch.arange(9) % 2.0
    weights = fit_weights(lists, inputs, chosen, plain)
    effect = weights * inputs.std(0)
    assert effect.abs().argmax() == 3
    assert 1.0 < effect[3] < 2.2  # shrunk by the penalty
    assert effect[np.arange(9) != 3].abs().max() < 0.2
    few = fit_weights(lists[:400], inputs[:400], chosen[:400], plain)
    assert few.tolist() == plain.tolist()


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Visits at random, of which even users like even items, odd ones odd ones; texts tell nothing."""
    table = checkerboard(tmp_path_factory.mktemp("board")).table
    user, item = (table[name].str.slice(1).cast(int).to_numpy() for name in ("user", "item"))
    topics = np.random.default_rng(1).normal(size=(len(user), TOPICS)).astype(np.float32)
    return Visits(user, item, (table["rating"] >= 4).to_numpy(), topics, 28, 28)


def test_lists_follow_likes_where_visits_tell_nothing(board):
    fitted = Retrieval.fit(board, axes(), seed=1)
    hits = []
    for user, (items, _) in enumerate(fitted.candidates(Histories.from_visits(board), 4)):
        hits.extend(items % 2 == user % 2)
    plain = replace(fitted, weights=(np.arange(len(fitted.weights)) < 8).astype(np.float32))
    plain_hits = []
    for user, (items, _) in enumerate(plain.candidates(Histories.from_visits(board), 4)):
        plain_hits.extend(items % 2 == user % 2)
    assert np.mean(hits) > 0.9
    assert np.mean(plain_hits) < np.mean(hits)


def test_visitors_texts_are_what_they_write_of_other_items():
    visits = random_visits(share=0.05)
    expected, directions = np.zeros((ITEMS, TOPICS)), {}
    for row, user in enumerate(visits.user):
        others = (visits.user == user) & (np.arange(len(visits.user)) != row)
        if others.any():
            total = visits.topics[others].sum(0)
            directions[row] = total / np.linalg.norm(total)
    assert 10 < len(directions) < len(visits.user)  # the others have written once
    for row, direction in directions.items():
        expected[visits.item[row]] += direction - np.mean([*directions.values()], axis=0)
    assert Proposers.fit(visits, 0).visitor_topics == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("who", ["visitors", "items"])
def test_texts_alone_lead_to_what_those_who_write_so_like(board, who):
    """Texts tell who is even; or which item is."""
    parity = {"visitors": board.user, "items": board.item}[who] % 2
    topics = board.topics.copy()
    topics[:, 0] += 20 * (parity - 0.5)
    likes = board.rows(board.liked)
    fitted = Retrieval.fit(replace(likes, topics=topics[board.liked]), axes(), seed=1)
    texts = Histories.from_visits(replace(board, topics=topics)).rows(np.arange(2)).texts_alone()
    texts = replace(texts, topics=np.array([[-9.0, *np.zeros(5)], [9.0, *np.zeros(5)]], np.float32))
    for is_odd, (items, _) in enumerate(fitted.candidates(texts, 8)):
        assert np.mean(items % 2 == is_odd) > 0.9
    names = input_names(fitted.proposers.names)
    first = names.index("texts for texts alone")
    assert fitted.weights[first : first + 2].max() > 0.1


def test_weights_are_learned_from_liked_visits_that_proposers_have_not_seen(board, monkeypatch):
    fits, lists, original, make = {}, [], Proposers.fit, retrieval_module._training_lists

    def fit(visits, seed):
        proposers = original(visits, seed)
        fits[id(proposers)] = (proposers, {*zip(visits.user.tolist(), visits.item.tolist(), strict=True)})
        return proposers

    def training_lists(proposers, histories, wanted, rng, *, by_texts=False):
        parts = make(proposers, histories, wanted, rng, by_texts=by_texts)
        lists.append((proposers, histories, wanted, sum(float(part[2].sum()) for part in parts)))
        return parts

    monkeypatch.setattr(Proposers, "fit", fit)
    monkeypatch.setattr(retrieval_module, "_training_lists", training_lists)
    fitted = Retrieval.fit(board, axes(), seed=1)
    every, found = {*zip(board.user.tolist(), board.item.tolist(), strict=True)}, []
    for proposers, histories, wanted, targets in lists:
        pairs, seen = [*zip(wanted.user.tolist(), wanted.item.tolist(), strict=True)], fits[id(proposers)][1]
        assert wanted.liked.all()
        assert not seen & {*pairs}
        assert seen == {*zip(*(axis.tolist() for axis in histories.visits.nonzero()), strict=True)}
        assert targets == len(pairs) > 30  # all of them are candidates of 28 items
        found += pairs
    liked = {*zip(board.user[board.liked].tolist(), board.item[board.liked].tolist(), strict=True)}
    assert sorted(found) == sorted([*liked] * 3)  # by visits, texts alone, and nothing
    assert fits[id(fitted.proposers)][1] == every


def test_a_proposer_that_remembers_visits_gets_no_weight(board, monkeypatch):
    """It would get all weight if it were fitted on the visits that are to be found."""
    original, score = Proposers.fit, Proposers.scores
    owned = replace(board, topics=np.eye(28, dtype=np.float32)[board.user])  # names the user

    def share_of_memory(leak):
        def fit(visits, seed):
            proposers = original(visits, seed)
            remembered = owned if leak else visits
            matrix = visit_matrix(remembered.user, remembered.item, (28, 28)).toarray()
            object.__setattr__(proposers, "memory", matrix)
            return proposers

        def scores(proposers, histories):
            values = score(proposers, histories)
            values[-2] = proposers.memory[histories.topics.argmax(1)]
            return values

        monkeypatch.setattr(Proposers, "fit", fit)
        monkeypatch.setattr(Proposers, "scores", scores)
        fitted = Retrieval.fit(owned, axes(28), seed=1)
        names = input_names(fitted.proposers.names)
        return fitted.weights[[names.index(f"{rank}visitors' texts") for rank in ("", "rank by ")]]

    assert share_of_memory(leak=False) == pytest.approx([0, 0], abs=0.05)
    assert np.abs(share_of_memory(leak=True)).max() > 0.3


@pytest.mark.parametrize(
    "visits",
    [
        random_visits(5, 1, 1.0),
        random_visits(1, 9, 0.5),
        replace(random_visits(), liked=np.zeros(len(random_visits().user), bool)),
        random_visits(12, 300, 0.01),
    ],
    ids=["one item", "one user", "no likes", "hardly a visit"],
)
def test_tiny_sets_are_listed_too(visits):
    fitted = Retrieval.fit(visits, axes(), seed=0)
    histories = Histories.from_visits(visits)
    visited = histories.visits.toarray() > 0
    for row, (items, score) in enumerate(fitted.candidates(histories, 1000)):
        assert {*items} == {*np.flatnonzero(~visited[row])}
        assert np.isfinite(score).all()
    empty = csr_matrix((1, visits.items), dtype=np.float32)
    nothing = Histories(empty, empty, np.zeros((1, TOPICS), np.float32))
    (found,) = fitted.candidates(nothing, 1000)
    assert sorted(found[0]) == [*range(visits.items)]
    (found,) = fitted.candidates(nothing, 5, np.zeros(visits.items, bool))
    assert len(found[0]) == 0
    assert fitted.candidates(nothing.rows(np.zeros(0, int)), 5) == []


def test_blank_texts_have_no_topics_and_change_no_axis(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(200, 70)).astype(np.float16)
    texts = ["" if row % 3 else "words" for row in range(200)]
    texts[1] = " \n\t"
    worded, rows = np.arange(0, 200, 3), np.arange(100)
    expected = TopicAxes.fit(["words"] * len(worded), vectors[worded], np.arange(34))
    found = TopicAxes.fit(texts, vectors, rows)
    assert found.mean == pytest.approx(expected.mean, abs=1e-6)
    assert np.abs((found.axes * expected.axes).sum(0)) == pytest.approx(np.ones(64), abs=1e-3)
    whole = (vectors.astype(np.float32) - found.mean) @ found.axes
    for rows_at_once in (65_536, 7):
        monkeypatch.setattr("mmrec.retrieval.histories._CHUNK_ROWS", rows_at_once)
        topics = found.topics(texts, vectors)
        assert np.flatnonzero(topics.any(1)).tolist() == worded.tolist()
        assert topics[worded] == pytest.approx(whole[worded], abs=1e-4)
    assert not TopicAxes.fit([""] * 200, vectors, rows).topics([""] * 200, vectors).any()


def test_a_new_item_grows_all_arrays_and_is_near_in_text_alone(fitted):
    vector = np.arange(TOPICS, dtype=np.float32)
    items = np.array([ITEMS + 1] * 2)
    visits = np.array([[1.0, 1.0], [0.0, 0.0]])
    proposers = fitted.proposers.with_texts(items, np.stack([vector, vector]), visits)
    grown = replace(fitted, proposers=proposers)
    assert proposers.items == ITEMS + 2
    assert proposers.topics[-1].tolist() == (2 * vector).tolist()
    assert (proposers.visit_count[-2:].tolist(), proposers.like_count[-1]) == ([0, 1], 1)
    assert fitted.proposers.items == ITEMS  # unchanged
    histories = Histories.from_visits(random_visits(items=ITEMS + 2))
    scores = proposers.scores(histories)
    assert not scores[: len(SIMILARITIES) + 1, :, -1].any()
    assert np.abs(scores[-3, :, -1]).max() > 0.1
    assert scores[-1, :, -1] == pytest.approx(np.log(2))
    assert {*grown.candidates(histories.rows(np.array([0])), 100)[0][0]} >= {ITEMS, ITEMS + 1}


def test_arrays_come_back_as_they_were(fitted):
    again = Retrieval.from_arrays(fitted.arrays(), ITEMS)
    assert {*again.arrays()} == {*fitted.arrays()}
    for name, values in fitted.arrays().items():
        assert np.array_equal(again.arrays()[name], values), name
    histories = Histories.from_visits(random_visits())
    for first, second in zip(fitted.candidates(histories, 9), again.candidates(histories, 9), strict=True):
        assert first[0].tolist() == second[0].tolist()


def _set(index, value):
    def change(values):
        values = values.copy()
        values[index] = value
        return values

    return change


HOSTILE = {
    "index too large": ("walks/indices", _set(3, ITEMS)),
    "negative index": ("walks/indices", _set(3, -1)),
    "huge index": ("co-visits/indices", _set(0, 2**31 - 1)),
    "huge pointer": ("co-likes/indptr", _set(-1, 2**31 - 1)),
    "falling pointer": ("co-likes/indptr", _set(5, 2**30)),
    "negative pointer": ("co-likes/indptr", _set(5, -7)),
    "last pointer of zero": ("co-visits/indptr", _set(-1, 0)),
    "last pointer that is negative": ("walks/indptr", _set(-1, -(2**31))),
    "first pointer": ("co-likes/indptr", _set(0, 1)),
    "short pointer": ("similar texts/indptr", lambda values: values[:-1]),
    "fractions as indices": ("similar texts/indices", lambda values: values + 0.5),
    "short data": ("similar texts/data", lambda values: values[:-1]),
    "square data": ("similar texts/data", lambda values: np.stack([values, values])),
    "not a number": ("co-visits/data", _set(0, np.nan)),
    "infinite": ("item_factors", _set((0, 0), np.inf)),
    "wide weights": ("weights", lambda values: values.astype(np.float64)),
    "few weights": ("weights", lambda values: values[:-1]),
    "square weights": ("weights", lambda values: values[:, None]),
    "weight not a number": ("weights", _set(0, np.nan)),
    "no item": ("topics", lambda values: values[:-1]),
    "flat topics": ("topics", lambda values: values[:, 0]),
    "flat factors": ("item_factors", lambda values: values[:, 0]),
    "deep factors": ("item_factors", lambda values: values[:, :, None]),
    "fewer topics": ("topics", lambda values: values[:, :-1]),
    "square count": ("visit_count", lambda values: values[:, None]),
    "negative count": ("visit_count", _set(0, -5)),
    "more likes than visits": ("like_count", _set(0, 1e9)),
    "flat axes": ("text axes", lambda values: values.ravel()),
    "short mean": ("text mean", lambda values: values[:-1]),
    "one number": ("text mean", lambda values: values[0]),
}


def read(arrays, path, items=ITEMS):
    """What a saved model does with a file of these arrays."""
    path = path / "retrieval.safetensors"
    topics = np.zeros((7, TOPICS), np.float32)
    save_file({name: np.asarray(x, order="C") for name, x in arrays.items()} | {"user topics": topics}, path)
    sizes = {"users": 7, "text width": TOPICS}
    specs = retrieval_specs(items, len(input_names(PROPOSER_NAMES)))
    return Retrieval.from_arrays(read_arrays(path, specs, sizes), items)


@pytest.mark.parametrize("name", [*HOSTILE])
def test_arrays_that_do_not_fit_are_refused(fitted, tmp_path, name):
    arrays = fitted.arrays()
    read(arrays, tmp_path)
    key, change = HOSTILE[name]
    arrays[key] = change(arrays[key])
    with pytest.raises(ValueError):  # noqa: PT011 (scipy's messages are many)
        read(arrays, tmp_path)


def test_arrays_that_are_missing_or_of_other_items_are_refused(fitted, tmp_path):
    for name in fitted.arrays():
        arrays = fitted.arrays()
        del arrays[name]
        with pytest.raises(ValueError, match=f"{name} is missing"):
            read(arrays, tmp_path)
    for items in (0, ITEMS - 1, ITEMS + 1):
        with pytest.raises(ValueError, match="has the shape"):
            read(fitted.arrays(), tmp_path, items)
