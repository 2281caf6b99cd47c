"""Cold start: whole items, or whole users, are held out, and their first reviews are added live.

An entity (an item or a user) reveals at most half of its reviews, up to ten; all later ones are
*judged* at every number k of added reviews, so that a curve compares like with like, and never are
evidence. Judged are reviews whose other side is known. An entity with fewer than k reviews to
reveal has all of these. Every split holds out other entities and fits everything on the rest.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmrec.config import Config
from mmrec.data.schema import EntityKind, Interactions, Reviews
from mmrec.errors import DataError
from mmrec.evaluation import statistics
from mmrec.evaluation.list_metrics import LIST_LENGTH
from mmrec.evaluation.statistics import Difference
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.cold_start_scorers import ColdStartTask, live_scores, peer_scores
from mmrec.experiments.report.charts import interval_chart
from mmrec.experiments.report.html import ResultTable, write_page

REVIEW_COUNTS = (0, 1, 2, 3, 5, 10)
"""Numbers k of reviews that are added of each held-out entity."""
_METRICS = {"auc": "ROC-AUC", "fpr_at_90": "FPR at TPR .90", "recall": f"recall@{LIST_LENGTH}"}
_MIN_REVIEWS = 4  # of an entity that may be held out: two are revealed, two are judged
_LIST_USERS, _ROUNDS = 100, 400
SplitResult = dict[str, Any]
"""`entities`, number of `judged` rows, mean number of reviews `shown` by k; and `values`: model ->
metric -> for each k the value, and then bootstrap samples, which are drawn alike for all models. The
first model is ours, then come ours without words, the bias model, and LightGBM if installed."""


def cold_start(
    checkpoint: Checkpoint, kinds: Sequence[EntityKind], splits: int, limit: int
) -> dict[EntityKind, list[SplitResult]]:
    """Measure what the checkpoint lacks; by kind of the held-out entities, a result for each split.

    Up to `limit` entities are held out, at most a fifth of all. Raises a DataError if there are too
    few with enough reviews.
    """
    results: dict[EntityKind, list[SplitResult]] = {}
    for kind in kinds:
        results[kind] = []
        for split in range(splits):
            compute = partial(_measure_split, checkpoint, kind, split, splits, limit)
            name = f"{limit} {kind}s at most, split {split + 1} of {splits}"
            results[kind].append(checkpoint.get(name, compute))
    return results


def hold_out(
    reviews: Reviews, kind: EntityKind, config: Config, split: int, splits: int, limit: int
) -> ColdStartTask:
    """Hold out entities, other ones in each of the `splits`; see `cold_start`.

    Their first reviews are the earliest where `--split-by time` is set, else random ones.
    """
    data = Interactions.from_table(reviews.table)
    entity, other = (data.user, data.item) if kind == "user" else (data.item, data.user)
    rng = np.random.default_rng(config.seed)
    eligible = rng.permutation(np.flatnonzero(np.bincount(entity) >= _MIN_REVIEWS))
    size = min(limit, len(eligible) // max(splits, 5))
    if not size:
        problem = f"{len(eligible)} {kind}s have {_MIN_REVIEWS} reviews or more"
        raise DataError(f"{problem}, and {max(splits, 5)} are needed; bring more reviews")
    held_out = np.isin(entity, eligible[split * size : (split + 1) * size])
    known = np.flatnonzero(~held_out)
    # Held-out rows, entity by entity, in order of time or at random.
    order = rng.permutation(np.flatnonzero(held_out))
    if config.split.split_by == "time":
        order = order[np.argsort(data.time[order], kind="stable")]
    order = order[np.argsort(entity[order], kind="stable")]
    _, start, count = np.unique(entity[order], return_index=True, return_counts=True)
    position = np.arange(len(order)) - np.repeat(start, count)  # within the entity
    is_revealed = position < np.repeat(np.minimum(count // 2, REVIEW_COUNTS[-1]), count)
    place = np.full(len(data), len(data))
    place[order[is_revealed]] = position[is_revealed]
    judged = np.sort(order[~is_revealed])
    judged = judged[np.isin(other[judged], other[known])]
    label = data.rating >= config.like_rating
    if label[judged].all() or not label[judged].any():
        problem = f"{len(judged)} reviews of {size} held-out {kind}s are too few to judge"
        raise DataError(f"{problem}: likes and dislikes are needed; bring more reviews")
    users = rng.permutation(np.unique(data.user[judged[label[judged]]]))[:_LIST_USERS]
    return ColdStartTask(kind, reviews, data, label, known, place, judged, users, REVIEW_COUNTS)


def _measure_split(
    checkpoint: Checkpoint, kind: EntityKind, split: int, splits: int, limit: int
) -> SplitResult:
    config, models = checkpoint.config, checkpoint.models
    task = hold_out(checkpoint.reviews, kind, config, split, splits, limit)
    blank = replace(task, reviews=without_words(task.reviews))
    model: str = config.ranker.features
    scores = {model: live_scores(task, config, models)}
    scores[f"{model} without words"] = live_scores(blank, config, models)
    scores |= peer_scores(task, config, models)
    entity, label, user, item = task.entity, task.label, task.data.user, task.data.item
    judged = task.judged
    likes = judged[label[judged] & np.isin(user[judged], task.list_users)]
    samples: dict[str, dict[str, list[list[float]]]] = {}
    for name, by_count in scores.items():
        values = samples[name] = {metric: [] for metric in _METRICS}
        for p, lists in by_count:
            rows = entity[judged], label[judged], p
            values["auc"].append(_sample(*rows, statistics.weighted_auc))
            values["fpr_at_90"].append(_sample(*rows, statistics.weighted_fpr_at_tpr))
            listed = [item[row] in lists[user[row]] for row in likes]
            found = np.array(listed, dtype=float)
            of_likes = entity[likes], label[likes], np.column_stack([found, np.ones(len(likes))])
            values["recall"].append(_sample(*of_likes, statistics.weighted_ratio))
    count = len(np.unique(entity[judged]))
    shown = [len(task.revealed(k)) / count for k in REVIEW_COUNTS]
    return {"entities": count, "judged": len(judged), "shown": shown, "values": samples}


def without_words(reviews: Reviews) -> Reviews:
    """The reviews with blank texts, and without photos and captions, which become words."""
    none = pl.lit([], pl.List(pl.String))
    table = reviews.table.with_columns(text=pl.lit(""), photos=none, captions=none)
    items = reviews.items.with_columns(photos=none, captions=none)
    return replace(reviews, table=table, items=items)


def _sample(
    entity: np.ndarray, label: np.ndarray, p: np.ndarray, metric: statistics.WeightedMetric
) -> list[float]:
    """A metric and its bootstrap samples, which are drawn over entities."""
    value = float(metric(label, p, np.ones(len(p))))
    samples = statistics.bootstrap_samples(entity, label, p, metric, _ROUNDS)
    return [round(number, 5) for number in (value, *samples.tolist())]


def curve(results: Sequence[SplitResult], metric: str, *models: str) -> list[Difference]:
    """For every k the metric of a model, less that of a second one if it is named: the mean over
    splits, with its interval by a bootstrap over the held-out entities of each split."""
    values = []
    for model in models:
        values.append([result["values"][model][metric] for result in results])
    by_split = np.array(values[0]) - np.sum(values[1:], axis=0)  # (splits, counts, 1 + rounds)
    return [statistics.describe_samples(float(x[0]), x[1:]) for x in by_split.mean(0)]


def cold_start_tables(results: dict[EntityKind, list[SplitResult]]) -> list[ResultTable]:
    """One for each kind of held-out entities and metric."""
    tables = []
    for kind, splits in results.items():
        names = [*splits[0]["values"]]
        shown = np.mean([result["shown"] for result in splits], axis=0)
        entities = sum(map(itemgetter("entities"), splits))
        judged = sum(map(itemgetter("judged"), splits))
        counts = f"{entities:,} {kind}s held out in {len(splits)} splits"
        notes = [f"{counts}, {judged:,} judged reviews"]
        notes.append(f"k: live reviews of each {kind}, up to half of all; mean: how many there are")
        notes.append(f"in brackets: 95%, by a bootstrap over held-out {kind}s")
        for metric, title in _METRICS.items():
            rows = [[f"{k}", f"{mean:.1f}"] for k, mean in zip(REVIEW_COUNTS, shown, strict=True)]
            for name in names:
                for row, value in zip(rows, curve(splits, metric, name), strict=True):
                    row.append(f"{value.mean:.4f}")
            for name in names[1:3]:  # without words, and the bias model
                for row, gap in zip(rows, curve(splits, metric, names[0], name), strict=True):
                    row.append(gap.as_text(4))
            header = ["k", "mean", *names, "less without words", "less bias model"]
            tables.append(ResultTable(f"New {kind}s: {title}", header, rows, notes=[*notes]))
        text = f"share of judged likes in their user's list of {LIST_LENGTH}"
        tables[-1].notes.append(f"{text}, of up to {_LIST_USERS} users a split")
    return tables


def cold_start_page(results: dict[EntityKind, list[SplitResult]], path: Path, command: str) -> Path:
    """Write the page of what `cold_start` returned."""
    panels: dict[str, list[str]] = {}
    for kind, splits in results.items():
        panels[f"New {kind}s"] = charts = []
        for metric, title in _METRICS.items():
            curves = {}
            for name in splits[0]["values"]:
                points = zip(REVIEW_COUNTS, curve(splits, metric, name), strict=True)
                curves[name] = [(f"{k}", *value[:3]) for k, value in points]
            better = f"{title}: {'down' if metric == 'fpr_at_90' else 'up'} is better"
            charts.append(interval_chart(curves, "live reviews", better, f"{kind}-{metric}"))
    content: dict[str, Any] = {"panels": panels, "tables": cold_start_tables(results)}
    return write_page(path, "Cold start", command, "cold_start", **content)
