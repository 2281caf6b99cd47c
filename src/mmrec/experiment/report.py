"""The report of one run: a single HTML file that needs nothing but itself."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmrec.audit import Audit
from mmrec.experiment.compare import Comparison
from mmrec.experiment.plots import draw_plots
from mmrec.metrics import Scores

__all__ = ["headline", "write_report"]

_CONSTANT = "always like"
_REJECTS = 10
_PACKAGES = ("mmrec", "torch", "polars", "sentence-transformers")


@dataclass(frozen=True)
class _Column:
    """A column of the table: a `field` of `Scores`; the template says what it means."""

    field: str
    title: str
    lower: bool = False
    share: bool = False

    def show(self, scores: Scores) -> str:
        value = getattr(scores, self.field)
        return f"{value:.1%}" if self.share else f"{value:.3f}"


_COLUMNS = (
    _Column("accuracy", "Accuracy", share=True),
    _Column("fpr", "FPR", lower=True, share=True),
    _Column("loss", "Loss", lower=True),
    _Column("auc", "ROC\u2011AUC"),
    _Column("ap_negative", "AP of dislikes"),
    *(_Column(f"fpr_at_{at}", f"FPR at TPR\u00a0.{at}", lower=True, share=True) for at in (80, 90, 95)),
)


def write_report(
    comparison: Comparison,
    audits: Mapping[str, Audit],
    path: Path,
    *,
    command: str,
    read: int | None = None,
) -> Path:
    """Write what came out of a run as one HTML file, without scripts and without outside references.

    Args:
        comparison: the run.
        audits: by name of the model.
        path: the file to write; its folder is made when absent.
        command: how the run was started.
        read: number of reviews read, before the filter.

    Returns:
        The path.
    """
    loader = PackageLoader("mmrec", "experiment")
    # The template's name does not end in .html, so autoescape must not be left to the name.
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    plots = {key: [Markup(svg) for svg in drawn] for key, drawn in draw_plots(comparison).items()}
    page = environment.get_template("report.html.jinja").render(
        title=Path(comparison.prepared.reviews.source).name,
        source=comparison.prepared.reviews.source,
        headline=headline(comparison.scores, list(comparison.models)),
        bars=_bars(comparison),
        chance=_chance(comparison),
        remarks=comparison.remarks,
        columns=_COLUMNS,
        table=_table(comparison),
        plots=plots,
        data=_data(comparison, read),
        parts=_parts(comparison),
        rejects=comparison.prepared.reviews.rejects.head(_REJECTS).to_dicts(),
        refused=comparison.prepared.reviews.rejects.height,
        audits=audits,
        unaudited=[name for name in comparison.models if name not in audits],
        command=command,
        made=_made(comparison),
        config=_config(comparison),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def _protagonists(scores: Mapping[str, Scores], trained: list[str]) -> tuple[str, str | None]:
    """The model that the headline is about, and the best of the simple peers."""
    peers = sorted(
        (name for name in scores if name not in trained and name != _CONSTANT),
        key=lambda name: scores[name].fpr_at_90,
    )
    if not trained:
        return (peers or list(scores))[0], None
    return ("proposed" if "proposed" in trained else trained[-1]), (peers[0] if peers else None)


def headline(scores: Mapping[str, Scores], trained: list[str]) -> str:
    """The result in a sentence for people, from the false positive rate at 90% of the likes.

    Args:
        scores: figures by name.
        trained: names that are trained models; the others are simple peers.
    """
    name, peer = _protagonists(scores, trained)
    own = _of_100(scores[name])
    who = f"the {name} model" if trained else f"the simple peer `{name}`"
    start = (
        f"At a setting that keeps 90% of the liked items, {own} of 100 disliked ones are still recommended"
    )
    if peer is None:
        return f"{start} by {who}."
    other = _of_100(scores[peer])
    how = "lets through as many" if other == own else f"lets through {other}"
    if other < own:
        how = f"does better and lets through only {other}"
    return f"{start} by {who}; the best simple peer ({peer}) {how}."


def _of_100(scores: Scores) -> int:
    return round(100 * scores.fpr_at_90)


def _bars(comparison: Comparison) -> list[tuple[str, str, float]]:
    """(name, role, of 100 disliked how many come through) for the picture under the headline."""
    name, peer = _protagonists(comparison.scores, list(comparison.models))
    roles = {name: "this model" if peer else "simple peer"}
    roles |= {trained: "the paper's comparison" for trained in comparison.models if trained != name}
    roles |= {peer: "best simple peer"} if peer else {}
    return [(each, role, 100 * comparison.scores[each].fpr_at_90) for each, role in roles.items()]


def _chance(comparison: Comparison) -> str:
    """How far luck may carry the headline: the 95% interval of a difference of two shares."""
    scores = comparison.scores
    name, peer = _protagonists(scores, list(comparison.models))
    rows, dislikes = scores[name].rows, scores[name].rows - scores[name].likes
    shares = [scores[each].fpr_at_90 for each in (name, peer or name)]
    points = max(1, round(196 * (sum(share * (1 - share) for share in shares) / dislikes) ** 0.5))
    told = f"Judged by {rows:,} test reviews, {dislikes:,} of them dislikes. With so many, "
    told += f"a difference of less than about {points} in 100 may be luck"
    gap = abs(_of_100(scores[name]) - _of_100(scores[peer])) if peer else 0
    return told + (f", and so may the {gap} in 100 above." if 0 < gap < points else ".")


def _table(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of the table; a figure is best when none is better as shown."""
    shown = {name: [c.show(scores) for c in _COLUMNS] for name, scores in comparison.scores.items()}
    values = np.array([[float(text.rstrip("%")) for text in row] for row in shown.values()])
    lower = np.array([column.lower for column in _COLUMNS])
    best = values == np.where(lower, values.min(axis=0), values.max(axis=0))
    return [
        {
            "name": name,
            "trained": name in comparison.models,
            "cells": list(zip(row, marks, strict=True)),
        }
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


def _made(comparison: Comparison) -> dict[str, str]:
    models = comparison.prepared.corpus.models
    makers = {"Language model": models.reader.identity}
    if comparison.prepared.corpus.pictured(comparison.prepared.evidence.known, captions=True):
        makers["Captioner"] = models.captioner.maker
    seconds = (f"{name} {seconds:.1f} s" for name, seconds in comparison.seconds.items())
    config = next(iter(comparison.models.values())).assembler.config if comparison.models else None
    return {
        "Written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "Seed": str(config.seed) if config else "not recorded",
        **{role: _maker(maker, role) for role, maker in makers.items()},
        "Sentence encoder": models.encoder.description,
        "Time for features and training": ", ".join(seconds) or "nothing was trained",
        "Versions": ", ".join(
            [f"python {platform.python_version()}", *(f"{name} {_version(name)}" for name in _PACKAGES)]
        ),
        "Machine": f"{os.cpu_count()} processors, {platform.platform()}",
    }


def _maker(maker: Mapping[str, object], role: str) -> str:
    told = ", ".join(f"{key} {value}" for key, value in maker.items() if key not in ("model", "kind"))
    if maker.get("model") != "builtin":
        return f"{maker.get('model', 'unnamed')} ({told})"
    how = "picks sentences by a word list and sentence vectors; it is not an LLM"
    if role == "Captioner":
        how = "describes colours, light and layout by rules; it is not a neural vision model"
    return f"builtin, offline: {how} ({told})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _config(comparison: Comparison) -> str:
    """The configuration as JSON; `ranker.features` names every model that ran."""
    for model in comparison.models.values():
        tree = model.assembler.config.model_dump(mode="json")
        tree["ranker"]["features"] = list(comparison.models)
        return json.dumps(tree, indent=2, ensure_ascii=False)
    return ""
