"""Online state: users and items with live reviews, updated at once, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmrec.data.schema import EntityKind
from mmrec.errors import DataError
from mmrec.evidence.policies import EvidenceViews
from mmrec.features import mixed_effects
from mmrec.features.dataset import Dataset, Models
from mmrec.features.mixed_effects import PRIOR_REVIEWS, TextRegression, review_statistics
from mmrec.features.tables import EntityFeatures, EvidenceSums
from mmrec.llm.types import Note, Wish
from mmrec.recommender.entity_totals import STATISTICS, EntityTotals, review_totals
from mmrec.recommender.live_reviews import LiveReview, LiveReviews
from mmrec.recommender.persistence import SavedRecommender

Outcome = Mapping[tuple[str, str], LiveReview | None]
"""By user and item: the review that counts from now on, or None to withdraw what there is."""


@dataclass(frozen=True)
class ReviewChanges:
    """What changes, after models have read it: n reviews that are added or withdrawn."""

    outcome: Outcome
    users: list[str]  # (n) ids
    items: list[str]
    sign: np.ndarray  # (n,) 1 for a review that is added, -1 for one that no longer counts
    dataset: Dataset
    # What each review adds to the totals of its user and its item, but for effects.
    totals: dict[EntityKind, dict[str, np.ndarray]]
    # (n,) reviews of the fit that no longer count, and their rows.
    fitted: dict[int, int]


class OnlineState:
    """All users and items with their live reviews.

    `ids` and `codes` have, by kind, all ids in order and the code of each. `features` are changed
    in place; before the last view, of unknown ids, there may be some that no id has yet.
    """

    def __init__(
        self, saved: SavedRecommender, dataset: Dataset, live: LiveReviews, models: Models
    ) -> None:
        self._models, self.features, self.live = models, saved.features, live
        data = dataset.data
        self.ids: dict[EntityKind, list[str]] = {"user": [*data.users], "item": [*data.items]}
        self.codes: dict[EntityKind, dict[str, int]] = {}
        for kind, ids in self.ids.items():
            self.codes[kind] = {name: code for code, name in enumerate(ids)}
        self._dataset, self._builder = dataset, saved.model.builder
        self._fitted_sums, self._regression = saved.evidence_sums, saved.text_regression
        self._totals: dict[EntityKind, EntityTotals] = {}
        for kind, sums in saved.evidence_sums.items():
            self._totals[kind] = EntityTotals(kind, sums, self._builder)

    def read(self, outcome: Outcome, models: Models) -> ReviewChanges:
        """Read what is to change by models; nothing changes yet, and nothing does if they fail."""
        users, items, signs = list[str](), list[str](), list[int]()
        ratings, texts, notes = list[float](), list[str](), list[Note]()
        effective, fitted = dict[tuple[str, str], LiveReview | None](), dict[int, int]()

        def add(pair: tuple[str, str], sign: int, rating: float, text: str, note: Note) -> None:
            users.append(pair[0])
            items.append(pair[1])
            signs.append(sign)
            ratings.append(rating)
            texts.append(text)
            notes.append(note)

        for pair, review in outcome.items():
            earlier, fitted_rows = self._earlier(*pair)
            if earlier and review and earlier.content == review.content:
                continue  # sent twice
            effective[pair] = review
            for row in fitted_rows:
                fitted[len(texts)] = row
                add(pair, -1, *self._fitted_review(row, models))
            if earlier is not None:
                add(pair, -1, earlier.rating, earlier.text, earlier.note)
            if review is not None:
                add(pair, 1, review.rating, review.text, review.note)
        dataset = Dataset.unnamed(texts, ratings, notes, models)
        totals = {kind: self._read_totals(kind, dataset) for kind in self._totals} if texts else {}
        sign = np.array(signs, dtype=np.float64)
        return ReviewChanges(effective, users, items, sign, dataset, totals, fitted)

    def _earlier(self, user: str, item: str) -> tuple[LiveReview | None, list[int]]:
        """What a user has said of an item so far: live, or else in rows of the fit."""
        user_code, item_code = self.codes["user"].get(user), self.codes["item"].get(item)
        if user_code is None or item_code is None:
            return None, []
        voices = self.live.of("user", user_code)
        if item_code in voices:
            return voices[item_code], []
        data = self._dataset.data
        if user_code >= len(data.users) or item_code >= len(data.items):
            return None, []
        rows = data.rows_of("user", user_code)
        return None, rows[data.item[rows] == item_code].tolist()

    def _fitted_review(self, row: int, models: Models) -> tuple[float, str, Note]:
        dataset = self._dataset
        notes = dataset.earlier_notes
        note = notes[row] if notes else models.annotator.write_notes([dataset.texts[row]])[0]
        return float(dataset.data.rating[row]), dataset.texts[row], note

    def _read_totals(self, kind: EntityKind, dataset: Dataset) -> dict[str, np.ndarray]:
        single = EvidenceViews.all_reviews(np.arange(len(dataset)))
        totals = review_totals(kind, self._builder.evidence_sums(kind, single, dataset))
        if (regression := self._regression) is not None:
            ratings, ones = dataset.data.rating, np.ones(len(dataset))
            lengths = np.array([*map(len, dataset.texts)])
            statistics = review_statistics(ratings, ones, lengths)
            columns = [statistics[name].astype(np.float64) for name in STATISTICS]
            totals |= {"statistics": np.stack(columns, axis=1), "effect weight": ones}
            if kind == "item":
                totals |= {"topics": _topics(regression, dataset), "topic weight": ones}
        return totals

    def apply(self, changes: ReviewChanges) -> tuple[np.ndarray, np.ndarray]:
        """Let changes count; (n,) codes of the users and (n,) of the items whose features changed."""
        pairs = [*changes.outcome]
        for user, item in pairs:
            self._add_id("user", user)
            self._add_id("item", item)
        self._make_room()
        for (user, item), review in changes.outcome.items():
            self.live.put(self.codes["user"][user], self.codes["item"][item], review)
        if not len(changes.sign):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        codes: dict[EntityKind, np.ndarray] = {}
        codes["user"] = np.array([self.codes["user"][user] for user in changes.users])
        codes["item"] = np.array([self.codes["item"][item] for item in changes.items])
        totals: dict[EntityKind, dict[str, np.ndarray]] = {**changes.totals}
        if self._regression is not None:
            totals = self._with_effects(changes, codes, self._regression)
        for kind, of_kind in self._totals.items():
            features = self._entity_features(kind)
            of_kind.add(codes[kind], totals[kind], changes.sign, features)
        users, items = np.unique(codes["user"]), np.unique(codes["item"])
        self.features.item.replace_views(items, self._totals["item"].build(items))
        factors = None if self._regression is None else self._user_factors(users, self._regression)
        self.features.user.replace_views(users, self._totals["user"].build(users, factors))
        return users, items

    def _with_effects(
        self,
        changes: ReviewChanges,
        codes: Mapping[EntityKind, np.ndarray],
        regression: TextRegression,
    ) -> dict[EntityKind, dict[str, np.ndarray]]:
        """Totals with the targets of effects: what is left of rating and text beside the other side."""
        dataset, totals = changes.dataset, dict[EntityKind, dict[str, np.ndarray]]()
        targets = np.stack([dataset.data.rating.astype(np.float64), np.zeros(len(dataset))], axis=1)
        targets[:, 0] -= regression.mean_rating
        targets[:, 1] = regression.predict(dataset.text_vectors.astype(np.float64))
        sides: tuple[tuple[EntityKind, EntityKind], ...] = (("user", "item"), ("item", "user"))
        for kind, other in sides:
            effects = self._totals[other].fitted_effects(codes[other], self._entity_features(other))
            rest = targets - effects
            totals[kind] = {**changes.totals[kind], "effects": rest, "squares": rest[:, 0] ** 2}
        return totals

    def _user_factors(self, users: np.ndarray, regression: TextRegression) -> np.ndarray:
        """(n, t) factors of (n,) users, from all their ratings, beside items as they were fitted."""
        rated = [self.live.ratings("user", code) for code in users.tolist()]
        count = np.array([len(items) for items, _ in rated])
        items = np.concatenate([items for items, _ in rated]).astype(np.int64)
        ratings = np.concatenate([stars for _, stars in rated])
        user = np.repeat(np.arange(len(users)), count)
        features, fitted = self.features.item, self._totals["item"]
        distinct, item = np.unique(items, return_inverse=True)
        item_effect = fitted.fitted_effects(distinct, features)[item, 0]
        user_effect = self._totals["user"].effects(users)[user, 0]
        residual = ratings - regression.mean_rating - user_effect - item_effect
        topics = fitted.fitted_factors(distinct, features)
        return mixed_effects.user_factors(topics, user, item, residual, len(users))

    def add_item(self, item: str, text: str, note: Note, captions: Sequence[str]) -> int:
        """Add a description, or captions of photos, to a new or known item; its code.

        A description counts like half a review whose rating its words predict, so that of two the one
        that praises counts for more; half, since its author is not neutral.
        """
        self.check_item_content(text, captions)
        dataset = Dataset.description(text, note, self._models, captions)
        single = EvidenceViews.all_reviews(np.zeros(1, dtype=np.int64))
        totals = review_totals("item", self._builder.evidence_sums("item", single, dataset))
        if (regression := self._regression) is not None and text.strip():
            vector = dataset.text_vectors.astype(np.float64)
            penalty = self._builder.penalties[1]
            # Among as many reviews as the larger of the penalty and the prior of other columns.
            weight = np.array([0.5 * penalty / max(penalty, PRIOR_REVIEWS)])
            effects = weight[:, None] * np.repeat(regression.predict(vector)[:, None], 2, axis=1)
            totals |= {"effects": effects, "effect weight": weight}
            totals |= {"topics": _topics(regression, dataset), "topic weight": np.ones(1)}
        self._add_id("item", item)
        self._make_room()
        code = np.array([self.codes["item"][item]])
        features, of_items = self.features.item, self._totals["item"]
        of_items.add(code, totals, np.ones(1), features)
        features.replace_views(code, of_items.build(code))
        return int(code[0])

    def check_item_content(self, text: str, captions: Sequence[str]) -> None:
        """Raise a DataError if the model uses neither the description nor the captions."""
        if not text.strip() and not captions:
            raise DataError("describe the item in words, or bring a photo of it")
        uses_images = self._builder.config.ranker.features == "baseline"
        if not text.strip() and (uses_images or not self._builder.image):
            problem = "this model has learned nothing from captions"
            raise DataError(f"{problem}: describe the item in words")

    def views(self, kind: EntityKind, ids: Sequence[str]) -> np.ndarray:
        """(n,) views of users or of items; that of an unknown one for unknown ids."""
        codes, unknown = self.codes[kind], self._entity_features(kind).unknown_index
        return np.array([codes.get(name, unknown) for name in ids], dtype=np.int64)

    def item_codes(self, items: Sequence[str]) -> list[int]:
        """Codes of items; a DataError if one is unknown."""
        try:
            return [self.codes["item"][item] for item in items]
        except KeyError as error:
            raise DataError(f"there is no review of item {error}; check the id") from None

    def describe_user(self, wish: Wish) -> EntityFeatures:
        """Features of a new user, in one view, from a wish; what is wanted counts as a like."""
        words, price = wish.description or str(wish), wish.prices[0] if wish.prices else "none"
        likes = [*wish.wanted, *([words] if wish.description else [])]
        note = Note(gist=words, likes=likes, dislikes=wish.unwanted, price=price)
        dataset = Dataset.description(words, note, self._models)
        single = EvidenceViews.all_reviews(np.zeros(1, dtype=np.int64))
        return self._new_user(self._builder.evidence_sums("user", single, dataset))

    def user_who_likes(self, items: Sequence[int], rating: float = 5.0) -> EntityFeatures:
        """Features of a new user who rates the items so and writes as others do of them."""
        features, count = self.features.item, len(items)
        columns: dict[str, float] = {}
        factors: np.ndarray | None = None
        if (regression := self._regression) is not None:
            effect = features.dense[items, features.names.index("rating effect")].astype(np.float64)
            above_mean = rating - regression.mean_rating - effect
            # Ridge regression with one column: a mean shrunk towards zero.
            columns["rating effect"] = above_mean.sum() / (count + self._builder.penalties[0])
            residuals = above_mean - columns["rating effect"]
            unknown = self._builder.unknown_effects["user"]
            statistics = review_statistics(np.full(count, rating), residuals, np.ones(count))
            for name in statistics.keys() - mixed_effects.TEXT_COLUMNS:
                total = unknown[name] * PRIOR_REVIEWS + statistics[name].sum()
                columns[name] = total / (count + PRIOR_REVIEWS)
            topics = features.factors[items].astype(np.float64)
            factors = mixed_effects.ridge_factors(topics, residuals)
        # (1, d) mean vectors of the items' texts, written by users who like them.
        vectors = {}
        for name in self.features.user.vectors:
            if name in features.vectors and name != "dislikes":
                vectors[name] = features.vectors[name][items].astype(np.float32).mean(0)[None]
        fitted = self._fitted_sums["user"]
        nothing = replace(fitted, vectors={}).map(lambda values: np.zeros_like(values[:1]))
        text_count = {**nothing.text_count, **dict.fromkeys(vectors, np.array([count]))}
        for name, values in self.features.user.vectors.items():
            vectors.setdefault(name, np.zeros((1, values.shape[1]), np.float32))
        sums = replace(
            nothing,
            rating_count=np.array([count]),
            rating_sum=np.array([rating * count]),
            vectors=vectors,
            text_count=text_count,
        )
        return self._new_user(sums, columns, factors)

    def _new_user(
        self,
        sums: EvidenceSums,
        columns: Mapping[str, float] | None = None,
        factors: np.ndarray | None = None,
    ) -> EntityFeatures:
        """Features of a new user, in one view, who is unknown but for some columns and (t,) factors."""
        unknown = self._builder.unknown_effects.get("user", {})
        if not unknown:
            return self._builder.from_sums("user", sums, new=True)
        known: dict[str, float] = {**unknown, **(columns or {})}
        effects = {name: np.array([known[name], unknown[name]]) for name in unknown}
        both = np.zeros((2, self._builder.factor_count), np.float16)
        if factors is not None:
            both[0] = factors
        return self._builder.from_sums("user", sums, effects, both, new=True)

    def _add_id(self, kind: EntityKind, name: str) -> None:
        """Give an id a code, unless it has one."""
        if name not in self.codes[kind]:
            self.codes[kind][name] = len(self.ids[kind])
            self.ids[kind].append(name)

    def _make_room(self) -> None:
        """See that every code has a view; arrays grow by a half at least, since they are copied."""
        for kind, ids in self.ids.items():
            features = self._entity_features(kind)
            missing = len(ids) - features.unknown_index
            if missing > 0:
                room = max(1024, missing, len(ids) // 2)
                larger: Any = {kind: features.with_capacity(room)}
                self.features = replace(self.features, **larger)

    def _entity_features(self, kind: EntityKind) -> EntityFeatures:
        return self.features.user if kind == "user" else self.features.item


def _topics(regression: TextRegression, dataset: Dataset) -> np.ndarray:
    """(n, t) topics of texts, as in `TextRegression.fit`."""
    vectors = dataset.text_vectors.astype(np.float32)
    return np.asarray((vectors - regression.mean_vector) @ regression.topic_axes, np.float32)
