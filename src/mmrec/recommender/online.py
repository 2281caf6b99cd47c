"""Online state: users and items with live reviews, updated at once, without training.

Mixed effects, which are fitted on all reviews, are updated where a review touches them: one step of
the same regression, which the next `fit` solves for all reviews together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from mmrec.data.schema import EntityKind, Interactions
from mmrec.errors import DataError
from mmrec.evidence.policies import EvidenceViews
from mmrec.features import mixed_effects
from mmrec.features.dataset import Dataset, Models
from mmrec.features.mixed_effects import TextRegression, review_statistics
from mmrec.features.tables import EntityFeatures, EvidenceSums
from mmrec.llm.types import Note, Wish
from mmrec.recommender.persistence import SavedRecommender

T = TypeVar("T", float, np.ndarray)


@dataclass
class _Entity:
    """A user or an item with its live reviews."""

    sums: EvidenceSums  # over its reviews
    # Mixed effects, by dense column, and (t,) factors of the factor score.
    columns: dict[str, float] = field(default_factory=dict)
    factors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    # (code of the item, rating) by a user, (code of the user, rating) of an item.
    ratings: list[tuple[int, float]] = field(default_factory=list)

    @property
    def count(self) -> float:
        return float(self.sums.rating_count[0])

    def add_statistics(self, statistics: dict[str, np.ndarray]) -> None:
        """Add (k,) values to columns that are shrunken means, before `sums` count them."""
        weight = self.count + mixed_effects.PRIOR_REVIEWS
        for name, values in statistics.items():
            self.columns[name] = _add_to_mean(self.columns[name], weight, values.astype(float))


class OnlineState:
    """All users and items with their live reviews.

    `ids` and `codes` have, by kind, all ids in order and the code of each. `features` are changed
    in place; before the last view, of unknown ids, there may be some that no id has yet.
    """

    def __init__(self, saved: SavedRecommender, data: Interactions, models: Models) -> None:
        self._models, self.features = models, saved.features
        self.ids: dict[EntityKind, list[str]] = {"user": [*data.users], "item": [*data.items]}
        self.codes: dict[EntityKind, dict[str, int]] = {}
        for kind, ids in self.ids.items():
            self.codes[kind] = {name: code for code, name in enumerate(ids)}
        self._data, self._builder = data, saved.model.builder
        self._saved_sums, self._regression = saved.evidence_sums, saved.text_regression
        self._changed: dict[tuple[EntityKind, int], _Entity] = {}

    def add_review(
        self, user: str, item: str, rating: float, text: str, note: Note
    ) -> tuple[int, int]:
        """Add a review and update the features of its user and its item; their codes."""
        dataset = Dataset.single_review(text, rating, self._models, note)
        _ = dataset.text_vectors  # Encode first: if that fails, nothing has been changed.
        user_sums, item_sums = self._sums("user", dataset), self._sums("item", dataset)
        user_code, item_code = self._code("user", user), self._code("item", item)
        reviewer = self._to_change("user", user_code)
        reviewed = self._to_change("item", item_code)
        reviewer.ratings.append((item_code, rating))
        reviewed.ratings.append((user_code, rating))
        if (regression := self._regression) is not None:
            self._update_effects(regression, reviewer, reviewed, dataset)
        reviewer.sums += user_sums
        reviewed.sums += item_sums
        self.features.user.replace_view(user_code, self._build("user", reviewer, user_code))
        self.features.item.replace_view(item_code, self._build("item", reviewed, item_code))
        return user_code, item_code

    def add_item(self, item: str, text: str, note: Note, captions: Sequence[str]) -> int:
        """Add a description, or captions of photos, to a new or known item; its code."""
        self.check_item_content(text, captions)
        dataset = Dataset.single_review(text, np.nan, self._models, note, captions)
        _ = dataset.text_vectors  # Encode first, as above.
        sums = self._sums("item", dataset)
        code = self._code("item", item)
        entity = self._to_change("item", code)
        if (regression := self._regression) is not None and text.strip():
            self._add_description(regression, entity, dataset)
        entity.sums += sums
        self.features.item.replace_view(code, self._build("item", entity, code))
        return code

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

    def ratings(self, kind: EntityKind, code: int) -> tuple[np.ndarray, np.ndarray]:
        """(k,) codes of the items that a user rated, or of the users who rated an item; ratings."""
        if (changed := self._changed.get((kind, code))) is not None:
            pairs = np.array(changed.ratings).reshape(-1, 2)
            return pairs[:, 0].astype(np.int64), pairs[:, 1]
        data = self._data
        others, known = (data.item, data.users) if kind == "user" else (data.user, data.items)
        # An id without reviews, such as the unknown one, has a code behind all others.
        rows = data.rows_of(kind, code) if code < len(known) else np.zeros(0, dtype=np.int64)
        return others[rows], data.rating[rows]

    def describe_user(self, wish: Wish) -> EntityFeatures:
        """Features of a new user, in one view, from a wish; what is wanted counts as a like."""
        user = self._entity("user", self.features.user.unknown_index)
        words, price = wish.description or str(wish), wish.prices[0] if wish.prices else "none"
        likes = [*wish.wanted, *([words] if wish.description else [])]
        note = Note(gist=words, likes=likes, dislikes=wish.unwanted, price=price)
        review = Dataset.single_review(words, np.nan, self._models, note)
        user.sums = self._sums("user", review)
        return self._build("user", user)

    def user_who_likes(self, items: Sequence[int], rating: float = 5.0) -> EntityFeatures:
        """Features of a new user who rates the items so and writes as others do of them."""
        user, count = self._entity("user", self.features.user.unknown_index), len(items)
        user.ratings = [(item, rating) for item in items]
        if (regression := self._regression) is not None:
            # Ridge regression with one column: a mean shrunk towards zero.
            above_mean, _ = self._residuals(regression, user)
            penalty = self._builder.penalties[0]
            user.columns["rating effect"] = _add_to_mean(0.0, penalty, above_mean)
            residuals, item_factors = self._residuals(regression, user)
            ratings, lengths = np.full(count, rating), np.ones(count)
            statistics = review_statistics(ratings, residuals, lengths)
            rated = statistics.keys() - mixed_effects.TEXT_COLUMNS
            user.add_statistics({name: statistics[name] for name in rated})
            user.factors = mixed_effects.ridge_factors(item_factors, residuals)
        # (1, d) mean vectors of the items' texts, written by users who like them.
        item_vectors, vectors = self.features.item.vectors, {}
        for name in user.sums.vectors:
            if name in item_vectors and name != "dislikes":
                vectors[name] = item_vectors[name][items].astype(np.float32).mean(0)[None]
        user.sums += replace(
            user.sums.map(np.zeros_like),
            rating_count=np.array([count]),
            rating_sum=np.array([rating * count]),
            vectors=vectors,
            text_count=dict.fromkeys(vectors, np.array([count], dtype=np.float32)),
        )
        return self._build("user", user)

    def _sums(self, kind: EntityKind, dataset: Dataset) -> EvidenceSums:
        row = np.zeros(1, dtype=np.int64)  # the only review
        return self._builder.evidence_sums(kind, EvidenceViews.from_lists(row, [row]), dataset)

    def _code(self, kind: EntityKind, name: str) -> int:
        """The code of an id, which is new if need be."""
        codes = self.codes[kind]
        if name not in codes:
            codes[name] = len(codes)
            self.ids[kind].append(name)
            features = self._entity_features(kind)
            if codes[name] == features.unknown_index:  # no view is left for it
                larger: Any = {kind: features.with_capacity()}
                self.features = replace(self.features, **larger)
        return codes[name]

    def _entity_features(self, kind: EntityKind) -> EntityFeatures:
        return self.features.user if kind == "user" else self.features.item

    def _to_change(self, kind: EntityKind, code: int) -> _Entity:
        if (kind, code) not in self._changed:
            entity = self._entity(kind, code)
            codes, ratings = self.ratings(kind, code)
            entity.ratings = list(zip(codes.tolist(), ratings.tolist(), strict=True))
            self._changed[kind, code] = entity
        return self._changed[kind, code]

    def _entity(self, kind: EntityKind, code: int) -> _Entity:
        """A user or an item as it is, not to be changed; without ratings unless it has changed."""
        if (kind, code) in self._changed:
            return self._changed[kind, code]
        saved_sums, features = self._saved_sums[kind], self._entity_features(kind)
        is_saved = code < len(saved_sums.rating_count)
        sums = saved_sums.map(lambda values: values[[code if is_saved else 0]] * is_saved)
        # Means of vectors are stored in the features alone, not in the sums.
        vectors = {name: x[[code]].astype(np.float32) for name, x in features.vectors.items()}
        entity = _Entity(replace(sums, vectors=vectors))
        if self._regression is not None:
            for name in mixed_effects.EFFECT_COLUMNS:
                entity.columns[name] = float(features.dense[code, features.names.index(name)])
            entity.factors = features.factors[code].astype(np.float64)
        return entity

    def _update_effects(
        self, regression: TextRegression, user: _Entity, item: _Entity, dataset: Dataset
    ) -> None:
        """Update mixed effects, which are penalised means, before the review enters the sums.

        With b the old effects, n ratings and penalty p of an entity, its new effect on the target y
        (the rating, or the text rating) is (b (n + p) + y - b_other) / (n + 1 + p).
        """
        rating = dataset.data.rating[:1]
        vector = dataset.text_vectors[0].astype(np.float64)
        targets = {
            "rating effect": float(rating[0]) - regression.mean_rating,
            "text rating effect": float(regression.predict(vector)),
        }
        user_penalty, item_penalty = self._builder.penalties
        # Both effects are updated from the old values, so the order does not matter.
        for name, target in targets.items():
            old_user, old_item = user.columns[name], item.columns[name]
            user_weight, item_weight = user.count + user_penalty, item.count + item_penalty
            user.columns[name] = _add_to_mean(old_user, user_weight, np.array([target - old_item]))
            item.columns[name] = _add_to_mean(old_item, item_weight, np.array([target - old_user]))
        residual = self._residuals(regression, user)[0][-1:]
        length = np.array([len(dataset.texts[0])])
        statistics = review_statistics(rating, residual, length)
        user.add_statistics(statistics)
        item.add_statistics(statistics)
        self._add_topics(regression, item, vector)
        residuals, item_factors = self._residuals(regression, user)
        user.factors = mixed_effects.ridge_factors(item_factors, residuals)

    def _add_description(self, regression: TextRegression, item: _Entity, dataset: Dataset) -> None:
        """Update mixed effects as by half a review, with the rating that its words predict, so that of two
        descriptions the one that praises counts for more; half, since its author is not neutral."""
        vector = dataset.text_vectors[0].astype(np.float64)
        predicted = np.array([float(regression.predict(vector))])
        # Twice the weight of all else is the same as half of this. A penalty of effects may be small.
        weight = 2 * (item.count + max(self._builder.penalties[1], mixed_effects.PRIOR_REVIEWS))
        for name in ("rating effect", "text rating effect"):
            item.columns[name] = _add_to_mean(item.columns[name], weight, predicted)
        self._add_topics(regression, item, vector)

    def _add_topics(self, regression: TextRegression, item: _Entity, vector: np.ndarray) -> None:
        """Add the (t,) topics of a text, shrunk like those of a fit (`TextRegression.fit`)."""
        topics = (vector - regression.mean_vector) @ regression.topic_axes
        weight = item.count + mixed_effects.PRIOR_TEXTS
        item.factors = _add_to_mean(item.factors, weight, topics[None])

    def _residuals(
        self, regression: TextRegression, user: _Entity
    ) -> tuple[np.ndarray, np.ndarray]:
        """(k,) residuals of a user's ratings, and (k, t) factors of the rated items."""
        residuals, factors = [], []
        for code, rating in user.ratings:
            item = self._entity("item", code)
            rest = rating - regression.mean_rating - user.columns["rating effect"]
            residuals.append(rest - item.columns["rating effect"])
            factors.append(item.factors)
        return np.array(residuals), np.stack(factors)

    def _build(self, kind: EntityKind, entity: _Entity, code: int | None = None) -> EntityFeatures:
        """Features of one view, and of the unknown id behind it; without a code, of a new user."""
        unknown = self._builder.unknown_effects.get(kind, {})
        columns = {name: np.array([value, unknown[name]]) for name, value in entity.columns.items()}
        factors = np.stack([entity.factors, np.zeros_like(entity.factors)]).astype(np.float16)
        new = code is None or code >= len(self._saved_sums[kind].rating_count)
        effects = columns, factors if columns else None
        return self._builder.from_sums(kind, entity.sums, *effects, new=new)


def _add_to_mean(mean: T, weight: float, values: np.ndarray) -> T:
    """The mean of `weight` values and of (k, ...) more."""
    return (mean * weight + values.sum(0)) / (weight + len(values))
