"""Lists of users: candidates from what they have visited, which the probability reorders and filters."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from mmrec.evaluation.list_metrics import order_score
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.lists import ListScorer
from mmrec.recommender.live_reviews import LiveReviews
from mmrec.retrieval.histories import Histories, unit_rows, visit_matrix, without_noise
from mmrec.retrieval.retrieval import Retrieval
from mmrec.retrieval.wish_match import WishMatch

CANDIDATES = 100  # of a list, whose probability is computed; more for a longer list
_MATCHED_ITEMS = 5000  # that match a wish best and are scored, however short the list
_USERS_AT_ONCE = 64


class UserHistories:
    """What all users have visited, with live reviews."""

    def __init__(
        self, saved: Histories, live: LiveReviews | None = None, like_rating: float = 4.0
    ) -> None:
        self._saved, self._live, self._like_rating = saved, live, like_rating
        # By user: what live reviews have changed in the (t,) sum over the topics of all reviews.
        self._topics: dict[int, np.ndarray] = {}

    def add_topics(self, users: np.ndarray, topics: np.ndarray) -> None:
        """Add (n, t) topics of reviews by (n,) users, by code; what is withdrawn has a minus."""
        for user, change in zip(users.tolist(), topics, strict=True):
            self._topics[user] = self._topics.get(user, 0) + change

    def of_users(self, users: np.ndarray, items: int) -> Histories:
        """Histories of users by code, (b, items); empty for an unknown one."""
        is_saved = users < len(self._saved)
        saved = self._saved.rows(np.where(is_saved, users, 0))
        topics = saved.topics.astype(np.float32) * is_saved[:, None]
        visits, likes = saved.visits, saved.likes
        for matrix in (visits, likes):
            matrix.data *= np.repeat(is_saved, np.diff(matrix.indptr))
            matrix.eliminate_zeros()
            matrix.resize(len(users), items)
        cells: list[tuple[int, int, float]] = []  # row, item, and rating or NaN
        for row, user in enumerate(users.tolist()):
            if user in self._topics:
                topics[row] += self._topics[user]
            for item, review in self._live.of("user", user).items() if self._live else ():
                cells.append((row, item, np.nan if review is None else review.rating))
        without_noise(topics, np.arange(len(users)))
        if cells:
            rows, columns, ratings = map(np.array, zip(*cells, strict=True))
            # The last word on an item counts: what was said before is taken out.
            changed = visit_matrix(rows, columns, visits.shape)
            kept, liked = ~np.isnan(ratings), ratings >= self._like_rating
            visits = (
                visits
                - visits.multiply(changed)
                + visit_matrix(rows[kept], columns[kept], visits.shape)
            )
            likes = (
                likes
                - likes.multiply(changed)
                + visit_matrix(rows[liked], columns[liked], likes.shape)
            )
        return Histories(visits, likes, topics)

    @staticmethod
    def of_items(liked: Sequence[int], item_topics: np.ndarray) -> Histories:
        """The history of a new user who likes some items, by code, and writes as others do of them.

        `item_topics` are (m, t) topics of all items.
        """
        shape = 1, len(item_topics)
        visits = visit_matrix(np.zeros(len(liked), np.int64), np.array(liked), shape)
        topics = unit_rows(item_topics[np.array(liked)]).sum(0, keepdims=True)
        return Histories(visits, visits, topics)

    def of_texts(self, topics: np.ndarray, items: int) -> Histories:
        """The history of a new user who has written (n, t) topics about unknown items."""
        no_visits = csr_matrix((1, items), dtype=np.float32)
        return Histories(no_visits, no_visits, topics.sum(0, keepdims=True))


class ListedItems(NamedTuple):
    """k items of a list, best first."""

    items: np.ndarray  # (k,) codes
    probability: np.ndarray  # (k,) that the user likes each
    score: np.ndarray  # (k,) log-odds by which they are ordered
    is_last: np.ndarray  # (k,) whether each stands behind all others, as nobody rated it

    def take(self, places: np.ndarray) -> "ListedItems":
        """Some of them, in another order."""
        return ListedItems(*(values[places] for values in self))


class ListRules(NamedTuple):
    """What a list may hold, and in what order."""

    seen: bool = False  # whether items that the user has visited may be listed
    min_probability: float = 0.0  # of a like
    caution: float | None = None  # weight of the odds of a dislike; by default the model's
    explore: bool = False  # every third item is an unrated one; else these are last


class ListMaker:
    """Makes lists: what a user would choose, without what the user would regret."""

    def __init__(
        self, retrieval: Retrieval, scorer: ListScorer, histories: UserHistories, caution: float
    ) -> None:
        self.retrieval, self.histories = retrieval, histories
        self._scorer, self._caution = scorer, caution

    def add_texts(self, items: np.ndarray, topics: np.ndarray, visits: np.ndarray) -> None:
        """Count (n, t) topics of texts about (n,) items, which may be new, and for each (n, 2) visits
        and likes; those of withdrawn reviews have a minus."""
        proposers = self.retrieval.proposers.with_texts(items, topics, visits)
        self.retrieval = replace(self.retrieval, proposers=proposers)

    def top_items(
        self,
        user: int,
        basis: Histories | WishMatch,
        n: int,
        rules: ListRules,
        inputs: RankerInputs | None = None,
        allowed: np.ndarray | None = None,
    ) -> ListedItems:
        """Up to n items; the user is named by a view of `inputs`, by default the model's.

        Candidates are what users with the same history (of one row) choose, or what matches a wish,
        of (m,) `allowed` items.
        """
        if isinstance(basis, Histories):
            ((items, choice),) = self._candidates(basis, n, rules, allowed)
            probability = self._scorer.probabilities(user, items, inputs)
            return self._best(items, choice, probability, n, rules)
        is_open = ~basis.excluded if allowed is None else allowed & ~basis.excluded
        items = np.flatnonzero(is_open)
        # Of items that match as well, as where a wish says nothing, those that most users choose.
        keys = -self.retrieval.proposers.popularity[items], -basis.log_odds[items]
        items = items[np.lexsort(keys)[:_MATCHED_ITEMS]]
        # The wish comes first. What it names is listed even if it may be disliked.
        match, named = basis.log_odds[items], basis.named[items]
        probability = self._scorer.probabilities(user, items, inputs)
        return self._best(items, match, probability, n, rules, named)

    def lists(self, users: np.ndarray, n: int, rules: ListRules) -> Iterator[ListedItems]:
        """`top_items` of many users of the model, by view, in their order."""
        item_count = self.retrieval.proposers.items

        def make(block: np.ndarray) -> list[ListedItems]:
            rows = self.histories.of_users(block, item_count)
            candidates = self._candidates(rows, n, rules)
            items_by_user = [items for items, _ in candidates]
            counts = [*map(len, items_by_user)]
            users_of_items = np.repeat(block, counts)
            scored = self._scorer.probabilities(users_of_items, np.concatenate(items_by_user))
            lists = list[ListedItems]()
            probabilities = np.split(scored, np.cumsum(counts)[:-1])
            for (items, choice), probability in zip(candidates, probabilities, strict=True):
                lists.append(self._best(items, choice, probability, n, rules))
            return lists

        # A thread for each block is faster than several for one.
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        starts = range(0, len(users), _USERS_AT_ONCE)
        blocks = [users[start : start + _USERS_AT_ONCE] for start in starts]
        try:
            with pool, threadpool_limits(1, "blas"):
                for block_lists in pool.map(make, blocks):
                    yield from block_lists
        finally:
            torch.set_num_threads(threads)  # not the setting of the pool's threads

    def _candidates(
        self, histories: Histories, n: int, rules: ListRules, allowed: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Items and scores of choice for each of b users; to explore, also the best n without a rating."""
        limit, items = max(CANDIDATES, 2 * n), np.arange(self.retrieval.proposers.items)
        propose = partial(self.retrieval.candidates, histories, visited_too=rules.seen)
        if not rules.explore:
            return propose(limit, allowed)
        unproven = self._scorer.inputs.item.has_no_rating(items)
        if allowed is None:
            allowed = np.ones(len(items), dtype=bool)
        lists: list[tuple[np.ndarray, np.ndarray]] = []
        best = propose(limit, allowed & ~unproven), propose(n, allowed & unproven)
        for proven, explored in zip(*best, strict=True):
            lists.append((np.append(proven[0], explored[0]), np.append(proven[1], explored[1])))
        return lists

    def _best(
        self,
        items: np.ndarray,
        choice: np.ndarray,
        probability: np.ndarray,
        n: int,
        rules: ListRules,
        named: np.ndarray | None = None,
    ) -> ListedItems:
        """The best n of (c,) items with scores of choice and probabilities of a like; those `named`
        by a wish whatever their probability."""
        caution = self._caution if rules.caution is None else rules.caution
        like_rate = self.retrieval.proposers.like_rate
        score = order_score(choice, probability, caution, like_rate)
        # The probability of an item that nobody has rated is about the average, and proves nothing.
        unproven = self._scorer.inputs.item.has_no_rating(items) & (named is None)
        order = np.lexsort((-score, unproven))
        if rules.explore and named is None:
            rank, proven = np.arange(len(order)), np.count_nonzero(~unproven)
            rank[proven:] -= proven
            place = np.where(unproven[order], 3 * rank + 2, rank + rank // 2)  # 2, 5, 8, ...
            order = order[np.argsort(place, kind="stable")]
        is_listed = probability >= rules.min_probability
        if named is not None:
            is_listed |= named
        best = order[is_listed[order]][:n]
        is_last = unproven[best] & (not rules.explore)
        return ListedItems(items[best], probability[best], score[best], is_last)
