"""The report of one run: a single HTML file that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmrec.audit import Audit
from mmrec.experiment.compare import Comparison
from mmrec.experiment.drawing import style
from mmrec.experiment.judging import Judgement
from mmrec.experiment.plots import draw_plots
from mmrec.experiment.rendering import made, render
from mmrec.experiment.rivals import RIVALS
from mmrec.metrics import Scores

__all__ = ["headline", "write_report"]

_CONSTANT = "always like"
_REJECTS = 10
_ROLES = {"mmrec": "our model", "proposed": "the paper's model", "baseline": "the paper's baseline"}


@dataclass(frozen=True)
class _Column:
    """A column of the table: a `field` of `Scores`; the template says what it means."""

    field: str
    title: str
    lower: bool = False
    share: bool = False

    def text(self, value: float) -> str:
        return f"{value:.1%}" if self.share else f"{value:.3f}"


_COLUMNS = (
    _Column("accuracy", "Accuracy", share=True),
    _Column("fpr", "FPR", lower=True, share=True),
    _Column("loss", "Loss", lower=True),
    _Column("auc", "ROC\u2011AUC"),
    _Column("ap_positive", "AP of likes"),
    _Column("ap_negative", "AP of dislikes"),
    *(_Column(f"fpr_at_{at}", f"FPR at TPR\u00a0.{at}", lower=True, share=True) for at in (80, 90, 95)),
)


def write_report(
    comparison: Comparison,
    judgement: Judgement,
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
    trained, reviews = list(comparison.models), comparison.prepared.reviews
    return render(
        "report.html.jinja",
        path,
        title=Path(reviews.source).name,
        source=reviews.source,
        headline=headline(comparison.scores, trained),
        hero=_protagonists(comparison.scores, trained)[0],
        bars=_bars(comparison),
        remarks=comparison.remarks,
        scores=comparison.scores,
        trained=trained,
        judgement=judgement,
        columns=_COLUMNS,
        header=["Model", *(f"{column.title}\u00a0{'↓' if column.lower else '↑'}" for column in _COLUMNS)],
        table=_table(comparison),
        operating=comparison.prepared.config.operating,
        plots=draw_plots(comparison, judgement),
        data=_data(comparison, read),
        split=_parts(comparison),
        rejects=reviews.rejects.head(_REJECTS).to_dicts(),
        refused=reviews.rejects.height,
        audits=audits,
        unaudited=[name for name in trained if name not in audits],
        command=command,
        made=made() | _makers(comparison),
        config=_config(comparison),
    )


def _protagonists(scores: Mapping[str, Scores], trained: list[str]) -> tuple[str, str | None]:
    """The model that the headline is about, and the best of the simple peers."""
    peers = sorted(
        (name for name in scores if name not in trained and name != _CONSTANT),
        key=lambda name: scores[name].fpr_at_90,
    )
    if not trained:
        return (peers or list(scores))[0], None
    best = next((name for name in _ROLES if name in trained), trained[-1])
    return best, (peers[0] if peers else None)


def headline(scores: Mapping[str, Scores], trained: list[str]) -> str:
    """The result in a sentence for people, from the false positive rate at 90% of the likes.

    Args:
        scores: figures by name.
        trained: names that are trained models; the others are simple peers.
    """
    name, peer = _protagonists(scores, trained)
    own = _of_100(scores[name])
    who = (name if name == "mmrec" else f"the {name} model") if trained else f"the simple peer `{name}`"
    start = (
        f"At a setting that keeps 90% of the liked items, {own} of 100 disliked ones are still recommended"
    )
    if peer is None:
        return f"{start} by {who}."
    other = _of_100(scores[peer])
    how = "lets through as many" if other == own else f"lets through {other}"
    if other < own:
        how = f"does better and lets through only {other}"
    return f"{start} by {who}; the best {_kind(peer)} ({peer}) {how}."


def _kind(peer: str) -> str:
    """Rivals are told apart, since they need more than ratings."""
    return "peer" if peer in RIVALS else "simple peer"


def _of_100(scores: Scores) -> int:
    return round(100 * scores.fpr_at_90)


def _bars(comparison: Comparison) -> list[tuple[str, str, float, str]]:
    """(name, role, of 100 disliked how many come through, colour) for the picture under the headline."""
    name, peer = _protagonists(comparison.scores, list(comparison.models))
    roles = {each: _ROLES.get(each, "trained") for each in (name, *comparison.models)}
    roles |= {peer: f"best {_kind(peer)}"} if peer else {name: "simple peer"}
    scores = comparison.scores
    return [(each, role, 100 * scores[each].fpr_at_90, style(each).variable) for each, role in roles.items()]


def _table(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of the table; a figure is best when none is better as shown."""
    shown = {
        name: [c.text(getattr(scores, c.field)) for c in _COLUMNS]
        for name, scores in comparison.scores.items()
    }
    values = np.array([[float(text.rstrip("%")) for text in row] for row in shown.values()])
    lower = np.array([column.lower for column in _COLUMNS])
    best = values == np.where(lower, values.min(axis=0), values.max(axis=0))
    return [
        {"name": name, "trained": name in comparison.models, "cells": list(zip(row, marks, strict=True))}
        for (name, row), marks in zip(shown.items(), best.tolist(), strict=True)
    ]


