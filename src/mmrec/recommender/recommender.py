"""The Recommender: fit, predict, recommend, explain; and reviews added at any time."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Self

import numpy as np
import polars as pl

from mmrec.console import track
from mmrec.data.schema import Reviews
from mmrec.errors import DataError
from mmrec.evaluation.metrics import Metrics
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.types import Note, Wish
from mmrec.pipeline import TrainingResult, choose_model, prepare_data, train_model
from mmrec.recommender.explain import Explanation
from mmrec.recommender.hub import PersistentModel
from mmrec.recommender.live_reviews import LiveReview
from mmrec.recommender.online import Outcome, ReviewChanges
from mmrec.recommender.persistence import SavedRecommender
from mmrec.recommender.proposals import ListedItems, ListRules
from mmrec.recommender.state import RecommenderState
from mmrec.retrieval.text_neighbors import diversify


class Recommender(PersistentModel):
    """Learns from reviews who will like what; any user and any item can be scored.

    Everything but `fit` and `load` raises a DataError as long as nothing is fitted or loaded.
    """

    _state: RecommenderState | None = None

    @property
    def state(self) -> RecommenderState:
        """The parts of the recommender, with live reviews; built on first use."""
        if self._state is None:
            self._state = RecommenderState(self.saved, self.models)
        return self._state

    def fit(self, reviews: Reviews) -> Self:
        """Train the configured model, and know all reviews; a DataError if too few.

        The bias model takes its place where it is not proven better (`saved.evaluation.verdict`).
        """
        trained = train_model(prepare_data(reviews, self.config, self.models))
        return self.use_model(choose_model(trained), reviews)

    def use_model(
        self,
        result: TrainingResult,
        reviews: Reviews,
        other_metrics: dict[str, Metrics] | None = None,
    ) -> Self:
        """Use a trained model, and know all reviews, also those that training filtered out."""
        dataset = result.prepared.dataset
        if len(dataset) != len(reviews):
            dataset = Dataset.from_reviews(reviews, self.models, self.config)
        model = replace(result.model, builder=result.model.builder.refit(dataset))
        evaluation = result.evaluate(other_metrics)
        self._saved = SavedRecommender.from_training(model, reviews, evaluation, dataset)
        self._state, self._has_live_reviews = None, False
        return self

    def predict(self, users: Sequence[str], items: Sequence[str]) -> np.ndarray:
        """(n,) probabilities that each user likes the item beside it; ids may be unknown."""
        online = self.state.online
        views = online.views("user", users), online.views("item", items)
        return self.state.scorer.score_pairs(views)

    def recommend(
        self,
        user: str | None = None,
        n: int = 10,
        *,
        likes: str | Wish | None = None,
        liked: Sequence[str] = (),
        seen: bool = False,
        categories: Sequence[str] = (),
        prices: Sequence[str] = (),
        max_fpr: float | None = None,
        caution: float | None = None,
        diversity: float = 0.0,
        explore: bool = False,
    ) -> pl.DataFrame:
        """A list for a user: what others with the same history choose, or what matches a wish.

        The order is by the score of that choice or match, less `caution` times the odds ratio of a
        dislike. So probabilities need not fall from row to row.

        Args:
            user: id; an unknown user is one without reviews.
            likes: what a new user wishes, as in "cheap ramen, no seafood", or its `parse_wish`.
            liked: ids or names of items that a new user likes.
            seen: whether items that the user has reviewed may be recommended too.
            categories, prices: items must have one of them, where any are given.
            max_fpr: only items so probable that at most this share of dislikes would pass; 1: all.
            caution: by default the setting of the fit; at 0 only the choice or match counts.
            diversity: from 0 to 1, how much items unlike those above them are preferred.
            explore: whether every third place is for an item that nobody has rated; by default
                these stand last, but among items that match words, like others.

        Returns:
            Up to n rows, best first: `item`, `name`, `probability`, `price`, `categories`; with
            `explore` also `unproven`, whether nobody has rated the item.

        Raises a DataError for not just one of user, likes, and liked, for a liked item that is
        unknown, or whose name several have, and for a bound or a caution that is out of range.
        """
        state, rules = self.state, self._rules(seen, max_fpr, caution, explore)
        wish, allowed = self._wish(likes), state.catalog.allowed_items(categories, prices)
        view, inputs = state.find_user(user, wish, liked)
        basis, limit = state.list_basis(view, wish, liked), 10 * n if diversity else n
        listed = state.list_maker.top_items(view, basis, limit, rules, inputs, allowed)
        listed = self._diversify(listed, n, diversity)
        table = state.catalog.describe(listed.items)
        if explore:
            unproven = state.scorer.inputs.item.has_no_rating(listed.items)
            table = table.with_columns(pl.Series("unproven", unproven, pl.Boolean()))
        return table.insert_column(2, pl.Series("probability", listed.probability))

    def _diversify(self, listed: ListedItems, n: int, diversity: float) -> ListedItems:
        """The first n items; those that stand last, since nobody has rated them, stay there."""
        if not diversity:
            return listed
        rated, last = np.flatnonzero(~listed.is_last), np.flatnonzero(listed.is_last)
        directions = self.state.catalog.space("gist").directions(listed.items[rated])
        chosen = rated[diversify(listed.score[rated], directions, n, diversity)]
        return listed.take(np.append(chosen, last)[:n])

    def recommend_all(
        self,
        n: int = 10,
        *,
        users: Sequence[str] | None = None,
        seen: bool = False,
        max_fpr: float | None = None,
        caution: float | None = None,
        explore: bool = False,
    ) -> pl.DataFrame:
        """Up to n rows for each user: `user`, `rank` from 1, `item`, `probability`; options are those of
        `recommend`."""
        state, online = self.state, self.state.online
        users = online.ids["user"] if users is None else users
        rules = self._rules(seen, max_fpr, caution, explore)
        lists = state.list_maker.lists(online.views("user", users), n, rules)
        rows: list[tuple[str, int, str, float]] = []
        with track("recommending", len(users)) as advance:
            for user, listed in zip(users, lists, strict=True):
                ranked = zip(listed.items.tolist(), listed.probability.tolist(), strict=True)
                for rank, (item, value) in enumerate(ranked, 1):
                    rows.append((user, rank, online.ids["item"][item], value))
                advance(1)
        schema = {"user": pl.String(), "rank": pl.UInt32(), "item": pl.String()}
        return pl.DataFrame(rows, schema | {"probability": pl.Float64()}, orient="row")

    def parse_wish(self, text: str) -> Wish:
        """What a text says is wanted: read by the language model of the fit, or else by rules."""
        (wish,) = self.models.annotator.read_wishes([text])
        catalog = self.state.catalog
        return catalog.parse_wish(text) if wish is None else catalog.resolve_names(wish)

    def _wish(self, likes: str | Wish | None) -> Wish | None:
        if isinstance(likes, Wish):
            return self.state.catalog.resolve_names(likes)
        return self.parse_wish(likes) if likes else None

    def search(self, text: str, n: int = 10) -> list[str]:
        """Ids of items with the text in their name, then of those that match it best as a wish."""
        return self.state.catalog.search(text, n)

    def similar_items(self, item: str, n: int = 10) -> list[tuple[str, float]]:
        """Items with similar reviews, and cosines; a DataError if it is unknown."""
        (code,) = self.state.online.item_codes([item])
        return self.state.catalog.neighbors("gist", code, n)

    def similar_users(self, user: str, n: int = 10) -> list[tuple[str, float]]:
        """Users who write similarly, and cosines; a DataError if the user is unknown."""
        codes = self.state.online.codes["user"]
        if user not in codes:
            raise DataError(f"{user!r} has written no review here; check the id")
        return self.state.catalog.neighbors("users", codes[user], n)

    def explain(
        self,
        user: str | None,
        item: str,
        *,
        likes: str | Wish | None = None,
        liked: Sequence[str] = (),
    ) -> Explanation:
        """Why an item has its probability: reasons in words, contributions, and quotes of reviews.

        The user is named as for `recommend`; a DataError is raised for an unknown item, too.
        """
        return self.explain_list(user, [item], likes=likes, liked=liked)[0]

    def explain_list(
        self,
        user: str | None,
        items: Sequence[str],
        *,
        likes: str | Wish | None = None,
        liked: Sequence[str] = (),
    ) -> list[Explanation]:
        """`explain` several items at once, so that no sentence is quoted twice."""
        state, wish = self.state, self._wish(likes)
        codes = state.online.item_codes(items)
        view, inputs = self.state.find_user(user, wish, liked)
        liked_codes = [state.catalog.find_item(item) for item in liked]
        tastes = state.reasons.tastes(None if user is None else view, wish, liked_codes)
        return state.explainer.explain(view, inputs, codes, tastes, wish)

    def _rules(
        self, seen: bool, max_fpr: float | None, caution: float | None, explore: bool
    ) -> ListRules:
        """A DataError for values out of range."""
        if caution is not None and not 0 <= caution < np.inf:
            raise DataError(f"caution {caution}: give a number from 0 on")
        if max_fpr is not None and not 0 <= max_fpr <= 1:
            raise DataError(f"max_fpr {max_fpr}: give a share from 0 to 1")
        lowest = 0.0
        if max_fpr is not None and max_fpr < 1:  # 1 is no bound, other than on the curve
            lowest, _ = self.saved.evaluation.curve.for_max_fpr(max_fpr)
        return ListRules(seen, lowest, caution, explore)

    def add_review(
        self,
        user: str,
        item: str,
        rating: float,
        text: str,
        review_id: str,
        note: Note | None = None,
        time: datetime | None = None,
    ) -> None:
        """Add a live review, in place of an earlier one by the same user of the same item.

        `note` is that of its text, where it has been annotated before.
        """
        note = note or self.models.annotator.write_notes([text])[0]
        day = str(time.date()) if time else ""
        self.add_reviews([LiveReview(user, item, rating, text, review_id, note, day)])

    def add_reviews(self, reviews: Sequence[LiveReview]) -> None:
        """Add many live reviews, in their order; sooner than one after the other."""
        self.apply(self.read_changes({(review.user, review.item): review for review in reviews}))

    def withdraw_review(self, user: str, item: str) -> None:
        """Take back what a user said of an item, live or before the fit; a DataError if there is nothing."""
        if not self.has_reviewed(user, item):
            raise DataError(f"{user!r} has written no review of {item!r}")
        self.apply(self.read_changes({(user, item): None}))

    def has_reviewed(self, user: str, item: str) -> bool:
        """Whether a review of an item by a user counts."""
        codes = self.state.online.codes
        if user not in codes["user"] or item not in codes["item"]:
            return False
        items, _ = self.state.online.live.ratings("user", codes["user"][user])
        return codes["item"][item] in items

    def read_changes(self, outcome: Outcome, models: Models | None = None) -> ReviewChanges:
        """Have models read live reviews, without any change yet; `models` may know their vectors."""
        return self.state.online.read(outcome, models or self.models)

    def apply(self, changes: ReviewChanges) -> None:
        """Let live reviews that were read count at once."""
        self.state.apply(changes)
        self._has_live_reviews = True

    def add_item(
        self,
        item: str,
        *,
        name: str | None = None,
        description: str = "",
        captions: Sequence[str] = (),
        note: Note | None = None,
    ) -> None:
        """Add an item by a description or captions of photos, or add these to one.

        A description is used like a review without a rating; `note` is its note, where it has been
        annotated before. Raises a DataError if the model uses neither description nor captions.
        """
        note = note or self.models.annotator.write_notes([description])[0]
        self.state.add_item(item, name, description, captions, note)
        self._has_live_reviews = True
