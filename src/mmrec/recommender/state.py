"""What a fitted recommender consists of, with live reviews."""

from __future__ import annotations

from collections.abc import Sequence

from mmrec.features.dataset import Dataset, Models
from mmrec.llm.types import Note
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.explain import Explainer
from mmrec.recommender.list_scoring import ListScorer
from mmrec.recommender.lists import ListMaker
from mmrec.recommender.new_users import UserViews
from mmrec.recommender.online import LiveReview, OnlineState
from mmrec.recommender.persistence import SavedRecommender
from mmrec.recommender.text_search import TextSearch

__all__ = ["RecommenderState"]


class RecommenderState:
    """The parts of a fitted recommender, which change together when a review or an item is added.

    Args:
        saved: the fitted model with its reviews.
        dataset: the same reviews.
        models: the language model, captioner and encoder.

    Attributes:
        online: features of users and items.
        catalog: names, prices, categories, photos and quotes of items.
        scorer: probabilities of pairs, and the best items of a user.
        search: users and items by their texts.
        users: views of known and new users.
        lists: lists of recommendations.
        explainer: reasons and typical quotes.
        changed: whether there are live reviews or items.
    """

    def __init__(self, saved: SavedRecommender, dataset: Dataset, models: Models) -> None:
        self.saved, self.dataset = saved, dataset
        builder, encoder = saved.model.builder, models.encoder
        # Each part reads those before it; none changes another.
        self.online = OnlineState(saved.known_reviews, builder, models)
        self.catalog = Catalog(
            saved.reviews,
            dataset,
            builder.vocabulary,
            self.online,
            quote_captions=saved.config.vision.captioner != "builtin",
        )
        self.scorer = ListScorer(saved.model, saved.known_reviews.features)
        self.search = TextSearch(self.online, self.catalog, encoder)
        self.users = UserViews(self.online, builder, models)
        self.lists = ListMaker(self.catalog, self.scorer, self.search)
        self.explainer = Explainer(self.catalog, self.scorer, encoder)
        self.changed = False

    def warm_up(self) -> None:
        """Compute now what the first request would wait for."""
        self.search.warm_up()
        self.catalog.warm_up()

    def add_review(self, review: LiveReview, review_id: str, quotable: Note) -> None:
        """Add a live review; `quotable` has sentences of it, word for word."""
        user, item = self.online.add_review(review)
        self.catalog.add_review(user, item, review.item, review_id, quotable)
        self._update(item, user)

    def add_item(
        self, item: str, name: str | None, description: str, note: Note, captions: Sequence[str]
    ) -> None:
        """Add an item, or a description or captions to one; see `Recommender.add_item`."""
        code = self.online.add_item(item, description, note, captions)
        self.catalog.update_item(code, item, name, captions)
        self._update(code)

    def _update(self, item: int, user: int | None = None) -> None:
        """Use the changed features of an item, and of a user, everywhere."""
        # Features of a user are read anew for each list; those of items are stored in parts.
        self.scorer.update_item(self.online.features, item)
        self.search.update(item, user)
        self.changed = True
