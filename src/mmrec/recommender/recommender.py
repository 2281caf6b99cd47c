"""The Recommender: fit, predict, recommend, explain, save and load; and one more review at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from mmrec.config import CatalogueConfig, Config
from mmrec.data.schema import Reviews
from mmrec.errors import DataError
from mmrec.evaluation import Outcome, Scores, curve, outcome
from mmrec.experiments.compare import Comparison, compare
from mmrec.features.dataset import Corpus, Models
from mmrec.llm.types import Note
from mmrec.pipeline import Model
from mmrec.recommender.catalog import Shelf
from mmrec.recommender.hub import Published
from mmrec.recommender.list_scoring import Scorer
from mmrec.recommender.lists import Answers
from mmrec.recommender.online import Known, Live, Said
from mmrec.recommender.persistence import Saved
from mmrec.vision.image_features import Pictures

__all__ = ["Recommender"]


class Recommender(Answers, Published):
    """Learns from reviews who will like what; any user and any item can be scored.

    Args:
        config: the pipeline; `Config()` is the recommended one.
        models: what reads; by default those that `config` names.
        catalogue: how one user is scored against all items.

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

    def __init__(
        self,
        config: Config | None = None,
        models: Models | None = None,
        catalogue: CatalogueConfig | None = None,
    ) -> None:
        self.config = config or Config()
        self.models = models or Models.open(self.config)
        self._catalogue = catalogue or CatalogueConfig()
        self._live = None

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
        colours = self.config.vision.captioner == "builtin"
        self.shelf = Shelf(reviews, corpus, model.assembler.vocabulary, self._live, colours=colours)
        self.scorer = Scorer(model, known.features, self._catalogue)
        self._spaces = {}
        self._heard = 0

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
        self._changed(codes[1], codes[0])

    def introduce(
        self,
        item: str,
        *,
        name: str | None = None,
        description: str = "",
        captions: Sequence[str] = (),
        note: Note | None = None,
    ) -> None:
        """Learn of an item that opened today, from a description or what photos of it show; or more of one.

        Args:
            item: its id.
            name: what it is called.
            description: read like a review, but without a rating.
            captions: of photos (`caption` puts one into words).
            note: what the description says, where it has been read before.

        Raises:
            DataError: there is nothing in it that the model can use.
        """
        note = note or self.read(description)
        code = self.live.introduce(item, description, note, captions)
        self.shelf.put(code, item, name, captions)
        self._changed(code)

    def caption(self, photo: Path) -> str:
        """What a photo shows; the captioner is asked once ever.

        Raises:
            PhotoError: the file is no photo that can be read.
        """
        pictures = Pictures(self.models.store, self.config.read.max_pixels)
        return pictures.caption(photo, self.models.captioner)

    def _changed(self, item: int, user: int | None = None) -> None:
        """Take over features that `live` has changed."""
        features = self.live.features
        self._known = replace(self._known, features=features)
        self.scorer.put(features, item)
        for name, space in self._spaces.items():
            if name != "users":
                space.put(features.item, item)
            elif user is not None:
                space.put(features.user, user)
        self._heard += 1

    @property
    def _saved(self) -> Saved:
        if self._heard:
            raise DataError("this Recommender has heard live reviews, which are not in its model: fit again")
        notes = self.corpus.notes if self.config.profile.strategy == "notes" else []
        judged = self.scores, self.threshold, self.outcome, self.curve
        return Saved(self.config, self.model, self.reviews, notes, self._known, *judged)

    @classmethod
    def _of(cls, saved: Saved, catalogue: CatalogueConfig | None = None) -> Self:
        recommender = cls(saved.config, catalogue=catalogue)
        recommender.scores, recommender.curve = saved.scores, saved.curve
        recommender.threshold, recommender.outcome = saved.threshold, saved.outcome
        corpus = Corpus.of(saved.reviews, recommender.models, saved.config, saved.notes or None)
        recommender._know(saved.model, saved.reviews, corpus, saved.known)
        return recommender