def _data(comparison: Comparison, read: int | None) -> dict[str, str]:
    prepared = comparison.prepared
    corpus = prepared.corpus
    photos = sum(map(len, corpus.photos)), sum(map(len, corpus.item_photos))
    kept = f"{len(prepared.reviews):,}"
    facts = {"Reviews read": f"{read:,}"} if read is not None else {}
    return facts | {
        "Reviews kept by the filter": kept + (f" ({len(prepared.reviews) / read:.1%})" if read else ""),
        "Users": f"{len(corpus.data.users):,}",
        "Items": f"{len(corpus.data.items):,}",
        "Likes": f"{np.mean(prepared.label):.1%}",
        "Photos": f"{photos[0]:,} in reviews, {photos[1]:,} of items",
        "Rows refused": f"{prepared.reviews.rejects.height:,}",
    }


def _parts(comparison: Comparison) -> list[tuple[str, str, str]]:
    split, label = comparison.prepared.split, comparison.prepared.label
    parts = (("train", split.train), ("valid", split.valid), ("test", split.test))
    return [(name, f"{len(rows):,}", f"{np.mean(label[rows]):.1%}") for name, rows in parts if len(rows)]


def _makers(comparison: Comparison) -> dict[str, str]:
    models = comparison.prepared.corpus.models
    makers = {"Language model": models.reader.identity}
    if comparison.prepared.corpus.pictured(comparison.prepared.evidence.known, captions=True):
        makers["Captioner"] = models.captioner.maker
    seconds = (f"{name} {seconds:.1f} s" for name, seconds in comparison.seconds.items())
    config = next(iter(comparison.models.values())).assembler.config if comparison.models else None
    return {
        "Seed": str(config.seed) if config else "not recorded",
        **{role: _maker(maker, role) for role, maker in makers.items()},
        "Sentence encoder": models.encoder.description,
        "Time for features and training": ", ".join(seconds) or "nothing was trained",
    }


def _maker(maker: Mapping[str, object], role: str) -> str:
    told = ", ".join(f"{key} {value}" for key, value in maker.items() if key not in ("model", "kind"))
    if maker.get("model") != "builtin":
        return f"{maker.get('model', 'unnamed')} ({told})"
    how = "picks sentences by a word list and sentence vectors; it is not an LLM"
    if role == "Captioner":
        how = "describes colours, light and layout by rules; it is not a neural vision model"
    return f"builtin, offline: {how} ({told})"


def _config(comparison: Comparison) -> str:
    """The configuration as JSON; `ranker.features` names every model that ran."""
    for model in comparison.models.values():
        tree = model.assembler.config.model_dump(mode="json")
        tree["ranker"]["features"] = list(comparison.models)
        return json.dumps(tree, indent=2, ensure_ascii=False)
    return ""
