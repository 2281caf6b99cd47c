"""Proof that features were made from the reviews that their policy allows, and from nothing else.

The audit derives the allowed reviews of a row again, from the policy's definition alone, and
compares: the views with these sets, and the features with those that the builder makes from these
sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmrec.data.schema import NO_TIME, EntityKind, Interactions
from mmrec.data.split import Split
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence
from mmrec.evidence.views import EvidenceViews

__all__ = ["Audit", "AuditedFeatures", "audit"]


class AuditedFeatures(Protocol):
    """Features under audit, and the means to make them again; arrays have one row per row or
    view."""

    def used(self, kind: EntityKind, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        """The features that a model gets for the user, or the item, of some rows."""

    def rebuilt(self, kind: EntityKind, views: EvidenceViews) -> Mapping[str, np.ndarray]:
        """The same features, made from the reviews of some views."""

    @property
    def fitted_folds(self) -> list[int]:
        """The folds (or `NO_GROUP`) for which effects were fitted on the reviews of all entities."""

    def fitted(
        self, fold: int, rows: np.ndarray, visible_rows: np.ndarray | None = None
    ) -> Mapping[str, np.ndarray]:
        """Effects of a fold, some of them for the pairs of `rows`; or fitted again on
        `visible_rows`."""


@dataclass(frozen=True)
class Audit:
    """Outcome of an audit.

    Attributes:
        policy: the policy that the evidence claims to follow.
        rows: number of audited rows; each has a user's side and an item's.
        reviews: number of reviews that these rows may see, over both sides.
        violations: one sentence per violation; empty when the policy held.
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

    No test row may be evidence. On both sides of each row: its view must consist of the reviews
    that the policy allows; the row itself must not be among them, except under `all`; and its
    features must be those that the builder makes from the allowed reviews alone.

    Args:
        data: who rated what; n reviews.
        split: the parts of the data.
        evidence: the policy, its folds, and the views to check.
        features: the features to check, and how to make them again.
        rows: row numbers to audit; `np.arange(n)` for all.
    """
    violations: list[str] = []
    leaked = np.intersect1d(evidence.evidence_rows, split.test)
    if len(leaked):
        violations.append(
            f"{len(leaked)} test rows are evidence, the first of them row {leaked[0]}"
        )
    violations += _fitted_violations(evidence, features, rows)
    seen = 0
    sides: tuple[tuple[EntityKind, np.ndarray, EvidenceViews], ...] = (
        ("user", data.user, evidence.user),
        ("item", data.item, evidence.item),
    )
    for kind, entity, views in sides:
        rows_of = _rows_by_entity(entity, evidence.evidence_rows)
        no_rows = evidence.evidence_rows[:0]
        allowed = [
            _allowed(data, evidence, rows_of.get(int(entity[row]), no_rows), row) for row in rows
        ]
        seen += sum(map(len, allowed))
        violations += _view_violations(evidence.policy, kind, views, rows, allowed)
        violations += _feature_violations(evidence, features, kind, entity, rows, allowed)
    return Audit(evidence.policy, len(rows), seen, violations)


def _allowed(
    data: Interactions, evidence: Evidence, entity_rows: np.ndarray, row: int
) -> np.ndarray:
    """Those of the entity's evidence rows that the policy lets `row` see, by definition."""
    if evidence.policy == "past":
        earlier = data.time[entity_rows] < data.time[row]
        return entity_rows[earlier & (data.time[row] != NO_TIME)]
    if evidence.policy == "leave_one_out":
        return entity_rows[entity_rows != row]
    if evidence.policy == "fold":
        return entity_rows[_visible_to_fold(evidence, entity_rows, evidence.fold[row])]
    return entity_rows


def _visible_to_fold(evidence: Evidence, evidence_rows: np.ndarray, fold: int) -> np.ndarray:
    """(m,) bool: which evidence rows the rows of a fold may see; rows of no fold (test) may see
    all."""
    if fold < VALIDATION_FOLD:
        return np.ones(len(evidence_rows), dtype=bool)
    folds = evidence.fold[evidence_rows]
    return (folds != fold) & (folds != VALIDATION_FOLD)


def _rows_by_entity(entity: np.ndarray, evidence_rows: np.ndarray) -> dict[int, np.ndarray]:
    order = evidence_rows[np.argsort(entity[evidence_rows], kind="stable")]
    codes, starts = np.unique(entity[order], return_index=True)
    return dict(zip(codes.tolist(), np.split(order, starts)[1:], strict=True))


def _view_violations(
    policy: str, kind: EntityKind, views: EvidenceViews, rows: np.ndarray, allowed: list[np.ndarray]
) -> Iterator[str]:
    for row, expected in zip(rows, allowed, strict=True):
        members = views.members(views.view[row])
        if row in members and policy != "all":
            yield f"row {row} is in its own evidence ({kind})"
        if not np.array_equal(np.sort(members), np.sort(expected)):
            yield f"row {row} sees other reviews than the policy allows ({kind})"


def _feature_violations(
    evidence: Evidence,
    features: AuditedFeatures,
    kind: EntityKind,
    entity: np.ndarray,
    rows: np.ndarray,
    allowed: list[np.ndarray],
    block_rows: int = 32,  # bounds the memory that the reviews of popular items take
) -> Iterator[str]:
    for start in range(0, len(rows), block_rows):
        block = rows[start : start + block_rows]
        lists = allowed[start : start + block_rows]
        views = EvidenceViews.from_lists(entity[block], lists, evidence.fold[block])
        expected = features.rebuilt(kind, views)
        for name, values in features.used(kind, block).items():
            for row in block[_differs(values, expected[name])]:
                yield f"row {row}: {name} was not made from its evidence ({kind})"


def _fitted_violations(
    evidence: Evidence, features: AuditedFeatures, rows: np.ndarray
) -> Iterator[str]:
    """Fit the models of every fold again, on the reviews that its rows may see."""
    for fold in features.fitted_folds:
        visible = evidence.evidence_rows[_visible_to_fold(evidence, evidence.evidence_rows, fold)]
        fold_rows = rows[evidence.fold[rows] == fold]
        expected = features.fitted(fold, fold_rows, visible)
        for name, values in features.fitted(fold, fold_rows).items():
            if _differs(values, expected[name]).any():
                yield f"effects of fold {fold}: {name} was not made from its evidence"


def _differs(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(k,) bool: where rows of two arrays differ by more than rounding explains; NaN always
    differs."""
    tolerance = 2e-3 if values.dtype == np.float16 else 1e-5
    wide = expected.astype(np.float32)
    gap = np.abs(values.astype(np.float32) - wide) / np.maximum(np.abs(wide), 1)
    # Not `gap > tolerance`: that is False for NaN.
    close = (gap <= tolerance).reshape(len(values), -1).all(axis=1)
    return ~close
