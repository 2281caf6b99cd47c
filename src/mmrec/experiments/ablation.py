"""What each group of inputs adds: models that hear only some of them, all trained side by side.

Every seed is another split, other evidence, other initial weights; whatever is compared shares all three.
What a seed comes to on test rows is plain data: what was `asked`; `groups` that say anything; `figures` of
`metrics.Scores` by row of the table; `values`, ROC-AUC by coalition, as in `ratings + photos`; `ratio` of
test rows to train rows; `remarks`; and `bootstrap`, where asked: differences to everything by row and figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmrec import evaluation
from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.report.tables import Table
from mmrec.experiments.significance import BOOTSTRAPPED_METRICS
from mmrec.features.builder import FeatureBuilder, build_features
from mmrec.features.dataset import Dataset, Models
from mmrec.features.groups import FEATURE_GROUPS, available_groups, shapley_value
from mmrec.features.tables import Features
from mmrec.llm.types import Note
from mmrec.pipeline import (
    PreparedData,
    TrainedModel,
    config_warnings,
    open_models,
    prepare_data,
    train_runs,
)
from mmrec.ranker.dlrm import TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.loss import class_weights
from mmrec.ranker.training import predict_logits

__all__ = [
    "BOOTSTRAPPED_METRICS",
    "MeanInterval",
    "SeedResult",
    "ablate",
    "group_probabilities",
    "metric_rows",
    "shapley_values",
    "synergy",
    "tables",
]

BuiltFeatures = tuple[FeatureBuilder, Features]
SeedResult = dict[str, Any]
MeanInterval = tuple[float, float]
"""Mean over seeds and half its 95% interval, which is 0 for a single seed."""
_EVERYTHING = "everything"
_TEXT, _PHOTOS = {"user text", "item text"}, {"photos"}


def ablate(
    reviews: Reviews, config: Config, models: Models, path: Path, *, seeds: int, extras: set[str]
) -> list[SeedResult]:
    """Train and judge what the `Journal` at `path` does not hold yet, for so many seeds from the config's on.

    More may be `extras`: `shapley`, all coalitions; `words` and `summaries`, other words and pictures in the
    place of the model's; `bootstrap`, over users, for when there is but one seed.

    Raises:
        DataError: too few reviews, or a file at `path` that is no journal.
    """
    journal, names = (
        Checkpoint(path, reviews, config, models),
        range(config.seed, config.seed + seeds),
    )
    for seed in names:
        if str(seed) not in journal.results or extras - {*journal.results[str(seed)]["asked"]}:
            own = config.model_copy(update={"seed": seed})
            journal.put(str(seed), _trial(prepare_data(reviews, own, models), extras))
    return [journal.results[str(seed)] for seed in names]


def group_probabilities(
    prepared: PreparedData, made: BuiltFeatures, coalitions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Coalition -> (m,) probability of a like of every test row; each trained once, from the same weights."""
    (assembler, features), label, split = made, prepared.label, prepared.split
    config = assembler.config
    weights = class_weights(label[split.train], config.training.loss)
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
    deaf = [frozenset(FEATURE_GROUPS).difference(some.split(" + ")) for some in coalitions]
    runs = [TrainingRun(seed, config.ranker.dropout, weights, one) for one in deaf]
    ranker, _ = train_runs(assembler, features, label, split, runs)
    answers = predict_logits(ranker, RankerInputs(features), split.test)
    model = TrainedModel(assembler, ranker, weights, {})
    return {
        some: model.probability(one[None]) for some, one in zip(coalitions, answers, strict=True)
    }


def _less(groups: Sequence[str], some: set[str]) -> str:
    return " + ".join(group for group in groups if group not in some)


def _four(groups: Sequence[str]) -> list[str]:
    """Everything, without text, without photos, without both."""
    return [_less(groups, some) for some in (set[str](), _TEXT, _PHOTOS, _TEXT | _PHOTOS)]


