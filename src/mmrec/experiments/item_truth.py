"""Known prices and categories of items, and how well annotations agree with them.

The truth (a price level, cuisines, genres) is never an input of a model; it is for evaluation alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mmrec.data.files import read_records
from mmrec.data.readers import LAYOUTS
from mmrec.errors import DataError

__all__ = ["label_recall", "most_frequent_labels", "normalise_label", "price_level_score"]
__all__ += ["rank_labels", "read_categories", "read_prices", "read_truth"]


def normalise_label(label: str) -> str:
    """A label in lower case without punctuation: `Film-Noir` and `film noir` are the same."""
    return " ".join(re.findall(r"[^\W_]+", label.lower()))


def price_level_score(tags: Iterable[str]) -> float:
    """How expensive an item's notes call it: cheap -1, fair .3, overpriced 1; 0 without such a tag.

    The mean over tags, shrunk by five neutral ones, so that a single note decides little. Fair counts a
    little: a price is called fair, or worth it, more often where it is high.
    """
    levels = {"cheap price": -1.0, "fair price": 0.3, "overpriced": 1.0}
    scores = [levels[tag] for tag in tags if tag in levels]
    return sum(scores) / (len(scores) + 5)  # the mean with five zeros


def rank_labels(labels: Iterable[Sequence[str]]) -> list[str]:
    """An item's labels by the number of notes that have them; on a tie the first one named."""
    counts = Counter(label for note_labels in labels for label in note_labels)
    return [label for label, _ in counts.most_common()]


def label_recall(ranked: Sequence[str], true_labels: Iterable[str], k: int = 5) -> float:
    """Share of an item's true labels among the first `k` ranked."""
    expected = set(map(normalise_label, true_labels))
    return len(expected & set(map(normalise_label, ranked[:k]))) / len(expected)


def most_frequent_labels(truth: Mapping[str, Sequence[str]], k: int = 5) -> list[str]:
    """The `k` labels that most items have: a comparator that knows the truth but reads nothing."""
    counts: Counter[str] = Counter()
    for labels in truth.values():
        counts.update(set(map(normalise_label, labels)))
    # On a tie the first in the alphabet.
    return sorted(counts, key=lambda label: (-counts[label], label))[:k]


def read_truth(
    path: Path, item: str | None = None
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Prices and labels: the first column `price...`, and `categor...`, `cuisine...` or `genre...`.

    Args:
        path: JSON lines (plain or gzip) or CSV, one row an item.
        item: column of the item's id; by default one of the usual ones.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    columns, ids = dict.fromkeys(chain(*_rows(path))), [item] if item else []
    if not item:
        names = chain(*(layout["item"] for layout in LAYOUTS.values()))
        ids = list(dict.fromkeys(names))
    id_column = next((name for name in ids if name in columns), None)
    price = _first_with_prefix(columns, "price")
    label = _first_with_prefix(columns, "categor", "cuisine", "genre")
    if id_column is None or not (price or label):
        missing = "price or categories" if id_column else f"the item's id ({', '.join(ids)})"
        raise DataError(f"the item truth {path} has no column for {missing}; name one so")
    prices = read_prices(path, id_column, price) if price else {}
    return prices, read_categories(path, id_column, label) if label else {}


def _first_with_prefix(columns: Iterable[str], *prefixes: str) -> str | None:
    return next((name for name in columns if name.lower().startswith(prefixes)), None)


def read_prices(path: Path, id_column: str, price_column: str) -> dict[str, float]:
    """Items' prices, where they have one: "1,300" is 1300, and "$$" is 2, as a level."""
    prices = {}
    for item, value in _column(path, id_column, price_column):
        text = str(value or "").strip()
        # "1,300 INR" -> "1300"
        digits = re.sub(r"[^\d.]", "", text)
        if re.fullmatch(r"[$€£¥₩₹]+", text):
            prices[item] = float(len(text))
        elif re.fullmatch(r"\d+(\.\d+)?", digits):
            prices[item] = float(digits)
    return prices


def read_categories(path: Path, id_column: str, label_column: str) -> dict[str, list[str]]:
    """Items' normalised labels, from a list or text separated by commas or bars."""
    categories = {}
    for item, value in _column(path, id_column, label_column):
        labels = value if isinstance(value, list) else re.split(r"[,|]", str(value or ""))
        names = [normalise_label(str(label)) for label in labels]
        if distinct := list(dict.fromkeys(name for name in names if name)):
            categories[item] = distinct
    return categories


def _column(path: Path, id_column: str, column: str) -> Iterator[tuple[str, Any]]:
    rows = _rows(path)
    for name in (id_column, column):
        if not any(name in row for row in rows):
            raise DataError(f"the item truth {path} has no column {name!r}; name another")
    for row in rows:
        if row.get(id_column) is not None:
            yield str(row[id_column]), row.get(column)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row.content for row in read_records(path) if isinstance(row.content, dict)]
