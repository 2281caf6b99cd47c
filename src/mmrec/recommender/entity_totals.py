"""What the reviews of each user, or of each item, add up to since the fit.

All features of an entity are made of sums over its reviews, so that a review is withdrawn by subtracting
what it added. Targets of effects are taken beside the other side's effect as it was *fitted*: one step
of the same regression, which does not depend on the order of reviews, or on restarts. The next fit
solves it for all reviews together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data.schema import EntityKind
from mmrec.features.builder import FeatureBuilder
from mmrec.features.mixed_effects import EFFECT_COLUMNS, PRIOR_REVIEWS, PRIOR_TEXTS
from mmrec.features.tables import EntityFeatures, EvidenceSums

EFFECTS = ("rating effect", "text rating effect")
STATISTICS = tuple(name for name in EFFECT_COLUMNS if name not in (*EFFECTS, "spread"))
"""Columns that are shrunken means of values of single reviews."""


def review_totals(kind: EntityKind, sums: EvidenceSums) -> dict[str, np.ndarray]:
    """What n reviews, whose sums are of single reviews, add to each total of their users, or items."""
    totals = {"ratings": sums.rating_count, "stars": sums.rating_sum, "price": sums.price}
    if kind == "item":  # users have no categories
        totals["categories"] = sums.categories
    for name, texts in sums.text_count.items():
        totals[f"texts {name}"] = texts
        totals[f"vectors {name}"] = sums.vectors[name].astype(np.float32) * texts[:, None]
    return totals


class EntityTotals:
    """Totals of the users, or items, whose reviews have changed, by code."""

    def __init__(self, kind: EntityKind, fitted: EvidenceSums, builder: FeatureBuilder) -> None:
        self._kind, self._fitted, self._builder = kind, fitted, builder
        self._slots: dict[int, int] = {}  # by code: the row of the arrays below
        self._totals: dict[str, np.ndarray] = {}  # (s,) or (s, k), with rows to spare
        # As fitted: (s, 2) effects, (s,) number of reviews, and (s, t) factors of an item.
        self._base: dict[str, np.ndarray] = {}
        self._penalty = builder.penalties[0 if kind == "user" else 1]
        self._has_effects = bool(builder.unknown_effects)

    def add(
        self,
        codes: np.ndarray,
        totals: Mapping[str, np.ndarray],
        weight: np.ndarray,
        features: EntityFeatures,
    ) -> None:
        """Add what (n,) reviews of (n,) entities add to each total, times (n,) weights; -1 withdraws one.

        `features` are those of all entities, from which fitted totals are taken when one first changes.
        """
        distinct, position = np.unique(self._slots_of(codes, features), return_inverse=True)
        shape = len(distinct), len(codes)
        by_entity = csr_matrix((weight, (position, np.arange(len(codes)))), shape)
        for name, values in totals.items():
            self._totals[name][distinct] += by_entity @ values

    def fitted_effects(self, codes: np.ndarray, features: EntityFeatures) -> np.ndarray:
        """(n, 2) effects on rating and text of (n,) entities, as fitted; of unknown ones for new ones."""
        columns = [features.names.index(name) for name in EFFECTS]
        effects = features.dense[codes][:, columns].astype(np.float64)
        self._restore(codes, "effects", effects)
        return effects

    def fitted_factors(self, codes: np.ndarray, features: EntityFeatures) -> np.ndarray:
        """(n, t) factors of (n,) items, as fitted; zero for new ones."""
        factors = features.factors[codes].astype(np.float32)
        self._restore(codes, "factors", factors)
        return factors

    def effects(self, codes: np.ndarray) -> np.ndarray:
        """(n, 2) effects on rating and text of (n,) changed entities."""
        slots = self._slots_at(codes)
        weight = self._totals["effect weight"][slots] + self._penalty
        return np.asarray(self._totals["effects"][slots] / weight[:, None])

    def build(self, codes: np.ndarray, factors: np.ndarray | None = None) -> EntityFeatures:
        """Features of (n,) changed entities, and of an unknown one behind them; (n, t) `factors` are those
        of users, while those of items are made of totals."""
        slots = self._slots_at(codes)
        total = {name: values[slots] for name, values in self._totals.items()}
        vectors, texts = {}, {}
        for name, values in total.items():
            if name.startswith("vectors "):
                block = name.removeprefix("vectors ")
                texts[block] = count = total[f"texts {block}"]
                # Without a text, only what rounding has left is there.
                vectors[block] = values * (count > 0)[:, None] / np.maximum(count, 1)[:, None]
        categories = total.get("categories", np.zeros((len(codes), 0)))
        ratings = total["ratings"], total["stars"]
        sums = EvidenceSums(*ratings, vectors, texts, total["price"], categories)
        is_new = codes >= len(self._fitted.rating_count)
        if not self._has_effects:
            return self._builder.from_sums(self._kind, sums, new=is_new)
        if factors is None:
            factors = total["topics"] / (total["topic weight"] + PRIOR_TEXTS)[:, None]
        columns = self._effect_columns(total, slots)
        unknown = self._builder.unknown_effects[self._kind]
        # In the last row, an unknown one.
        effects = {name: np.append(columns[name], unknown[name]) for name in EFFECT_COLUMNS}
        padded = np.pad(factors, [(0, 1), (0, 0)]).astype(np.float16)
        return self._builder.from_sums(self._kind, sums, effects, padded, new=is_new)

    def _effect_columns(
        self, total: Mapping[str, np.ndarray], slots: np.ndarray
    ) -> dict[str, np.ndarray]:
        """(n,) values by column of entities in slots, from what their reviews add up to."""
        effects = total["effects"] / (total["effect weight"] + self._penalty)[:, None]
        columns = dict(zip(EFFECTS, effects.T, strict=True))
        weight = total["ratings"] + PRIOR_REVIEWS
        means = total["statistics"] / weight[:, None]
        columns |= dict(zip(STATISTICS, means.T, strict=True))
        # Squares of y - b over live ratings, with the effect b as it is now: y is a rating less all else.
        base, fitted = self._base["effects"][slots, 0], self._base["ratings"][slots]
        live_sum = total["effects"][:, 0] - base * (fitted + self._penalty)
        live_count = total["ratings"] - fitted
        effect = columns["rating effect"]
        squares = total["squares"] - 2 * effect * live_sum + effect**2 * live_count
        columns["spread"] = np.maximum(squares, 0) / weight
        return columns

    def _slots_at(self, codes: np.ndarray) -> np.ndarray:
        return np.array([self._slots[code] for code in codes.tolist()], dtype=np.int64)

    def _slots_of(self, codes: np.ndarray, features: EntityFeatures) -> np.ndarray:
        """(n,) slots of (n,) entities; those that change for the first time begin with what was fitted."""
        new = [code for code in dict.fromkeys(codes.tolist()) if code not in self._slots]
        if new:
            first, fresh = len(self._slots), np.array(new)
            totals, base = self._fitted_totals(fresh, features)
            for arrays, rows in ((self._totals, totals), (self._base, base)):
                for name, values in rows.items():
                    arrays[name] = _write_rows(arrays.get(name), first, values)
            self._slots.update(zip(new, range(first, first + len(new)), strict=True))
        return self._slots_at(codes)

    def _restore(self, codes: np.ndarray, name: str, values: np.ndarray) -> None:
        """Put what was fitted into (n, k) values of (n,) entities, where it has changed since."""
        for row, code in enumerate(codes.tolist()):
            if (slot := self._slots.get(code)) is not None:
                values[row] = self._base[name][slot]

    def _fitted_totals(
        self, codes: np.ndarray, features: EntityFeatures
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Totals of (n,) entities as fitted, zeros for new ones; and what is kept of the fit beside them."""
        is_fitted = codes < len(self._fitted.rating_count)
        rows = np.where(is_fitted, codes, 0)

        def take(values: np.ndarray) -> np.ndarray:
            wide = values.dtype if values.ndim > 1 and values.shape[1] > 16 else np.float64
            return np.asarray(values[rows] * is_fitted.reshape(-1, *[1] * (values.ndim - 1)), wide)

        fitted = self._fitted
        totals = {"ratings": take(fitted.rating_count), "stars": take(fitted.rating_sum)}
        totals["price"] = take(fitted.price)
        if self._kind == "item":
            totals["categories"] = take(fitted.categories)
        for name, vectors in features.vectors.items():
            # Of vectors, features have the means. A new entity has those of an unknown one: zeros.
            totals[f"texts {name}"] = texts = take(fitted.text_count[name])
            totals[f"vectors {name}"] = vectors[codes].astype(np.float32)
            totals[f"vectors {name}"] *= texts[:, None].astype(np.float32)
        if not self._has_effects:
            return totals, {}
        count, dense = totals["ratings"], features.dense[codes].astype(np.float64)
        effects = dense[:, [features.names.index(name) for name in EFFECTS]]
        statistics = dense[:, [features.names.index(name) for name in STATISTICS]]
        totals["effect weight"] = count.copy()
        totals["effects"] = effects * (count + self._penalty)[:, None]
        totals["statistics"] = statistics * (count + PRIOR_REVIEWS)[:, None]
        totals["squares"] = dense[:, features.names.index("spread")] * (count + PRIOR_REVIEWS)
        base = {"effects": effects, "ratings": count.copy()}
        if self._kind == "item":
            base["factors"] = features.factors[codes].astype(np.float32)
            totals["topic weight"] = count.copy()
            totals["topics"] = base["factors"] * (count + PRIOR_TEXTS)[:, None]
        return totals, base


def _write_rows(array: np.ndarray | None, first: int, rows: np.ndarray) -> np.ndarray:
    """An array with rows written from the `first` on; it has room for twice as many when it grows."""
    last = first + len(rows)
    if array is None or last > len(array):
        larger = np.zeros((2 * last, *rows.shape[1:]), rows.dtype)
        if array is not None:
            larger[:first] = array[:first]
        array = larger
    array[first:last] = rows
    return array
