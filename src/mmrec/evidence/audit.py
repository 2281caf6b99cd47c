"""Proof that features were made from the reviews that their policy allows, and from nothing else.

The audit derives the reviews that a row may see again, from the policy's definition alone. It
compares the row's views with them, and its features with those that the builder makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmrec.data.schema import NO_TIME, EntityKind, Interactions, Split
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence
from mmrec.evidence.views import EvidenceViews

__all__ = ["Audit", "AuditedFeatures", "audit"]


class AuditedFeatures(Protocol):
    """Features under audit, and the means to make them again; one entry per row or view."""

    def used(self, kind: EntityKind, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        """The features by name that a model gets for the user, or the item, of some rows."""

    def rebuilt(self, kind: EntityKind, views: EvidenceViews) -> Mapping[str, np.ndarray]:
        """The same features, made from the reviews of some views."""

    def fitted(
        self, fold: int, rows: np.ndarray, visible_rows: np.ndarray | None = None
    ) -> Mapping[str, np.ndarray]:
        """Effects by name, some for the pairs of `rows`; refitted on `visible_rows` where given."""


@dataclass(frozen=True)
class Audit:
    """Outcome of an audit of rows, each with a user's side and an item's."""

    policy: str
    rows: int
    reviews: int
    """Number of reviews that the audited rows may see, over both sides."""
    violations: list[str]
    """One sentence per violation; empty when the policy held."""

    @property
    def passed(self) -> bool:
        """Whether the policy held on every row."""
        return not self.violations

    def __str__(self) -> str:
        verdict = "held"
        if not self.passed:
            examples = "; ".join(self.violations[:5])
            verdict = f"was broken {len(self.violations)} times: {examples}"
        counts = f"{self.rows:,} rows, {self.reviews:,} evidence reviews"
        return f"evidence policy `{self.policy}` {verdict} ({counts})"


def audit(
    data: Interactions,
    split: Split,
    evidence: Evidence,
    features: AuditedFeatures,
    rows: np.ndarray,
) -> Audit:
    """Check views and features of some rows against the definition of the policy.

    No test row may be evidence. On both sides of each row, the view must consist of the reviews
    that the policy allows, the row itself not among them except under `all`; and the features
    must be those that the builder makes from these reviews alone.
    """
    violations = list(_fitted_violations(evidence, features, rows))
    leaked = np.intersect1d(evidence.evidence_rows, split.test)
    if len(leaked):
        violations.append(f"test rows are evidence: {len(leaked)}, the first is row {leaked[0]}")
    seen = 0
    sides: tuple[tuple[EntityKind, np.ndarray, EvidenceViews], ...] = (
        ("user", data.user, evidence.user),
        ("item", data.item, evidence.item),
    )
    for kind, entity, views in sides:
        allowed = [_allowed(data, evidence, entity, row) for row in rows]
        seen += sum(map(len, allowed))
        for row, expected in zip(rows, allowed, strict=True):
            members = views.members(views.view[row])
            if row in members and evidence.policy != "all":
                violations.append(f"row {row} is in its own evidence ({kind})")
            if not np.array_equal(np.sort(members), np.sort(expected)):
                violations.append(f"row {row} sees other reviews than the policy allows ({kind})")
        block_rows = 32  # bounds the memory that the reviews of popular items take
        for start in range(0, len(rows), block_rows):
            block = rows[start : start + block_rows]
            lists = allowed[start : start + block_rows]
            rebuilt = EvidenceViews.from_lists(entity[block], lists, evidence.fold[block])
            expected_features = features.rebuilt(kind, rebuilt)
            for name, values in features.used(kind, block).items():
                for row in block[_differs(values, expected_features[name])]:
                    violations.append(f"row {row}: {name} was not made from its evidence ({kind})")
    return Audit(evidence.policy, len(rows), seen, violations)


def _allowed(data: Interactions, evidence: Evidence, entity: np.ndarray, row: int) -> np.ndarray:
    """The evidence rows of the row's entity that the policy lets it see, by definition."""
    entity_rows = evidence.evidence_rows[entity[evidence.evidence_rows] == entity[row]]
    if evidence.policy == "past":
        earlier = data.time[entity_rows] < data.time[row]
        return entity_rows[earlier & (data.time[row] != NO_TIME)]
    if evidence.policy == "leave_one_out":
        return entity_rows[entity_rows != row]
    if evidence.policy == "fold":
        return _visible(evidence, entity_rows, evidence.fold[row])
    return entity_rows


def _visible(evidence: Evidence, rows: np.ndarray, fold: int) -> np.ndarray:
    """Those of some evidence rows that the rows of a fold may see; rows of no fold (test), all."""
    folds = evidence.fold[rows]
    other_folds = (folds != fold) & (folds != VALIDATION_FOLD)
    return rows[other_folds] if fold >= VALIDATION_FOLD else rows


def _fitted_violations(
    evidence: Evidence, features: AuditedFeatures, rows: np.ndarray
) -> Iterator[str]:
    """Fit the effects of every fold again, on the reviews that its rows may see."""
    for fold in np.unique(evidence.fold).tolist():
        fold_rows = rows[evidence.fold[rows] == fold]
        visible_rows = _visible(evidence, evidence.evidence_rows, fold)
        expected = features.fitted(fold, fold_rows, visible_rows)
        for name, values in features.fitted(fold, fold_rows).items():
            if _differs(values, expected[name]).any():
                yield f"effects of fold {fold}: {name} was not made from its evidence"


def _differs(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(k,) bool: which rows of two arrays differ by more than rounding explains."""
    tolerance = 2e-3 if values.dtype == np.float16 else 1e-5
    wide = expected.astype(np.float32)
    gap = np.abs(values.astype(np.float32) - wide) / np.maximum(np.abs(wide), 1)
    # Not `gap > tolerance`, which is False for NaN.
    return ~(gap <= tolerance).reshape(len(values), -1).all(axis=1)
