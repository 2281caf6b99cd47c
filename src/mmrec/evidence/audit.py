"""Proof that features were made from the evidence they may be made from, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmrec.data.schema import NO_TIME, Interactions
from mmrec.data.split import Split
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence, EvidenceViews
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import MixedEffects
from mmrec.features.tables import EntityFeatures, Features

__all__ = ["Audit", "audit"]

_TOLERANCE = 2e-3  # vectors are kept as float16
_EXACT = 1e-5
_ROWS_AT_ONCE = 32  # bounds the memory that the reviews of popular items take
_SHOWN = 5


@dataclass(frozen=True)
class Audit:
    """Outcome of an audit.

    Attributes:
        policy: the policy that was to be proved.
        rows: number of rows looked at, on both sides each.
        reviews: number of reviews that spoke for them.
        violations: what was found, a sentence each; empty when the policy held.
    """

    policy: str
    rows: int
    reviews: int
    violations: list[str]

    @property
    def passed(self) -> bool:
        """Whether the policy held on every row."""
        return not self.violations

    def __str__(self) -> str:
        found = "; ".join(self.violations[:_SHOWN])
        verdict = "held" if self.passed else f"broken {len(self.violations)} times: {found}"
        size = f"{self.rows:,} rows, {self.reviews:,} reviews heard"
        return f"evidence policy `{self.policy}` {verdict} ({size})"


def audit(
    dataset: Dataset,
    split: Split,
    evidence: Evidence,
    builder: FeatureBuilder,
    features: Features,
    rows: np.ndarray,
) -> Audit:
    """Derive again, from the policy's definition alone, who may speak for some rows; compare.

    No test row is evidence. For each row and side: the reviews that its view hears are those that the
    policy allows; under every policy but `all` the row itself is not among them; and its features
    (numbers, vectors, price, categories) are those that come out of the allowed reviews alone.

    Args:
        dataset: the reviews.
        split: their parts.
        evidence: the policy, its folds, and the views it claims.
        builder: makes features.
        features: those to be proved.
        rows: row numbers to look at; `np.arange(n)` for all.
    """
    data = dataset.data
    violations: list[str] = []
    leaked = np.intersect1d(evidence.evidence_rows, split.test)
    if len(leaked):
        violations.append(f"{len(leaked)} test rows are evidence, row {leaked[0]} first")
    violations += _effects(dataset, evidence, builder, rows)
    heard = 0
    sides = (
        ("user", data.user, evidence.user, features.user, features.user_view, builder.build_user),
        ("item", data.item, evidence.item, features.item, features.item_view, builder.build_item),
    )
    for name, entity, side, made, view, assemble in sides:
        members = _by_entity(entity, evidence.evidence_rows)
        sets = [
            _allowed(data, evidence, members.get(int(entity[row]), evidence.evidence_rows[:0]), row)
            for row in rows
        ]
        heard += sum(map(len, sets))
        for row, allowed in zip(rows, sets, strict=True):
            claimed = side.members(side.view[row])
            if row in claimed and evidence.policy != "all":
                violations.append(f"row {row} is in its own evidence ({name})")
            if not np.array_equal(np.sort(claimed), np.sort(allowed)):
                violations.append(f"row {row} hears other reviews than the policy allows ({name})")
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            listed = EvidenceViews.from_lists(
                entity[rows[part]], sets[part], evidence.fold[rows[part]]
            )
            expected = assemble(listed, dataset)
            for at, what in _differences(made, expected, view[rows[part]]):
                violations.append(
                    f"row {rows[start + at]}: {what} was not made from its evidence ({name})"
                )
    return Audit(evidence.policy, len(rows), heard, violations)


def _effects(
    corpus: Dataset, evidence: Evidence, assembler: FeatureBuilder, rows: np.ndarray
) -> Iterator[str]:
    """Fit the effects of every fold again, from what the policy lets its rows hear."""
    known, data = evidence.evidence_rows, corpus.data
    for fold, made in assembler.mixed_effects.items():
        mine = (evidence.fold[known] == fold) | (evidence.fold[known] == VALIDATION_FOLD)
        heard = known if fold < VALIDATION_FOLD else known[~mine]
        expected = MixedEffects.fit(corpus.rated_texts, heard, assembler.penalties)
        for name, one, other in (
            ("user", made.user, expected.user),
            ("item", made.item, expected.item),
        ):
            for what, values in other.items():
                if [*_where(one[what], values, what)]:
                    yield f"effects of fold {fold}: {what} was not made from its evidence ({name})"
        # Of tastes only the products have a meaning: axes may turn, or swap their signs.
        own = rows[evidence.fold[rows] == fold]
        pairs = data.user[own], data.item[own]
        if [*_where(made.factor_score(*pairs), expected.factor_score(*pairs), "affinity")]:
            yield f"effects of fold {fold}: affinity was not made from its evidence (pair)"


def _by_entity(entity: np.ndarray, known: np.ndarray) -> dict[int, np.ndarray]:
    order = known[np.argsort(entity[known], kind="stable")]
    codes, starts = np.unique(entity[order], return_index=True)
    return dict(zip(codes.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}


def _allowed(data: Interactions, evidence: Evidence, known: np.ndarray, row: int) -> np.ndarray:
    """The known reviews of the row's entity that the policy lets speak for the row, by definition."""
    if evidence.policy == "past":
        earlier = data.time[known] < data.time[row]
        return known[earlier & (data.time[row] != NO_TIME)]
    if evidence.policy == "leave_one_out":
        return known[known != row]
    if evidence.policy == "fold" and evidence.fold[row] >= VALIDATION_FOLD:
        return known[
            (evidence.fold[known] != evidence.fold[row]) & (evidence.fold[known] != VALIDATION_FOLD)
        ]
    return known


def _differences(
    made: EntityFeatures, expected: EntityFeatures, view: np.ndarray
) -> Iterator[tuple[int, str]]:
    """Positions at which features differ, and what differs there."""
    for column, name in enumerate(made.names):
        yield from _where(made.dense[view, column], expected.dense[:-1, column], name)
    for name, block in made.vectors.items():
        yield from _where(block[view], expected.vectors[name][:-1], name)
        yield from _where(
            made.present[name][view], expected.present[name][:-1], f"presence of {name}"
        )
    yield from _where(made.categories[view], expected.categories[:-1], "categories")
    if made.factors.size:
        yield from _where(made.factors[view], expected.factors[:-1], "taste")


def _where(made: np.ndarray, expected: np.ndarray, name: str) -> Iterator[tuple[int, str]]:
    wide = expected.astype(np.float32)
    gap = (np.abs(made.astype(np.float32) - wide) / np.maximum(np.abs(wide), 1)).reshape(
        len(made), -1
    )
    tolerance = _TOLERANCE if made.dtype == np.float16 else _EXACT
    # Asked this way round, a gap that is no number is a difference.
    return ((int(at), name) for at in np.flatnonzero(~(gap <= tolerance).all(axis=1)))
