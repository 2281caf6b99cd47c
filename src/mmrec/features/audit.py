"""Proof that features were made from the reviews that their policy allows, and from nothing else.

It derives the reviews that a row may see again, from the policy's definition alone, and compares the
row's views with them, and its features with those that the builder makes of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mmrec.data.schema import NO_TIME, EntityKind, Interactions, Split
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence, EvidenceViews
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import MixedEffects
from mmrec.features.tables import Features


@dataclass(frozen=True)
class Audit:
    """Outcome of an audit of rows, each with a user's side and an item's."""

    policy: str
    rows: int
    reviews: int  # that the audited rows may see, over both sides
    violations: list[str]  # a sentence each; none where the policy held on every row

    def __str__(self) -> str:
        verdict = "held"
        if self.violations:
            examples = "; ".join(self.violations[:5])
            verdict = f"was broken {len(self.violations)} times: {examples}"
        counts = f"{self.rows:,} rows, {self.reviews:,} evidence reviews"
        return f"evidence policy `{self.policy}` {verdict} ({counts})"


def audit(
    dataset: Dataset,
    split: Split,
    evidence: Evidence,
    builder: FeatureBuilder,
    features: Features,
    rows: np.ndarray,
) -> Audit:
    """Check of some rows that no test row is evidence, that their views consist of what the policy
    allows, and that the features are those that the builder makes from these reviews alone."""
    violations = list(_effect_violations(dataset, evidence, builder, rows))
    leaked = np.intersect1d(evidence.evidence_rows, split.test)
    if len(leaked):
        violations.append(f"test rows are evidence: {len(leaked)}, the first is row {leaked[0]}")
    seen, data = 0, dataset.data
    kinds: tuple[EntityKind, ...] = ("user", "item")
    for kind in kinds:
        entity, views = getattr(data, kind), getattr(evidence, kind)
        used, used_view = getattr(features, kind), getattr(features, f"{kind}_view")
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
            rebuilt_views = EvidenceViews.from_lists(entity[block], lists, evidence.fold[block])
            rebuilt = builder.build(kind, rebuilt_views, dataset).by_name(np.arange(len(block)))
            for name, values in used.by_name(used_view[block]).items():
                for row in block[_differs(values, rebuilt[name])]:
                    violations.append(f"row {row}: {name} was not made from its evidence ({kind})")
    return Audit(evidence.policy, len(rows), seen, violations)


def _allowed(data: Interactions, evidence: Evidence, entity: np.ndarray, row: int) -> np.ndarray:
    """The evidence rows of the row's entity that it may see by the definition of the policy."""
    entity_rows = evidence.evidence_rows[entity[evidence.evidence_rows] == entity[row]]
    if evidence.policy == "past":
        earlier = data.time[entity_rows] < data.time[row]
        return entity_rows[earlier & (data.time[row] != NO_TIME)]
    if evidence.policy == "leave_one_out":
        return entity_rows[entity_rows != row]
    by_fold = evidence.policy == "fold"
    return _visible(evidence, entity_rows, evidence.fold[row]) if by_fold else entity_rows


def _visible(evidence: Evidence, rows: np.ndarray, fold: int) -> np.ndarray:
    """Those of some evidence rows that the rows of a fold may see; rows of no fold (test), all."""
    folds = evidence.fold[rows]
    other_folds = (folds != fold) & (folds != VALIDATION_FOLD)
    return rows[other_folds] if fold >= VALIDATION_FOLD else rows


def _effect_violations(
    dataset: Dataset, evidence: Evidence, builder: FeatureBuilder, rows: np.ndarray
) -> Iterator[str]:
    """Fit the effects of every fold again, on the reviews that its rows may see."""
    for fold, effects in builder.mixed_effects.items():
        pairs = rows[evidence.fold[rows] == fold]
        visible = _visible(evidence, evidence.evidence_rows, fold)
        refitted = MixedEffects.fit(dataset.rated_texts, visible, builder.penalties)
        expected = _effects_by_name(refitted, dataset.data, pairs)
        for name, values in _effects_by_name(effects, dataset.data, pairs).items():
            if _differs(values, expected[name]).any():
                yield f"effects of fold {fold}: {name} was not made from its evidence"


def _effects_by_name(
    effects: MixedEffects, data: Interactions, pairs: np.ndarray
) -> Mapping[str, np.ndarray]:
    """All columns, and factor scores of pairs: factors themselves may turn or change their sign."""
    user_factors = effects.factors["user"][data.user[pairs]].astype(np.float32)
    item_factors = effects.factors["item"][data.item[pairs]].astype(np.float32)
    by_name = {"factor score": (user_factors * item_factors).sum(1)}
    for kind, columns in effects.columns.items():
        by_name |= {f"{kind} {name}": values for name, values in columns.items()}
    return by_name


def _differs(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(k,) bool: which rows of two arrays differ by more than rounding explains."""
    tolerance = 2e-3 if values.dtype == np.float16 else 1e-5
    wide = expected.astype(np.float32)
    gap = np.abs(values.astype(np.float32) - wide) / np.maximum(np.abs(wide), 1)
    # Not `gap > tolerance`, which is False for NaN.
    return ~(gap <= tolerance).reshape(len(values), -1).all(axis=1)
