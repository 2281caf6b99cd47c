"""What the report of a run says of the figures: tables and plots, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmrec.config import OperatingConfig
from mmrec.experiments.compare import Comparison
from mmrec.experiments.report.html import PageElement, Paragraph, Plot, Section
from mmrec.experiments.report.plots import GAPS
from mmrec.experiments.report.svg import format_difference, format_metric
from mmrec.experiments.report.tables import Table
from mmrec.experiments.significance import Assessment

__all__ = ["findings"]

_COLUMNS = {
    "accuracy": ("Accuracy\u00a0↑", ".1%"),
    "fpr": ("FPR\u00a0↓", ".1%"),
    "loss": ("Loss\u00a0↓", ".3f"),
    "auc": ("ROC\u2011AUC\u00a0↑", ".3f"),
    "ap_positive": ("AP of likes\u00a0↑", ".3f"),
    "ap_negative": ("AP of dislikes\u00a0↑", ".3f"),
    **{f"fpr_at_{at}": (f"FPR at TPR\u00a0.{at}\u00a0↓", ".1%") for at in (80, 90, 95)},
}
"""Figure of `Scores` -> title, format."""
_OPERATING = ["Threshold", "Of the liked (TPR)", "Of the disliked (FPR)", "Of all"]
_TEN = ["NDCG@10", "Hit rate", "MRR", "Users"]
_TERMS = {
    "Accuracy": "Reviews judged rightly, at the threshold that the loss's class weights imply.",
    "FPR": "False positive rate: disliked items that are recommended, at the same threshold; read it beside "
    "the accuracy: who recommends nothing has none.",
    "Loss": "Cross entropy, with the same class weights.",
    "ROC-AUC": "Chance that a liked item is ranked above a disliked one, whatever the threshold; .5 is "
    "guessing.",
    "AP": "Average precision of finding the liked, or the disliked items; guessing gets their share.",
    "FPR at TPR .90": "Disliked items still recommended when at least 90% of the liked ones are: what the "
    "sentence at the top is about. So for 80% and 95%.",
}
_BEST = (
    "Bold and underlined: best of its column; ↑ higher is better, ↓ lower is better. Below a figure: its 95% "
    "interval, by a bootstrap over users. Tinted rows: trained models; the others are peers, of which the "
    "simple ones need nothing but ratings"
)
_LUCK = (
    "Minus the {} on the same test reviews. ROC-AUC: above 0 is better; FPR, in points of 100: below 0 is "
    "better. Below: 95% intervals by a bootstrap over users; p is adjusted for the number of models (Holm), "
    "bold where it is below .05. They do not cover another split or seed"
)
_BOUND = (
    "The threshold is the {} of the {} items among the valid reviews. This is what it gave on test reviews, "
    "where the bound need not hold:"
)
_LISTS = (
    "What a user finds in the first ten places of a list. NDCG: liked items, the higher up the more they "
    "count; hit rate: lists with a liked item; MRR: 1 / rank of the first. Means over users; higher is "
    "better."
)
_DRAWN = (
    "Sampled: each liked test item among 99 random ones that its user never reviewed; guessing gets an NDCG "
    "of .045, a hit rate of 10%, an MRR of .052, and more where there are fewer items. Full: a user's liked "
    "test items among all that the user has not reviewed in known reviews, of at most 1,000 users. What a "
    "user never reviewed may be liked all the same"
)
_SLICES = (
    "-: fewer than 20 likes or 20 dislikes. Of a cold user fewer than 3 reviews are known, of an item with "
    "few reviews fewer than 5; the price is what most say of it. Slices without test reviews are left out."
)
_PLOTS = {
    "differences": "Better or worse?",
    "roc": "Liked against disliked (ROC)",
    "likes": "Finding the likes",
    "dislikes": "Finding the dislikes",
    "calibration": "Do the probabilities mean what they say?",
    "training": "Training",
}
_CAPTIONS = {
    "differences": "The differences of the table. Whiskers: 95% interval; where they cross the line, the "
    "difference may be luck.",
    "roc": "Moving the threshold trades liked items won (up) for disliked ones let through (right): the "
    "further to the upper left, the better; the straight line is guessing. Large marks: the threshold of "
    "the table above, chosen on valid, as it came out on test. Dots: the threshold of the first table, "
    "implied by class weights.",
    "likes": "Of the items recommended, how many were liked (up), as more of all the likes are found "
    "(right): higher is better; the level line is guessing. Marks as above.",
    "dislikes": "Of the items held back, how many were disliked (up), as more of all the dislikes are found "
    "(right): higher is better; the level line is guessing. Marks as above.",
    "calibration": "Test reviews in ten bins of about equal size, by predicted probability of a like. On "
    "the line, of those told 80%, 80% did like it; below it, the model promises too much. Equal "
    "probabilities share a bin; the larger a dot, the more reviews it stands for. Whiskers: 95% interval.",
    "training": "For each step of training: the loss on train (lower is better), and the figure that "
    "chooses the epoch (higher is better). The dotted line marks the best epoch; of several runs, whose "
    "answers are averaged, it is that of the best one, which is drawn bold.",
}


def findings(
    comparison: Comparison, judgement: Assessment, panels: Mapping[str, list[str]]
) -> list[Section]:
    """Sections on test figures, luck, the operating point, lists, slices, calibration and training.

    Args:
        comparison: the run.
        judgement: what its figures are worth.
        panels: of the plots, as far as there are any.
    """

    def plots(*keys: str) -> list[PageElement]:
        return [
            Plot(_PLOTS[at], panels[at], _CAPTIONS[at], at == "roc") for at in keys if at in panels
        ]

    figures, luck = _figures(comparison, judgement), _luck(comparison, judgement)
    bound, operating = _bound(comparison.prepared.config.operating), _operating(judgement)
    slices: list[PageElement] = [
        _slices(judgement, "auc", "ROC-AUC"),
        _slices(judgement, "fpr_at_90", "FPR at TPR .90"),
    ]
    return [
        Section("Figures on the test reviews", [figures, _TERMS]),
        Section("Is it more than luck?", [luck, *plots("differences")]),
        Section(
            "From which probability on to recommend",
            [bound, operating, *plots("roc", "likes", "dislikes")],
        ),
        Section("Lists", [_LISTS, _lists(judgement)]),
        Section("For whom, and of what", [*slices, Paragraph("small", _SLICES)]),
        Section("Probabilities and training", plots("calibration", "training")),
    ]


def _figures(comparison: Comparison, judgement: Assessment) -> Table:
    """Figures of every model; one is best when none is better as shown."""
    rows, bold = [[name] for name in comparison.metrics], set()
    for column, (key, (title, form)) in enumerate(_COLUMNS.items(), start=1):
        texts = [
            format_metric(getattr(scores, key), form) for scores in comparison.metrics.values()
        ]
        best = (min if "↓" in title else max)(
            {*texts} - {"-"}, key=lambda text: float(text.rstrip("%")), default=""
        )
        bold |= {(at, column) for at, text in enumerate(texts) if text == best}
        for row, text in zip(rows, texts, strict=True):
            _, *ends = judgement.intervals.get(row[0], {}).get(key, [0])
            row.append(f"{text}\n{'–'.join(format_metric(end, form) for end in ends)}")
    header = ["Model", *(title for title, _ in _COLUMNS.values())]
    return Table(
        "Every model", header, rows, frozenset(bold), [_BEST], _trained(rows, comparison), "best"
    )


def _trained(rows: list[list[str]], comparison: Comparison) -> frozenset[int]:
    return frozenset(at for at, row in enumerate(rows) if row[0] in comparison.models)


def _luck(comparison: Comparison, judgement: Assessment) -> Table:
    """A difference is bold where it is more than luck."""
    rows = [[name] for name in comparison.metrics if name in judgement.differences]
    bold = set()
    for at, row in enumerate(rows):
        for key, (_, scale, digits) in GAPS.items():
            *gap, p = judgement.differences[row[0]][key]
            bold |= {(at, len(row))} if p < 0.05 else set()
            row += [
                "{}\n{} to {}".format(*(format_difference(scale * value, digits) for value in gap)),
                format_metric(p),
            ]
    header, notes = (
        ["Model", "ROC-AUC", "p", "FPR at TPR .90", "p"],
        [_LUCK.format(judgement.reference)],
    )
    title, tinted = f"Differences to the {judgement.reference}", _trained(rows, comparison)
    return Table(title, header, rows, frozenset(bold), notes, tinted)


def _bound(operating: OperatingConfig) -> str:
    if operating.min_tpr is None:
        return _BOUND.format(f"lowest that recommends at most {operating.max_fpr:.0%}", "disliked")
    return _BOUND.format(f"highest that recommends at least {operating.min_tpr:.0%}", "liked")


def _operating(judgement: Assessment) -> Table:
    rows = [
        [
            name,
            f"{threshold:.1%}" if threshold <= 1 else "never",
            *(format_metric(value, ".1%") for value in given),
        ]
        for name, (threshold, given) in judgement.operating_points.items()
    ]
    header = ["Model", *_OPERATING, "Liked among these (precision)"]
    return Table("Operating points", header, rows, frozenset(), [])


def _lists(judgement: Assessment) -> Table:
    rows = []
    for name, kinds in judgement.lists.items():
        rows.append([name])
        for one in kinds.values():
            rows[-1] += [
                format_metric(one.ndcg),
                format_metric(one.hit_rate, ".1%"),
                format_metric(one.mrr),
                f"{one.users:,}",
            ]
    header = ["Model", *(f"{title}, {kind}" for kind in ("sampled", "full") for title in _TEN)]
    return Table("The first ten places", header, rows, frozenset(), [_DRAWN])


def _slices(judgement: Assessment, key: str, title: str) -> Table:
    form, models = _COLUMNS[key][1], judgement.slices
    rows = [
        [at, f"{one.rows:,}", f"{one.likes:,}"]
        + [format_metric(getattr(own[at].metrics, key, np.nan), form) for own in models.values()]
        for at, one in models[judgement.reference].items()
        if one.rows
    ]
    return Table(f"{title} by slice", ["Slice", "Reviews", "Likes", *models], rows, frozenset(), [])
