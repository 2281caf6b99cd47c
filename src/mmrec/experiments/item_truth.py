"""Scores what was extracted from reviews against what is known of items, next to plain comparators.

Truth (a price level, cuisines, genres) is never an input of a model; it only judges.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrec.data.columns import LAYOUTS
from mmrec.data.files import read_records
from mmrec.errors import DataError
from mmrec.experiments.annotation_quality import rank_correlation

__all__ = [
    "category_recall",
    "keyword_categories",
    "keyword_price",
    "label_recall",
    "most_frequent_labels",
]
__all__ += [
    "normalise_label",
    "price_correlation",
    "price_level_score",
    "rank_labels",
    "read_categories",
]
__all__ += ["read_prices", "read_truth"]

_WORD = re.compile(r"[^\W_]+")
_DEAR = re.compile(r"\b(?:expensive|pricey|overpriced)\b", re.IGNORECASE)
_CHEAP = re.compile(r"\b(?:cheap|affordable|inexpensive)\b", re.IGNORECASE)
_SIGNS = re.compile(r"[$€£¥₩₹]+")
_VOTES = {"cheap price": -1.0, "fair price": 0.3, "overpriced": 1.0}
_SHRINK = 5.0


def normalise_label(label: str) -> str:
    """A label in lower case, its punctuation dropped: `Film-Noir` and `film noir` are one."""
    return " ".join(_WORD.findall(label.lower()))


def price_level_score(tags: Iterable[str]) -> float:
    """How dear an item's notes call it: cheap -1, fair .3, overpriced 1, `none` ignored; 0 without votes.

    The mean over the votes, shrunk by five neutral ones, so that one voice is not a verdict. Fair counts a
    little: a price is called fair, or worth it, more often where it is high.
    """
    votes = [_VOTES[tag] for tag in tags if tag in _VOTES]
    return sum(votes) / (len(votes) + _SHRINK)


def rank_labels(categories: Iterable[Sequence[str]]) -> list[str]:
    """An item's labels by the number of notes that name them; on a tie the one named first."""
    return [
        label for label, _ in Counter(label for note in categories for label in note).most_common()
    ]


def price_correlation(score: Mapping[str, float], truth: Mapping[str, float]) -> float:
    """Spearman's rank correlation over the items of `truth`; an item without a score counts as 0."""
    scores = np.array([score.get(item, 0.0) for item in truth])
    found = rank_correlation(scores, np.array([*truth.values()]), fewest=2)
    return found.value if found else 0.0


def label_recall(ranked: Sequence[str], labels: Iterable[str], k: int = 5) -> float:
    """Share of an item's true labels among the first `k` ranked; all true labels count."""
    wanted, found = ({*map(normalise_label, some)} for some in (labels, ranked[:k]))
    return len(wanted & found) / len(wanted)


def category_recall(
    ranked: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]], k: int = 5
) -> float:
    """Mean of `label_recall` over the items that have labels."""
    shares = [
        label_recall(ranked.get(item, []), labels, k) for item, labels in truth.items() if labels
    ]
    return float(np.mean(shares)) if shares else 0.0


def most_frequent_labels(truth: Mapping[str, Sequence[str]], k: int = 5) -> list[str]:
    """The `k` labels that most items truly have: a comparator that knows the truth but reads nothing."""
    each = sorted(label for labels in truth.values() for label in {*map(normalise_label, labels)})
    return [label for label, _ in Counter(each).most_common(k)]


def keyword_categories(
    texts: Mapping[str, Sequence[str]], labels: Iterable[str]
) -> dict[str, list[str]]:
    """Labels whose own name occurs in an item's reviews, by the number of times: plain keyword counting."""
    names = sorted({*map(normalise_label, labels)} - {""})
    patterns = {name: re.compile(rf"\b{re.escape(name)}\b") for name in names}
    ranked = {}
    for item, reviews in texts.items():
        text = normalise_label("\n".join(reviews))
        counts = Counter({name: len(pattern.findall(text)) for name, pattern in patterns.items()})
        ranked[item] = [name for name, count in counts.most_common() if count]
    return ranked


def keyword_price(texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Occurrences of expensive, pricey, overpriced less those of cheap, affordable, inexpensive."""
    return {
        item: float(sum(len(_DEAR.findall(text)) - len(_CHEAP.findall(text)) for text in reviews))
        for item, reviews in texts.items()
    }


def read_truth(
    path: Path, item: str | None = None
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Prices and labels: the first column `price...`, and `categor...`, `cuisine...` or `genre...`.

    Args:
        path: JSON lines (plain or gzip) or CSV, one row an item.
        item: column of the item's id; by default one of those that reviews may have it in.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    columns = dict.fromkeys(column for row in _rows(path) for column in row)
    ids = (item,) if item else [name for layout in LAYOUTS.values() for name in layout["item"]]
    own = next((name for name in ids if name in columns), None)
    price = next((name for name in columns if name.lower().startswith("price")), None)
    label = next(
        (name for name in columns if name.lower().startswith(("categor", "cuisine", "genre"))), None
    )
    if own is None or not (price or label):
        needed = (
            "price or categories" if own else f"the item's id ({', '.join(dict.fromkeys(ids))})"
        )
        raise DataError(f"the item truth {path} has no column for {needed}; name one so")
    prices = read_prices(path, own, price) if price else {}
    return prices, read_categories(path, own, label) if label else {}


def read_prices(path: Path, id_column: str, price_column: str) -> dict[str, float]:
    """Items' prices: "1,300" is 1300, and "$$" is 2, as a level; items without a price are left out.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    prices = {}
    for item, value in _column(path, id_column, price_column):
        text = str(value or "").strip()
        digits = re.sub(r"[^\d.]", "", text)
        if _SIGNS.fullmatch(text):
            prices[item] = float(len(text))
        elif re.fullmatch(r"\d+(\.\d+)?", digits):
            prices[item] = float(digits)
    return prices


def read_categories(path: Path, id_column: str, label_column: str) -> dict[str, list[str]]:
    """Items' normalised labels, from a list or text parted by commas or bars.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    truth = {}
    for item, value in _column(path, id_column, label_column):
        labels = map(str, value) if isinstance(value, list) else re.split(r"[,|]", str(value or ""))
        if known := dict.fromkeys(name for label in labels if (name := normalise_label(label))):
            truth[item] = list(known)
    return truth


def _column(path: Path, id_column: str, column: str) -> list[tuple[str, Any]]:
    rows = _rows(path)
    for name in (id_column, column):
        if not any(name in row for row in rows):
            raise DataError(f"the item truth {path} has no column {name!r}; name another")
    return [
        (str(row[id_column]), row.get(column)) for row in rows if row.get(id_column) is not None
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row.content for row in read_records(path) if isinstance(row.content, dict)]
