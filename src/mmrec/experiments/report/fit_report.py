"""The report of one run: a single HTML file that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmrec.evaluation import Metrics
from mmrec.evidence.audit import Audit
from mmrec.experiments.compare import Comparison
from mmrec.experiments.report.findings import findings
from mmrec.experiments.report.html import PageElement, Paragraph, PercentBars, Section, write_page
from mmrec.experiments.report.plots import draw_plots
from mmrec.experiments.report.svg import format_difference, format_metric, style_for
from mmrec.experiments.report.tables import Table
from mmrec.experiments.significance import Assessment
from mmrec.experiments.trained_baselines import TRAINED_BASELINES

__all__ = ["headline", "write_report"]

_CONSTANT = "always like"
_REJECTS = 10
_ROLES = {"mmrec": "our model", "proposed": "the paper's model", "baseline": "the paper's baseline"}
_BARS = "Of 100 disliked items, still recommended at a setting that keeps 90% of the liked ones"
_AUDIT = (
    "A model must not see the answer it is asked for. The audit derives again, from the policy alone, which "
    "reviews may speak for a row, and compares the features that were used."
)
_UNTRAINED = "Nothing was trained, so there was nothing to audit."


def write_report(
    comparison: Comparison,
    judgement: Assessment,
    audits: Mapping[str, Audit],
    path: Path,
    *,
    command: str,
    read: int | None = None,
) -> Path:
    """Write what came out of a run as one HTML file, without scripts and without outside references.

    Args:
        comparison: the run.
        judgement: what its figures are worth.
        audits: by name of the model.
        path: the file to write; its folder is made when absent.
        command: how the run was started.
        read: number of reviews read, before the filter.

    Returns:
        The path.
    """
    sections = [
        Section("", _summary(comparison, judgement)),
        *findings(comparison, judgement, draw_plots(comparison, judgement)),
        Section("Data", [_data(comparison, read), *_rejects(comparison)]),
        Section("Evidence audit", [_AUDIT, _verdicts(comparison, audits) or _UNTRAINED]),
    ]
    title = f"Recommender report: {Path(comparison.prepared.reviews.source).name}"
    return write_page(path, title, sections, command, _makers(comparison), _config(comparison))


def _summary(comparison: Comparison, judgement: Assessment) -> list[PageElement]:
    scores, trained = comparison.metrics, list(comparison.models)
    hero, peer = _protagonists(scores, trained)
    roles = {each: _ROLES.get(each, "trained") for each in (hero, *trained)}
    roles |= {peer: f"best {_kind(peer)}"} if peer else {hero: "simple peer"}
    bars = [
        (name, role, 100 * scores[name].fpr_at_90, style_for(name).variable)
        for name, role in roles.items()
    ]
    return [
        Paragraph("small", f"Data: {comparison.prepared.reviews.source}"),
        Paragraph("lead", headline(scores, trained)),
        PercentBars(_BARS, bars),
        Paragraph("small", _sureness(scores[hero], judgement, hero)),
        *(Paragraph("notice", f"Note: {remark}") for remark in comparison.remarks),
    ]


def _sureness(scores: Metrics, judgement: Assessment, hero: str) -> str:
    told = "Bars: of 100 disliked items, those still recommended; shorter is better. "
    told += (
        f"Judged by {scores.rows:,} test reviews, {scores.rows - scores.likes:,} of them dislikes."
    )
    if hero in judgement.intervals:
        low, high = (
            format_metric(100 * end, ".0f") for end in judgement.intervals[hero]["fpr_at_90"][1:]
        )
        told += f" Other users might make it {low} to {high} for {hero} (95% interval)."
    if hero in judgement.differences:
        *gap, p = judgement.differences[hero]["fpr_at_90"]
        mean, low, high = (format_difference(100 * value, 0) for value in gap)
        luck = "is more than" if p < 0.05 else "may be"
        told += f" Against the {judgement.reference} that is {mean} ({low} to {high}, p {p:.3f}), "
        told += f"which {luck} luck."
    return told


def _protagonists(scores: Mapping[str, Metrics], trained: list[str]) -> tuple[str, str | None]:
    """The model that the headline is about, and the best of the simple peers."""
    peers = sorted(
        (name for name in scores if name not in trained and name != _CONSTANT),
        key=lambda name: scores[name].fpr_at_90,
    )
    if not trained:
        return (peers or list(scores))[0], None
    best = next((name for name in _ROLES if name in trained), trained[-1])
    return best, (peers[0] if peers else None)


def headline(scores: Mapping[str, Metrics], trained: list[str]) -> str:
    """The result in a sentence for people, from the false positive rate at 90% of the likes.

    Args:
        scores: figures by name.
        trained: names that are trained models; the others are simple peers.
    """
    name, peer = _protagonists(scores, trained)
    own = _of_100(scores[name])
    who = (
        (name if name == "mmrec" else f"the {name} model")
        if trained
        else f"the simple peer `{name}`"
    )
    start = "At a setting that keeps 90% of the liked items, "
    start += f"{own} of 100 disliked ones are still recommended"
    if peer is None:
        return f"{start} by {who}."
    other = _of_100(scores[peer])
    how = "lets through as many" if other == own else f"lets through {other}"
    if other < own:
        how = f"does better and lets through only {other}"
    return f"{start} by {who}; the best {_kind(peer)} ({peer}) {how}."


def _kind(peer: str) -> str:
    """Rivals are told apart, since they need more than ratings."""
    return "peer" if peer in TRAINED_BASELINES else "simple peer"


def _of_100(scores: Metrics) -> int:
    return round(100 * scores.fpr_at_90)


def _data(comparison: Comparison, read: int | None) -> dict[str, str]:
    """What there was; reviews that only speak for others are told apart from those that were dealt."""
    prepared, split = comparison.prepared, comparison.prepared.split
    corpus, label = prepared.dataset, prepared.label
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    dealt = np.concatenate([*parts.values()])
    photos = sum(map(len, corpus.photos)), sum(map(len, corpus.item_photos))
    facts = {"Reviews read": f"{read:,}"} if read is not None else {}
    share = f" ({len(dealt) / read:.1%})" if read else ""
    facts["Reviews kept by the filter"] = f"{len(dealt):,}{share}"
    if len(split.filtered_rows):
        facts["Spare reviews"] = (
            f"{len(split.filtered_rows):,}, which the filter dropped; they speak as evidence only"
        )
    return facts | {
        "Users": f"{len(np.unique(corpus.data.user[dealt])):,}",
        "Items": f"{len(np.unique(corpus.data.item[dealt])):,}",
        "Likes": f"{np.mean(label[dealt]):.1%}",
        "Photos": f"{photos[0]:,} in reviews, {photos[1]:,} of items",
        "Rows refused": f"{prepared.reviews.rejects.height:,}",
        **{
            f"Part {name}": f"{len(rows):,} reviews, {np.mean(label[rows]):.1%} likes"
            for name, rows in parts.items()
            if len(rows)
        },
    }


def _rejects(comparison: Comparison) -> list[PageElement]:
    rejects = comparison.prepared.reviews.rejects
    first = rejects.head(_REJECTS).select("file", "line", "reason", "row")
    title = "Refused rows"
    if rejects.height > _REJECTS:
        title += f", the first {_REJECTS} of {rejects.height:,}"
    rows = [[str(cell) for cell in row] for row in first.iter_rows()]
    return [Table(title, ["File", "Line", "Reason", "Row"], rows, frozenset(), [])] if rows else []


def _verdicts(comparison: Comparison, audits: Mapping[str, Audit]) -> dict[str, str]:
    found = {
        name: f"{'✓ held' if audit.passed else '✗ broken'} — {audit}"
        for name, audit in audits.items()
    }
    return found | {name: "not audited" for name in comparison.models if name not in audits}


def _makers(comparison: Comparison) -> dict[str, str]:
    models = comparison.prepared.dataset.models
    makers = {"Language model": models.annotator.note_provenance}
    if comparison.prepared.dataset.has_photos(
        comparison.prepared.evidence.evidence_rows, captions=True
    ):
        makers["Captioner"] = models.captioner.provenance
    seconds = (f"{name} {seconds:.1f} s" for name, seconds in comparison.seconds.items())
    config = next(iter(comparison.models.values())).builder.config if comparison.models else None
    return {
        "Seed": str(config.seed) if config else "not recorded",
        **{role: _maker(maker, role) for role, maker in makers.items()},
        "Sentence encoder": models.encoder.description,
        "Time for features and training": ", ".join(seconds) or "nothing was trained",
    }


def _maker(maker: Mapping[str, object], role: str) -> str:
    told = ", ".join(
        f"{key} {value}" for key, value in maker.items() if key not in ("model", "kind")
    )
    if maker.get("model") != "builtin":
        return f"{maker.get('model', 'unnamed')} ({told})"
    how = "picks sentences by a word list and sentence vectors; it is not an LLM"
    if role == "Captioner":
        how = "describes colours, light and layout by rules; it is not a neural vision model"
    return f"builtin, offline: {how} ({told})"


def _config(comparison: Comparison) -> str:
    """The configuration as JSON; `ranker.features` names every model that ran."""
    for model in comparison.models.values():
        tree = model.builder.config.model_dump(mode="json")
        tree["ranker"]["features"] = list(comparison.models)
        return json.dumps(tree, indent=2, ensure_ascii=False)
    return ""