def _trial(prepared: PreparedData, asked: set[str]) -> SeedResult:
    config, test = prepared.config, prepared.split.test
    made = build_features(prepared.dataset, prepared.evidence, config)
    groups = available_groups(made[1])
    names = {
        _EVERYTHING: _less(groups, set()),
        **{f"without {one}": _less(groups, {one}) for one in groups},
    }
    names |= {"without text": _less(groups, _TEXT), **{f"{one} alone": one for one in groups}}
    wanted = [*names.values(), *_four(groups)]
    if "shapley" in asked:
        wanted += [
            _less(some, set()) for size in range(len(groups)) for some in combinations(groups, size)
        ]
    p = group_probabilities(prepared, made, [*dict.fromkeys(filter(None, wanted))])
    rows = {name: p[some] for name, some in names.items() if some}
    none = ", ".join(group for group in FEATURE_GROUPS if group not in groups)
    remarks = config_warnings(config) + (
        [f"left out, since these data and model have none: {none}"] if none else []
    )
    for name, corpus, own in _others(prepared, asked, remarks):
        corpus.part, whole = prepared.dataset.part, _less(FEATURE_GROUPS, set())
        rows[f"with {name}"] = group_probabilities(
            prepared, build_features(corpus, prepared.evidence, own), [whole]
        )[whole]
    label, user, all_ = prepared.label[test], prepared.dataset.data.user[test], rows[_EVERYTHING]
    weights = class_weights(prepared.label[prepared.split.train], config.training.loss)
    trial: SeedResult = {
        "asked": sorted(asked),
        "groups": groups,
        "remarks": remarks,
        "bootstrap": {},
    }
    trial["ratio"] = len(test) / len(prepared.split.train)
    trial["figures"] = {
        name: evaluation.evaluate(label, one, weights).dict() for name, one in rows.items()
    }
    trial["values"] = {
        some: evaluation.evaluate(label, one, weights).auc for some, one in p.items()
    }
    for name, one in rows.items() if "bootstrap" in asked else ():
        gaps = {
            key: evaluation.paired_bootstrap(user, label, one, all_, of)
            for key, of in BOOTSTRAPPED_METRICS.items()
        }
        trial["bootstrap"][name] = gaps
    return trial


def _others(
    prepared: PreparedData, asked: set[str], remarks: list[str]
) -> Iterator[tuple[str, Dataset, Config]]:
    """The same model with other words or pictures; why some cannot be had goes to the remarks."""
    reviews, corpus, config = prepared.reviews, prepared.dataset, prepared.config
    models = corpus.models
    if config.ranker.features == "baseline":
        return
    for flag, strategy in (("words", "notes"), ("summaries", "summary")):
        profile = config.annotation.model_copy(update={"strategy": strategy})
        own = config.model_copy(update={"annotation": profile})
        if flag in asked and strategy != config.annotation.strategy:
            yield (
                strategy,
                Dataset.from_reviews(reviews, open_models(own, store=models.store), own),
                own,
            )
        if flag == "words" and flag in asked:
            pairs = zip(corpus.notes, corpus.texts, strict=True)
            whole = [
                Note(gist=text, price=note.price, categories=note.categories)
                for note, text in pairs
            ]
            yield "whole reviews", Dataset.from_reviews(reviews, models, own, whole), own
    if "words" in asked and corpus.has_photos(prepared.evidence.evidence_rows, captions=False):
        if models.image_encoder.available():
            seeing = copy(corpus)
            seeing.caption_vectors = corpus.image_vectors
            yield "image vectors", seeing, config
        else:
            remarks.append(
                f"image vectors were not tried: no weights of {config.vision.image_model} here"
            )


def metric_rows(
    trials: Sequence[SeedResult], key: str
) -> list[tuple[str, MeanInterval, evaluation.Difference]]:
    """Every row of the table, a figure's mean, and its difference to the first row, `everything`.

    `key` is one of `FIGURES`; p-values are adjusted for there being so many rows (Holm).
    """
    names = [
        name for name in trials[0]["figures"] if all(name in trial["figures"] for trial in trials)
    ]
    values = [[trial["figures"][name][key] for trial in trials] for name in names]
    if len(trials) == 1:
        gaps = [evaluation.Difference(*trials[0]["bootstrap"][name][key]) for name in names]
    else:
        gaps = [evaluation.paired_t_test(one, values[0], _ratio(trials)) for one in values]
    p = [1.0, *evaluation.holm_correction([gap.p_value for gap in gaps[1:]]).tolist()]
    adjusted = [gap._replace(p_value=one) for gap, one in zip(gaps, p, strict=True)]
    spreads = [_over_seeds(one, _ratio(trials)) for one in values]
    return list(zip(names, spreads, adjusted, strict=True))


