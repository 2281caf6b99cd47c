"""The Recommender: fit, predict, recommend, explain, save and load; and reviews added at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.errors import DataError
from mmrec.evaluation.metrics import Metrics
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.types import Note
from mmrec.pipeline import FitEvaluation, TrainingResult, open_models, prepare_data, train_model
from mmrec.recommender.catalog import Catalog, TextSearch
from mmrec.recommender.explain import Explainer, Explanation
from mmrec.recommender.hub import HubMixin
from mmrec.recommender.lists import ListMaker, ListOptions, ListScorer
from mmrec.recommender.new_users import find_user
from mmrec.recommender.online import KnownReviews, LiveReview, OnlineState
from mmrec.recommender.persistence import SavedRecommender
from mmrec.vision.image_features import PhotoAnnotator

__all__ = ["Recommender", "RecommenderState"]


class RecommenderState:
    """The parts of a fitted recommender, which change together when a review or an item is added.

    Args:
        saved: the fitted model with its reviews.
        dataset: the same reviews.
        models: the language model, captioner and encoder.
    """

    def __init__(self, saved: SavedRecommender, dataset: Dataset, models: Models) -> None:
        self.saved, self.dataset = saved, dataset
        encoder = models.encoder
        # Each part reads those before it; none changes another.
        self.online = OnlineState(saved.known_reviews, saved.model.builder, models)
        self.catalog = Catalog(saved, dataset, self.online)
        self.scorer = ListScorer(saved.model, saved.known_reviews.features)
        self.search = TextSearch(self.online, self.catalog, encoder)
        self.lists = ListMaker(self.catalog, self.scorer, self.search)
        self.explainer = Explainer(self.catalog, self.scorer, encoder)
        self.changed = False  # whether there are live reviews or items

    def warm_up(self) -> None:
        """Compute now what the first request would wait for."""
        self.search.warm_up()
        self.catalog.warm_up()

    def update(self, item: int, user: int | None = None) -> None:
        """Use the changed features of an item, and of a user, everywhere."""
        # Features of a user are read anew for each list; those of items are stored in parts.
        self.scorer.update_item(self.online.features, item)
        self.search.update(item, user)
        self.changed = True


class Recommender(HubMixin):
    """Learns from reviews who will like what; any user and any item can be scored.

    Args:
        config: all settings; `Config()` is the recommended pipeline.
        models: the models that `config` names, where they are open already.
    """

    def __init__(self, config: Config | None = None, models: Models | None = None) -> None:
        self.config = config or Config()
        self.models = models or open_models(self.config)
        self._state: RecommenderState | None = None

    @property
    def state(self) -> RecommenderState:
        """The parts of the fitted recommender, with live reviews.

        Raises:
            DataError: nothing has been fitted or loaded.
        """
        if self._state is None:
            message = "this Recommender knows nothing yet: call fit(reviews) or load(folder) first"
            raise DataError(message)
        return self._state

    @property
    def evaluation(self) -> FitEvaluation:
        """How good the model is on test rows, and from which probability on it recommends."""
        return self.state.saved.evaluation

    @property
    def reviews(self) -> Reviews:
        """All reviews that the model was fitted on."""
        return self.state.saved.reviews

    def fit(self, reviews: Reviews) -> Self:
        """Split the reviews, train the model of `config.ranker.features`, and then know all of them.

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
        """Use a trained model, and know all reviews.

        Args:
            result: a model trained on these reviews.
            reviews: all of them, also those that were filtered out before training.
            other_metrics: of models that it was compared with, on the same test rows.
        """
        dataset = result.prepared.dataset
        if len(dataset) != len(reviews):
            dataset = Dataset.from_reviews(reviews, self.models, self.config)
        model = replace(result.model, builder=result.model.builder.refit(dataset))
        saved = SavedRecommender(
            config=self.config,
            model=model,
            reviews=reviews,
            notes=[],
            known_reviews=KnownReviews.from_dataset(dataset, model.builder),
            evaluation=result.evaluate(other_metrics),
        )
        self._state = RecommenderState(saved, dataset, self.models)
        return self

    def predict(self, users: Sequence[str], items: Sequence[str]) -> np.ndarray:
        """(n,) probabilities that each of n users likes the item beside it; ids may be unknown."""
        online = self.state.online
        return self.state.scorer.score_pairs(
            (online.views("user", users), online.views("item", items))
        )

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
        """The items that a user will most likely like.

        Args:
            user: id; an unknown user is one without reviews.
            n: number of items.
            likes: words of a new user, as in "ramen, quiet places, cheap"; only items with reviews
                near to these words are ranked.
            liked: ids of items that a new user likes.
            seen: whether items that the user has reviewed may be recommended too.
            categories, prices: items must have one of them, where any are given.
            max_fpr: only items so probable that at most this share of the dislikes would pass.
            diversity: from 0 to 1, how much items that differ from those above them are preferred.

        Returns:
            Up to n rows, best first: `item`, `name`, `probability`, `price`, `categories`.

        Raises:
            DataError: not just one of a user, words, and liked items; or an unknown liked item.
        """
        state = self.state
        view = find_user(state.online, user, likes, liked, state.scorer.inputs)
        excluded: Sequence[int] | np.ndarray = ()
        if not seen and user is not None:
            excluded = state.catalog.reviewed_items(view.index)
        elif not seen:
            excluded = state.online.item_codes(liked)
        options = ListOptions(categories, prices, self._min_probability(max_fpr), diversity)
        return state.lists.recommend(view, n, options, query=likes, excluded=excluded)

    def recommend_all(
        self,
        n: int = 10,
        *,
        users: Sequence[str] | None = None,
        seen: bool = False,
        max_fpr: float | None = None,
    ) -> pl.DataFrame:
        """`user`, `rank` from 1, `item` and `probability`: up to n rows for each user, or for all."""
        online = self.state.online
        users = [*online.codes["user"]] if users is None else users
        views = online.views("user", users).tolist()
        min_probability = self._min_probability(max_fpr)
        return self.state.lists.recommend_all(users, views, n, min_probability, seen=seen)

    def search(self, text: str, n: int = 10) -> list[str]:
        """Ids of items with the text in their name, then of those with reviews nearest to it."""
        return self.state.search.search(text, n)

    def similar_items(self, item: str, n: int = 10) -> list[tuple[str, float]]:
        """Items with similar reviews, and cosines; a DataError if it is unknown."""
        (code,) = self.state.online.item_codes([item])
        return self.state.search.neighbors("gist", code, n)

    def similar_users(self, user: str, n: int = 10) -> list[tuple[str, float]]:
        """Users who write similar reviews, and cosines; a DataError if the user is unknown."""
        codes = self.state.online.codes["user"]
        if user not in codes:
            raise DataError(f"{user!r} has written no review here; check the id")
        return self.state.search.neighbors("users", codes[user], n)

    def explain(
        self, user: str | None, item: str, *, likes: str | None = None, liked: Sequence[str] = ()
    ) -> Explanation:
        """Why an item has its probability: which knowledge it comes from, and quotes of reviews.

        Args:
            user, likes, liked: as for `recommend`.
            item: id.

        Raises:
            DataError: the item is unknown; not just one of a user, words, and liked items.
        """
        state = self.state
        (code,) = state.online.item_codes([item])
        view = find_user(state.online, user, likes, liked, state.scorer.inputs)
        return state.explainer.explain(view, code)

    def annotate(self, text: str) -> Note:
        """The note of a review; the language model is called once for each text."""
        return self.models.annotator.write_notes([text])[0]

    def caption(self, photo: Path) -> str:
        """The caption of a photo; the captioner is called once for each photo.

        Raises:
            PhotoError: the file is not a readable photo.
        """
        annotator = PhotoAnnotator(self.models.store, self.config.read.max_pixels)
        return annotator.caption_photo(photo, self.models.captioner)

    def add_review(
        self,
        user: str,
        item: str,
        rating: float,
        text: str,
        review_id: str,
        note: Note | None = None,
    ) -> None:
        """Add a live review, which changes its user and its item, known or new, at once.

        Args:
            user, item, review_id: ids.
            rating: in stars.
            text: as it is to be quoted.
            note: of the text, where it has been annotated before.
        """
        note = quotable = note or self.annotate(text)
        if self.models.quote_annotator is not self.models.annotator:
            (quotable,) = self.models.quote_annotator.write_notes([text])
        state, review = self.state, LiveReview(user, item, rating, text, note)
        user_code, item_code = state.online.add_review(review)
        state.catalog.add_review(user_code, item_code, item, review_id, quotable)
        state.update(item_code, user_code)

    def add_item(
        self,
        item: str,
        *,
        name: str | None = None,
        description: str = "",
        captions: Sequence[str] = (),
        note: Note | None = None,
    ) -> None:
        """Add a new item by its description or captions of its photos; or add these to an item.

        Args:
            item, name: id, and name to show.
            description: used like a review without a rating.
            captions: of photos; see `caption`.
            note: of the description, where it has been annotated before.

        Raises:
            DataError: the model uses neither the description nor the captions.
        """
        state = self.state
        code = state.online.add_item(
            item, description, note or self.annotate(description), captions
        )
        state.catalog.update_item(code, item, name, captions)
        state.update(code)

    def _min_probability(self, max_fpr: float | None) -> float:
        return 0.0 if max_fpr is None else self.evaluation.curve.for_max_fpr(max_fpr)[0]

    def to_saved(self) -> SavedRecommender:
        """What `save` writes; a DataError if there are live reviews."""
        if self.state.changed:
            message = "live reviews or items are not part of the model: fit again to save them"
            raise DataError(message)
        notes = self.state.dataset.notes if self.config.annotation.strategy == "notes" else []
        return replace(self.state.saved, notes=notes)

    @classmethod
    def from_saved(cls, saved: SavedRecommender) -> Self:
        """A recommender as it was saved."""
        recommender = cls(saved.config)
        models, notes = recommender.models, saved.notes or None
        dataset = Dataset.from_reviews(saved.reviews, models, saved.config, notes)
        recommender._state = RecommenderState(saved, dataset, models)
        return recommender
