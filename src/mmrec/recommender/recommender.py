"""The Recommender: fit, predict, recommend, explain, save and load; and one more review at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.errors import DataError
from mmrec.evaluation.metrics import Metrics
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.types import Note
from mmrec.pipeline import (
    FitEvaluation,
    TrainedModel,
    TrainingResult,
    open_models,
    prepare_data,
    train_model,
)
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.hub import Published
from mmrec.recommender.list_scoring import ListScorer
from mmrec.recommender.lists import Answers
from mmrec.recommender.online import KnownReviews, LiveReview, OnlineState
from mmrec.recommender.persistence import SavedRecommender
from mmrec.vision.image_features import PhotoAnnotator

__all__ = ["Recommender"]


class Recommender(Answers, Published):
    """Learns from reviews who will like what; any user and any item can be scored.

    Args:
        config: the pipeline; `Config()` is the recommended one.
        models: what reads; by default those that `config` names.

    Attributes:
        evaluation: how good the model is on test rows, and from which probability on it recommends.
    """

    evaluation: FitEvaluation

    def __init__(self, config: Config | None = None, models: Models | None = None) -> None:
        self.config = config or Config()
        self.models = models or open_models(self.config)
        self._live = None

    def fit(self, reviews: Reviews) -> Self:
        """Split, train the model of `config.ranker.features`, and know all of these reviews from then on.

        Raises:
            DataError: too few reviews to learn from.
        """
        return self.use_model(train_model(prepare_data(reviews, self.config, self.models)), reviews)

    def use_model(
        self,
        result: TrainingResult,
        reviews: Reviews,
        other_metrics: dict[str, Metrics] | None = None,
    ) -> Self:
        """Use a trained model, and know all of `reviews`.

        Args:
            result: the model, trained on these reviews.
            reviews: all of them, also those that were filtered out before training.
            other_metrics: of the models that it was compared with, on the same test rows.
        """
        self.evaluation = result.evaluate(other_metrics)
        dataset = result.prepared.dataset
        if len(dataset) != len(reviews):
            dataset = Dataset.from_reviews(reviews, self.models, self.config)
        model = replace(result.model, builder=result.model.builder.refit(dataset))
        self._know(model, reviews, dataset, KnownReviews.from_dataset(dataset, model.builder))
        return self

    def _know(
        self, model: TrainedModel, reviews: Reviews, corpus: Dataset, known: KnownReviews
    ) -> None:
        self._model, self._known, self.reviews, self.corpus = model, known, reviews, corpus
        self._live = OnlineState(known, model.builder, self.models)
        colours = self.config.vision.captioner == "builtin"
        self.catalog = Catalog(
            reviews, corpus, model.builder.vocabulary, self._live, colours=colours
        )
        self.scorer = ListScorer(model, known.features)
        self._spaces = {}
        self._heard = 0

    def annotate(self, text: str) -> Note:
        """What a review says; a language model is asked once ever."""
        return self.models.annotator.write_notes([text])[0]

    def add_review(
        self,
        user: str,
        item: str,
        rating: float,
        text: str,
        review_id: str,
        note: Note | None = None,
    ) -> None:
        """Hear one more review: it changes its user and its item at once.

        Args:
            user, item: ids, also of newcomers.
            rating: stars.
            text, review_id: as it is to be quoted.
            note: what it says, where it has been read before.
        """
        note = note or self.annotate(text)
        (quoted,) = (
            [note]
            if self.models.annotator is self.models.quote_annotator
            else self.models.quote_annotator.write_notes([text])
        )
        codes = self.online.add_review(LiveReview(user, item, rating, text, note))
        self.catalog.add_review(*codes, item, review_id, quoted)
        self._changed(codes[1], codes[0])

    def add_item(
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
        note = note or self.annotate(description)
        code = self.online.add_item(item, description, note, captions)
        self.catalog.update_item(code, item, name, captions)
        self._changed(code)

    def caption(self, photo: Path) -> str:
        """What a photo shows; the captioner is asked once ever.

        Raises:
            PhotoError: the file is no photo that can be read.
        """
        pictures = PhotoAnnotator(self.models.store, self.config.read.max_pixels)
        return pictures.caption_photo(photo, self.models.captioner)

    def _changed(self, item: int, user: int | None = None) -> None:
        """Take over features that `live` has changed."""
        features = self.online.features
        self._known = replace(self._known, features=features)
        self.scorer.update_item(features, item)
        for name, space in self._spaces.items():
            if name != "users":
                space.update(features.item, item)
            elif user is not None:
                space.update(features.user, user)
        self._heard += 1

    @property
    def _saved(self) -> SavedRecommender:
        if self._heard:
            raise DataError(
                "this Recommender has heard live reviews, which are not in its model: fit again"
            )
        notes = self.corpus.notes if self.config.annotation.strategy == "notes" else []
        return SavedRecommender(
            self.config, self.model, self.reviews, notes, self._known, self.evaluation
        )

    @classmethod
    def _of(cls, saved: SavedRecommender) -> Self:
        recommender = cls(saved.config)
        recommender.evaluation = saved.evaluation
        corpus = Dataset.from_reviews(
            saved.reviews, recommender.models, saved.config, saved.notes or None
        )
        recommender._know(saved.model, saved.reviews, corpus, saved.known_reviews)
        return recommender