def _ratio(trials: Sequence[SeedResult]) -> float:
    return float(np.mean([trial["ratio"] for trial in trials]))


def _over_seeds(values: Sequence[float], ratio: float) -> MeanInterval:
    if len(values) < 2:
        return values[0], 0.0
    mean, low, *_ = evaluation.paired_t_test(values, np.zeros(len(values)).tolist(), ratio)
    return mean, mean - low


def shapley_values(trials: Sequence[SeedResult]) -> dict[str, MeanInterval]:
    """Group -> its exact share of ROC-AUC above .5; empty where not all coalitions were trained."""
    shares: dict[str, list[float]] = {}
    for trial in trials:
        values = {frozenset(some.split(" + ")): value for some, value in trial["values"].items()}
        if len(values) + 1 < 2 ** len(trial["groups"]):
            return {}
        for group in trial["groups"]:
            shares.setdefault(group, []).append(
                shapley_value({**values, frozenset[str](): 0.5}, group)
            )
    return {group: _over_seeds(share, _ratio(trials)) for group, share in shares.items()}


def synergy(trials: Sequence[SeedResult]) -> evaluation.Difference | None:
    """v(all) - v(without text) - v(without photos) + v(without both), v being ROC-AUC on test.

    Above zero, text and photos complement each other; below, they say the same. None with one seed, and where
    either is missing.
    """
    if len(trials) < 2 or any(len({*_four(trial["groups"])}) < 4 for trial in trials):
        return None
    v = np.array(
        [[trial["values"].get(some, 0.5) for some in _four(trial["groups"])] for trial in trials]
    )
    texts = (v[:, 0] - v[:, 1]).tolist(), (v[:, 2] - v[:, 3]).tolist()
    return evaluation.paired_t_test(*texts, _ratio(trials))


def tables(trials: Sequence[SeedResult]) -> list[Table]:
    """One for each figure; where all coalitions were trained, what each group is worth."""
    seeds = (
        f"Student's t over {len(trials)} splits of the same reviews (Nadeau & Bengio's variance)"
    )
    test = "a bootstrap over users" if len(trials) == 1 else seeds
    notes = [
        f"intervals (95%) and p, in pairs, by {test}; p is adjusted for the whole table (Holm)"
    ]
    notes.append("one training per row, where `mmrec fit` averages several (--ensemble)")
    notes += dict.fromkeys(remark for trial in trials for remark in trial["remarks"])
    if both := synergy(trials):
        meaning = "above 0 they complement each other, below they say the same"
        notes.append(
            f"synergy of text and photos in ROC-AUC: {_gap(both)}, p {both.p_value:.3f}; {meaning}"
        )
    found = []
    for key, title in (("auc", "ROC-AUC"), ("fpr_at_90", "FPR at TPR .90")):
        rows = [
            [name, _spread(one), _gap(gap), f"{gap.p_value:.3f}"]
            for name, one, gap in metric_rows(trials, key)
        ]
        header = ["inputs", title, "less that of everything", "p"]
        found.append(Table(f"What inputs add to {title}", header, rows, frozenset(), notes))
    if shares := shapley_values(trials):
        rows = [[group, _spread(share)] for group, share in shares.items()]
        notes = ["exact Shapley values; they add up to the ROC-AUC of everything less .5"]
        found.append(
            Table("What each group is worth", ["group", "ROC-AUC"], rows, frozenset(), notes)
        )
    return found


def _spread(one: MeanInterval) -> str:
    return f"{one[0]:.4f} ±{one[1]:.4f}" if one[1] else f"{one[0]:.4f}"


def _gap(gap: evaluation.Difference) -> str:
    return f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
