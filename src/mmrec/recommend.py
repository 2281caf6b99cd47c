"""The Recommender: fit, predict, recommend, explain, save and load; and one more review at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import polars as pl
import torch

from mmrec.config import Config
from mmrec.corpus import Corpus, Models
from mmrec.errors import DataError
from mmrec.experiment.compare import Comparison, compare
from mmrec.explain import Explanation, Quote, coalitions, nearest
from mmrec.features import Features, SideFeatures
from mmrec.hub import Published
from mmrec.language.base import Note
from mmrec.learning import Model
from mmrec.live import Known, Live, Said
from mmrec.metrics import Curve, Outcome, Scores, curve, outcome
from mmrec.ranking.catalogue import Catalogue
from mmrec.ranking.inputs import Inputs
from mmrec.reviews.table import Reviews
from mmrec.saving import Saved
from mmrec.search import diverse, nearness, similar, wishes
from mmrec.shelf import Shelf

__all__ = ["Recommender"]

_PAIRS_AT_ONCE = 8192


class Recommender(Published):
    """Learns from reviews who will like what; any user and any item can be scored.

    Args:
        config: the pipeline; `Config()` is the recommended one.
        models: what reads; by default those that `config` names.

    Attributes:
        scores: what the model and those that it was compared with reach on test rows.
        threshold: the probability from which on to recommend, chosen on valid rows; inf where nothing is to
            be recommended.
        outcome: what that gave on test rows.
        curve: thresholds for other bounds on false positives, chosen on valid rows.
    """

    scores: dict[str, Scores]
    threshold: float
    outcome: Outcome
    curve: Curve

    def __init__(self, config: Config | None = None, models: Models | None = None) -> None:
        self.config = config or Config()
        self.models = models or Models.open(self.config)
        self._live: Live | None = None

    def fit(self, reviews: Reviews) -> Self:
        """Split, train the model of `config.ranker.features`, and know all of these reviews from then on.

        `scores` then holds what the model and the simple peers reach on test rows.

        Raises:
            DataError: too few reviews to learn from.
        """
        comparison = compare(reviews, self.config, self.models, [self.config.ranker.features])
        return self.adopt(comparison, self.config.ranker.features, reviews)

    def adopt(self, comparison: Comparison, name: str, reviews: Reviews) -> Self:
        """Take over a trained model of a comparison, and know all of `reviews`."""
        prepared, probability = comparison.prepared, comparison.probability[name]
        self.scores, self.threshold = dict(comparison.scores), comparison.thresholds[name]
        test, valid, label = prepared.split.test, prepared.split.valid, prepared.label
        self.outcome = outcome(label[test], probability[test], self.threshold)
        self.curve = curve(label[valid], probability[valid])
        # What the filter dropped is known to the recommender all the same; mostly it is in there already.
        everything = len(prepared.corpus) == len(reviews)
        corpus = prepared.corpus if everything else Corpus.of(reviews, self.models, self.config)
        model = comparison.models[name]
        model = replace(model, assembler=model.assembler.knowing(corpus))
        self._know(model, reviews, corpus, Known.of(corpus, model.assembler))
        return self

    def _know(self, model: Model, reviews: Reviews, corpus: Corpus, known: Known) -> None:
        self._model, self._known, self.reviews, self.corpus = model, known, reviews, corpus
        self._live = Live(known, model.assembler, self.models)
        self.shelf = Shelf(reviews, corpus, model.assembler.vocabulary, self._live)
        self._inputs = Inputs(known.features)
        self._catalogue = Catalogue(model.ranker, self._inputs)
        self._heard = 0

    @property
    def live(self) -> Live:
        """All users and items as they stand.

        Raises:
            DataError: nothing was fitted or loaded yet.
        """
        if self._live is None:
            raise DataError("this Recommender knows nothing yet: call fit(reviews) or load(folder) first")
        return self._live

    @property
    def model(self) -> Model:
        """The trained model."""
        _ = self.live
        return self._model

    @property
    def features(self) -> Features:
        """Features of every user and item, from all reviews."""
        return self.live.features

    def read(self, text: str) -> Note:
        """What a review says; a language model is asked once ever."""
        return self.models.reader.notes([text])[0]

    def add(
        self, user: str, item: str, rating: float, text: str, review_id: str, note: Note | None = None
    ) -> None:
        """Hear one more review: it changes its user and its item at once.

        Args:
            user, item: ids, also of newcomers.
            rating: stars.
            text, review_id: as it is to be quoted.
            note: what it says, where it has been read before.
        """
        note = note or self.read(text)
        (quoted,) = [note] if self.models.reader is self.models.quoter else self.models.quoter.notes([text])
        codes = self.live.add(Said(user, item, rating, text, note))
        self.shelf.add(*codes, item, review_id, quoted)
        if self.live.features is not self._known.features:  # it has grown
            self._known = replace(self._known, features=self.live.features)
            self._inputs = Inputs(self.live.features)
        self._catalogue.put(self._inputs, codes[1])
        self._heard += 1

    def predict(self, users: list[str], items: list[str]) -> np.ndarray:
        """Probability that each user likes the item beside it.

        Args:
            users, items: (n) ids; those never seen are strangers of whom nothing is known.

        Returns:
            (n,) float64.
        """
        features, codes = self.live.features, self.live.codes
        user = np.array([codes["user"].get(one, features.user.nothing) for one in users], dtype=np.int64)
        item = np.array([codes["item"].get(one, features.item.nothing) for one in items], dtype=np.int64)
        return self._score(self._inputs, user, item)

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
        shelf = self.shelf
        items = np.arange(len(shelf.items))
        if likes:
            items = self._near(likes, max(2 * n, len(items) // 20))
        elif not seen:
            known = shelf.reviewed(view) if user is not None else self._codes(liked)
            items = np.setdiff1d(items, known)
        if categories or prices:
            items = np.array([code for code in items.tolist() if shelf.has(code, categories, prices)], int)
        logit = self._catalogue.logits(inputs, view, torch.from_numpy(items))
        probability = self.model.probability(logit[None])
        if max_fpr is not None:
            enough = probability >= self.curve.at(max_fpr)[0]
            items, probability = items[enough], probability[enough]
        best = diverse(probability, self.live.features.item, items, n, diversity)
        return self._described(items[best], probability[best])

    def search(self, text: str, n: int = 10) -> list[str]:
        """Ids of items whose name has the text in it, then of those spoken of in words near to it."""
        shelf, lowered = self.shelf, text.casefold()
        named = [at for at in range(len(shelf.items)) if lowered in (shelf.name(at) or "").casefold()]
        near = [] if len(named) >= n else self._near(text, n).tolist()
        return [shelf.items[at] for at in dict.fromkeys([*named, *near])][:n]

    def similar_items(self, item: str, n: int = 10) -> list[tuple[str, float]]:
        """Items that are spoken of alike, and how near they are: cosine, less what is said of all.

        Raises:
            DataError: no review speaks of the item.
        """
        (code,) = self._codes([item])
        near = similar(self.live.features.item, code, len(self.shelf.items), n)
        return [(self.shelf.items[at], value) for at, value in near]

    def similar_users(self, user: str, n: int = 10) -> list[tuple[str, float]]:
        """Users who write alike.

        Raises:
            DataError: no such user.
        """
        codes = self.live.codes["user"]
        if user not in codes:
            raise DataError(f"{user!r} has written no review here; check the id")
        names = [*codes]
        near = similar(self.live.features.user, codes[user], len(names), n)
        return [(names[at], value) for at, value in near]

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
            lambda *views: self._score(inputs, *views),
            (view, people.nothing),
            (at, self.live.features.item.nothing),
        )
        return Explanation.of(values, self._quotes(people, view, at))

    def sayings(self, item: int, most: int = 5) -> tuple[list[Quote], list[Quote]]:
        """What is liked and disliked about an item, by code: each sentence once, the most typical first."""
        both = []
        for liked in (True, False):
            said = {quote.text: quote for quote in self.shelf.quotes(item) if quote.liked is liked}
            vectors = self.models.encoder.encode([*said] or [""]).astype(np.float32)
            typical = np.argsort(-(vectors @ vectors.mean(0)), kind="stable")[:most]
            both.append([[*said.values()][at] for at in typical] if said else [])
        return both[0], both[1]

    @property
    def _saved(self) -> Saved:
        if self._heard:
            raise DataError("this Recommender has heard live reviews, which are not in its model: fit again")
        notes = self.corpus.notes if self.config.profile.strategy == "notes" else []
        judged = self.scores, self.threshold, self.outcome, self.curve
        return Saved(self.config, self.model, self.reviews, notes, self._known, *judged)

    @classmethod
    def _of(cls, saved: Saved) -> Self:
        recommender = cls(saved.config)
        recommender.scores, recommender.curve = saved.scores, saved.curve
        recommender.threshold, recommender.outcome = saved.threshold, saved.outcome
        corpus = Corpus.of(saved.reviews, recommender.models, saved.config, saved.notes or None)
        recommender._know(saved.model, saved.reviews, corpus, saved.known)
        return recommender

    def _codes(self, items: Sequence[str]) -> list[int]:
        codes = self.live.codes["item"]
        for item in items:
            if item not in codes:
                raise DataError(f"no review speaks of item {item!r}; check the id")
        return [codes[item] for item in items]

    def _asking(
        self, user: str | None, likes: str | None, liked: Sequence[str]
    ) -> tuple[Inputs, SideFeatures, int]:
        """Inputs, users' features, and the view of who asks: a user, or a stranger made of words or likes."""
        if [user is not None, bool(likes), bool(liked)].count(True) != 1:
            raise DataError("name a user, say in words what is liked, or name liked items: just one of these")
        features = self.live.features
        if user is not None:
            return self._inputs, features.user, self.live.codes["user"].get(user, features.user.nothing)
        if likes:
            stranger = self.model.assembler.stranger(Corpus.described(likes, self.models))
        else:
            stranger = self.live.newcomer(self._codes(liked))
        only = np.zeros(1, dtype=np.int64)
        return Inputs(Features(stranger, features.item, only, only)), stranger, 0

    @torch.inference_mode()
    def _score(self, inputs: Inputs, *views: np.ndarray) -> np.ndarray:
        tensors = [torch.from_numpy(view) for view in views]
        logit = [
            self.model.ranker(inputs.batch(*(tensor[at : at + _PAIRS_AT_ONCE] for tensor in tensors)))
            for at in range(0, len(views[0]), _PAIRS_AT_ONCE)
        ]
        nobody = torch.zeros(self.model.ranker.shape.runs, 0)
        return self.model.probability(torch.cat([*logit, nobody], dim=1).numpy())

    def _near(self, likes: str, most: int) -> np.ndarray:
        """Codes of the items whose reviews' words are nearest to a stranger's."""
        shelf, codes = self.shelf, range(len(self.shelf.items))
        labels = [[*shelf.categories(code), *filter(None, [shelf.price(code)])] for code in codes]
        near = nearness(wishes(likes), self.live.features.item, labels, self.models.encoder)
        return np.sort(np.argsort(-near, kind="stable")[:most])

    def _described(self, items: np.ndarray, probability: np.ndarray) -> pl.DataFrame:
        shelf, codes = self.shelf, items.tolist()
        return pl.DataFrame(
            {
                "item": [shelf.items[code] for code in codes],
                "name": [shelf.name(code) for code in codes],
                "probability": probability,
                "price": [shelf.price(code) for code in codes],
                "categories": [shelf.categories(code) for code in codes],
            },
            schema_overrides={"name": pl.String, "price": pl.String, "categories": pl.List(pl.String)},
        )

    def _quotes(self, people: SideFeatures, user: int, item: int) -> list[Quote]:
        if not (said := self.shelf.quotes(item)):
            return []
        vectors = self.models.encoder.encode([quote.text for quote in said]).astype(np.float32)
        return nearest(said, vectors, _own_words(people, user, vectors))


def _own_words(people: SideFeatures, user: int, vectors: np.ndarray) -> np.ndarray:
    """Direction of the user's own words; where there are none, of what is said of the item most of all."""
    for name in ("likes", "gist", "summary", "reviews"):
        if name in people.vectors and people.present[name][user]:
            return people.vectors[name][user].astype(np.float32)
    return vectors.mean(axis=0)
