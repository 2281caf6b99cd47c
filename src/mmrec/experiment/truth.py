"""Scores what was extracted from reviews against what is known of items, next to plain comparators.

Truth (a price level, cuisines, genres) is never an input of a model; it only judges.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mmrec.errors import DataError

__all__ = [
    "category_recall",
    "keyword_categories",
    "keyword_price",
    "most_frequent",
    "normalise_label",
    "price_correlation",
    "price_score",
    "rank_categories",
    "read_categories",
    "read_prices",
]

_WORD = re.compile(r"[^\W_]+")
_DEAR = re.compile(r"\b(?:expensive|pricey|overpriced)\b", re.IGNORECASE)
_CHEAP = re.compile(r"\b(?:cheap|affordable|inexpensive)\b", re.IGNORECASE)
_VOTES = {"cheap price": -1.0, "fair price": 0.3, "overpriced": 1.0}
_SHRINK = 5.0


def normalise_label(label: str) -> str:
    """A label in lower case, its punctuation dropped: `Film-Noir` and `film noir` are one."""
    return " ".join(_WORD.findall(label.lower()))


def price_score(tags: Iterable[str]) -> float:
    """How dear an item's notes call it: cheap -1, fair .3, overpriced 1, `none` ignored; 0 without votes.

    The mean over the votes, shrunk by five neutral ones, so that one voice is not a verdict. Fair counts a
    little: a price is called fair, or worth it, more often where it is high.
    """
    votes = [_VOTES[tag] for tag in tags if tag in _VOTES]
    return sum(votes) / (len(votes) + _SHRINK)


def rank_categories(categories: Iterable[Sequence[str]]) -> list[str]:
    """An item's labels by the number of notes that name them; on a tie the one named first."""
    return [label for label, _ in Counter(label for note in categories for label in note).most_common()]


def price_correlation(score: Mapping[str, float], truth: Mapping[str, float]) -> float:
    """Spearman's rank correlation over the items of `truth`; an item without a score counts as 0."""
    items = sorted(truth)
    ours = [score.get(item, 0.0) for item in items]
    if len(set(ours)) < 2 or len({truth[item] for item in items}) < 2:
        return 0.0
    return float(spearmanr(ours, [truth[item] for item in items]).statistic)


def category_recall(
    ranked: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]], k: int = 5
) -> float:
    """Mean over items of the share of true labels among the first `k` ranked; all true labels count."""
    shares = []
    for item, labels in truth.items():
        wanted = {normalise_label(label) for label in labels}
        if wanted:
            found = {normalise_label(label) for label in list(ranked.get(item, []))[:k]}
            shares.append(len(wanted & found) / len(wanted))
    return float(np.mean(shares)) if shares else 0.0


def most_frequent(truth: Mapping[str, Sequence[str]], k: int = 5) -> list[str]:
    """The `k` labels that most items truly have: a comparator that knows the truth but reads nothing."""
    counts = Counter(label for labels in truth.values() for label in {normalise_label(one) for one in labels})
    return sorted(counts, key=lambda label: (-counts[label], label))[:k]


def keyword_categories(texts: Mapping[str, Sequence[str]], labels: Iterable[str]) -> dict[str, list[str]]:
    """Labels whose own name occurs in an item's reviews, by the number of times: plain keyword counting."""
    names = sorted({normalise_label(label) for label in labels} - {""})
    patterns = {name: re.compile(rf"\b{re.escape(name)}\b") for name in names}
    ranked = {}
    for item, reviews in texts.items():
        text = normalise_label("\n".join(reviews))
        counts = {name: len(pattern.findall(text)) for name, pattern in patterns.items()}
        ranked[item] = sorted(
            (name for name in names if counts[name]), key=lambda name: (-counts[name], name)
        )
    return ranked


def keyword_price(texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Occurrences of expensive, pricey, overpriced less those of cheap, affordable, inexpensive."""
    return {
        item: float(sum(len(_DEAR.findall(text)) - len(_CHEAP.findall(text)) for text in reviews))
        for item, reviews in texts.items()
    }


def read_prices(path: Path, id_column: str, price_column: str) -> dict[str, float]:
    """Items' prices from JSON lines (plain or gzip); "1,300" is 1300, and items without a price are left out.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    prices = {}
    for row in _rows(path, id_column, price_column):
        digits = re.sub(r"[^\d.]", "", str(row.get(price_column) or ""))
        if re.fullmatch(r"\d+(\.\d+)?", digits):
            prices[str(row[id_column])] = float(digits)
    return prices


def read_categories(path: Path, id_column: str, label_column: str) -> dict[str, list[str]]:
    """Items' normalised labels from JSON lines (plain or gzip), a list or text parted by commas or bars.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    truth = {}
    for row in _rows(path, id_column, label_column):
        value = row.get(label_column) or []
        labels = re.split(r"[,|]", value) if isinstance(value, str) else [str(one) for one in value]
        known = [name for label in labels if (name := normalise_label(label))]
        if known:
            truth[str(row[id_column])] = list(dict.fromkeys(known))
    return truth


def _rows(path: Path, id_column: str, column: str) -> list[dict[str, Any]]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as file
        ):
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"cannot read the item truth {path}: {error}; it must hold one JSON object a line"
        ) from error
    for name in (id_column, column):
        if not any(isinstance(row, dict) and name in row for row in rows):
            raise DataError(f"the item truth {path} has no column {name!r}; name another")
    return [row for row in rows if row.get(id_column) is not None]
