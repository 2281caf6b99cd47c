"""What a recommender can be asked: chances, lists, reasons, what is alike."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import torch

from mmrec.console import track
from mmrec.errors import DataError
from mmrec.features.dataset import Dataset, Models
from mmrec.features.tables import EntityFeatures, Features
from mmrec.llm.sentences import split_query
from mmrec.pipeline import FitEvaluation, TrainedModel
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.explain import Explanation, Quote, coalitions, nearest_quotes, typical_quotes
from mmrec.recommender.list_scoring import ListScorer
from mmrec.recommender.online import OnlineState
from mmrec.retrieval.text_neighbors import TextSpace, diversify, query_similarity

__all__ = ["Answers"]

_USERS = 64  # that a thread takes at once
_WIDER = 10  # times as many as are wanted, that a diverse list is chosen from


class Answers:
    """Answers questions about users and items as they stand, strangers among them.

    Attributes:
        models: what reads, and puts words into vectors.
        evaluation: of the model.
        catalog: what can be said of items to people.
        scorer: pairs, and one user against all items.
    """

    models: Models
    evaluation: FitEvaluation
    catalog: Catalog
    scorer: ListScorer
    _model: TrainedModel
    _live: OnlineState | None
    _spaces: dict[str, TextSpace]

    @property
    def online(self) -> OnlineState:
        """All users and items as they stand.

        Raises:
            DataError: nothing was fitted or loaded yet.
        """
        if self._live is None:
            raise DataError(
                "this Recommender knows nothing yet: call fit(reviews) or load(folder) first"
            )
        return self._live

    @property
    def model(self) -> TrainedModel:
        """The trained model."""
        _ = self.online
        return self._model

    @property
    def features(self) -> Features:
        """Features of every user and item, from all reviews."""
        return self.online.features

    def predict(self, users: list[str], items: list[str]) -> np.ndarray:
        """Probability that each user likes the item beside it.

        Args:
            users, items: (n) ids; those never seen are strangers of whom nothing is known.

        Returns:
            (n,) float64.
        """
        features, codes = self.online.features, self.online.codes
        user = np.array(
            [codes["user"].get(one, features.user.unknown_index) for one in users], dtype=np.int64
        )
        item = np.array(
            [codes["item"].get(one, features.item.unknown_index) for one in items], dtype=np.int64
        )
        return self.scorer.score_pairs((user, item))

    def recommend(
        self,
        user: str | None = None,
        n: int = 10,
        *,
        likes: str | None = None,
        liked: Sequence[str] = (),
        seen: bool = False,
        categories: Sequence[str] = (),
        prices: Sequence[str] = (),
        max_fpr: float | None = None,
        diversity: float = 0.0,
    ) -> pl.DataFrame:
        """The items that someone will most likely like.

        Args:
            user: an id; one never seen is a stranger.
            n: number of items.
            likes: a stranger's own words, as in "ramen, quiet places, cheap"; items that are spoken of in
                words near to these are ranked, the others are not.
            liked: ids of items that a stranger likes.
            seen: whether items that the user has reviewed may be recommended too.
            categories, prices: when given, items must have one of them.
            max_fpr: only items so likely to be liked that at most this share of the dislikes would pass.
            diversity: 0 to 1, how much items unlike those above them are preferred.

        Returns:
            Up to n rows, best first: `item`, `name`, `probability`, `price`, `categories`.

        Raises:
            DataError: not one of a user, words, and liked items; or an item that nobody reviewed.
        """
        inputs, _, view = self._asking(user, likes, liked)
        shelf = self.catalog
        among = shelf.matching_items(categories, prices) if categories or prices else None
        without: Sequence[int] | np.ndarray = ()
        if likes:
            near = self._near(likes)
            fitting = near if among is None else near[np.isin(near, among)]
            among = np.sort(fitting[: max(2 * n, len(shelf.items) // 20)])
        elif not seen:
            without = shelf.reviewed_items(view) if user is not None else self._codes(liked)
        wider = n * _WIDER if diversity else n
        items, probability = self.scorer.top_items(
            view, wider, inputs=inputs, candidates=among, excluded=without
        )
        if max_fpr is not None:
            enough = probability >= self.evaluation.curve.for_max_fpr(max_fpr)[0]
            items, probability = items[enough], probability[enough]
        best = diversify(probability, self._space("gist"), items, n, diversity)
        chance = pl.Series("probability", probability[best])
        return shelf.describe(items[best].tolist()).insert_column(2, chance)

    def recommend_all(
        self,
        n: int = 10,
        *,
        users: Sequence[str] | None = None,
        seen: bool = False,
        max_fpr: float | None = None,
    ) -> pl.DataFrame:
        """The same for many users at once, all by default.

        Returns:
            `user`, `rank` from 1, `item`, `probability`; up to n rows a user, best first.
        """
        codes, shelf = self.online.codes["user"], self.catalog
        users = [*codes] if users is None else [*users]
        views = [codes.get(user, self.features.user.unknown_index) for user in users]
        least = 0.0 if max_fpr is None else self.evaluation.curve.for_max_fpr(max_fpr)[0]
        found = [(np.zeros(0, dtype=np.int64), np.zeros(0))]  # so that there may be no users

        def best(some: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
            lists = (
                self.scorer.top_items(one, n, excluded=() if seen else shelf.reviewed_items(one))
                for one in some
            )
            return [(items[chance >= least], chance[chance >= least]) for items, chance in lists]

        # A thread each for users does more than several for one.
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        parts = [views[at : at + _USERS] for at in range(0, len(views), _USERS)]
        try:
            with pool, track("recommending", len(views)) as advance:
                for lists in pool.map(best, parts):
                    found += lists
                    advance(len(lists))
        finally:
            torch.set_num_threads(threads)  # it also counts for threads that are yet to come
        sizes = [len(items) for items, _ in found]
        ranks = np.concatenate([np.arange(1, size + 1, dtype=np.uint32) for size in sizes])
        items, chances = (np.concatenate(own) for own in zip(*found, strict=True))
        return pl.DataFrame(
            {
                "user": pl.Series(users, dtype=pl.String).gather(
                    np.repeat(np.arange(len(users)), sizes[1:])
                ),
                "rank": ranks,
                "item": pl.Series(shelf.items, dtype=pl.String).gather(items),
                "probability": chances,
            }
        )

    def search(self, text: str, n: int = 10) -> list[str]:
        """Ids of items whose name has the text in it, then of those spoken of in words near to it."""
        shelf, lowered = self.catalog, text.casefold()
        named = [
            at for at in range(len(shelf.items)) if lowered in (shelf.name(at) or "").casefold()
        ]
        near = [] if len(named) >= n else self._near(text)[:n].tolist()
        return [shelf.items[at] for at in dict.fromkeys([*named, *near])][:n]

    def similar_items(self, item: str, n: int = 10) -> list[tuple[str, float]]:
        """Items that are spoken of alike, and how near they are: cosine, less what is said of all.

        Raises:
            DataError: no review speaks of the item.
        """
        (code,) = self._codes([item])
        return [
            (self.catalog.items[at], value) for at, value in self._space("gist").neighbors(code, n)
        ]

    def similar_users(self, user: str, n: int = 10) -> list[tuple[str, float]]:
        """Users who write alike.

        Raises:
            DataError: no such user.
        """
        codes = self.online.codes["user"]
        if user not in codes:
            raise DataError(f"{user!r} has written no review here; check the id")
        names = [*codes]
        return [(names[at], value) for at, value in self._space("users").neighbors(codes[user], n)]

    def explain(
        self, user: str | None, item: str, *, likes: str | None = None, liked: Sequence[str] = ()
    ) -> Explanation:
        """Why an item has its probability for someone: which knowledge spoke for it, and who said so.

        Args:
            user, likes, liked: as for `recommend`.
            item: an id.

        Raises:
            DataError: the item was never reviewed; not one of a user, words, and liked items.
        """
        (at,) = self._codes([item])
        inputs, people, view = self._asking(user, likes, liked)
        values = coalitions(
            lambda *views: self.scorer.score_pairs(views, inputs),
            (view, people.unknown_index),
            (at, self.online.features.item.unknown_index),
        )
        return Explanation.from_coalitions(values, self._quotes(people, view, at))

    def summary_quote(self, item: int) -> Quote | None:
        """What most reviews come to, about an item, by code: the sentence that is nearest to all others."""
        return next(
            iter(typical_quotes(self.catalog.gists(item), self.models.encoder.encode, 1)), None
        )

    def typical_quotes(self, item: int, most: int = 5) -> tuple[list[Quote], list[Quote]]:
        """What is liked and disliked about an item, by code: each sentence once, the most typical first."""
        said = [quote for quote in self.catalog.quotes(item) if not quote.photo]
        both = ([quote for quote in said if quote.liked is liked] for liked in (True, False))
        likes, dislikes = (typical_quotes(own, self.models.encoder.encode, most) for own in both)
        return likes, dislikes

    def warm_up(self) -> None:
        """Compute now what the first who ask would wait for."""
        for name in ("gist", "likes", "users"):
            self._space(name)
        self.catalog.load_captions()
        self.models.encoder.encode(["ready"])

    def _codes(self, items: Sequence[str]) -> list[int]:
        codes = self.online.codes["item"]
        for item in items:
            if item not in codes:
                raise DataError(f"no review speaks of item {item!r}; check the id")
        return [codes[item] for item in items]

    def _asking(
        self, user: str | None, likes: str | None, liked: Sequence[str]
    ) -> tuple[RankerInputs, EntityFeatures, int]:
        """Inputs, users' features, and the view of who asks: a user, or a stranger made of words or likes."""
        if [user is not None, bool(likes), bool(liked)].count(True) != 1:
            raise DataError(
                "name a user, say in words what is liked, or name liked items: just one of these"
            )
        features = self.online.features
        if user is not None:
            return (
                self.scorer.inputs,
                features.user,
                self.online.codes["user"].get(user, features.user.unknown_index),
            )
        if likes:
            stranger = self.model.builder.describe_user(
                Dataset.from_description(likes, self.models)
            )
        else:
            stranger = self.online.new_user_features(self._codes(liked))
        only = np.zeros(1, dtype=np.int64)
        return RankerInputs(Features(stranger, features.item, only, only)), stranger, 0

    def _near(self, likes: str) -> np.ndarray:
        """Codes of all items, those first whose reviews' words are nearest to a stranger's."""
        near = query_similarity(
            split_query(likes), self._space("likes"), self.catalog.labels(), self.models.encoder
        )
        return np.argsort(-near, kind="stable")

    def _space(self, name: str) -> TextSpace:
        """Directions of what is said of items (`gist`, `likes`), or of what `users` say."""
        if name not in self._spaces:
            features = self.online.features
            if name == "users":
                self._spaces[name] = TextSpace(features.user, len(self.online.codes["user"]))
            else:
                self._spaces[name] = TextSpace(features.item, len(self.catalog.items), name)
        return self._spaces[name]

    def _quotes(self, people: EntityFeatures, user: int, item: int) -> list[Quote]:
        if not (said := self.catalog.quotes(item)):
            return []
        vectors = self.models.encoder.encode([quote.text for quote in said]).astype(np.float32)
        return nearest_quotes(said, vectors, _own_words(people, user, vectors))


def _own_words(people: EntityFeatures, user: int, vectors: np.ndarray) -> np.ndarray:
    """Direction of the user's own words; where there are none, of what is said of the item most of all."""
    for name in ("likes", "gist", "summary", "reviews"):
        if name in people.vectors and people.present[name][user]:
            return people.vectors[name][user].astype(np.float32)
    return vectors.mean(axis=0)
