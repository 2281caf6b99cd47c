"""Annotations compared with the truth of items, by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mmrec.errors import DataError
from mmrec.experiments.item_truth import (
    label_recall,
    most_frequent_labels,
    normalise_label,
    price_level_score,
    rank_labels,
    read_categories,
    read_prices,
)


def test_labels_are_normalised() -> None:
    assert normalise_label("Film-Noir") == normalise_label(" film  NOIR!") == "film noir"


def test_the_price_level_grows_with_the_number_of_tags_and_ignores_missing_ones() -> None:
    expensive, cheap = ["overpriced"], ["cheap price"]
    assert price_level_score([]) == price_level_score(["none"] * 5) == 0
    assert 0 < price_level_score(expensive) < price_level_score(expensive * 3) < 1
    assert price_level_score(expensive + ["none"] * 9) == price_level_score(expensive)
    assert price_level_score(cheap) == -price_level_score(expensive)
    assert price_level_score(cheap) < price_level_score(["fair price"]) < price_level_score(expensive)


def test_label_recall_counts_every_true_label() -> None:
    truth, ranked = ["North Indian", "Chinese"], ["chinese", "thai", "north indian"]
    assert label_recall(ranked, truth) == 1
    assert label_recall(ranked, truth, k=1) == 0.5
    assert label_recall([], truth) == 0
    assert label_recall(["sci fi"], ["Sci-Fi"]) == 1


def test_labels_are_ranked_by_the_number_of_notes_or_items() -> None:
    assert rank_labels([["thai"], ["pizza", "thai"], []]) == ["thai", "pizza"]
    truth = {"a": ["Thai", "Pizza"], "b": ["Thai"], "c": ["Cafe", "thai"], "d": ["Pizza"]}
    assert most_frequent_labels(truth, 2) == ["thai", "pizza"]


def test_files_of_truth(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "cost": "1,300", "kinds": ["Film-Noir", "War", "war"]},
        {"id": "b", "cost": None, "kinds": "Thai, Pizza|Cafe"},
        {"id": "c", "cost": 2.0, "kinds": []},
        {"id": "d", "cost": "$$", "kinds": None},
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    plain, compressed = tmp_path / "items.jsonl", tmp_path / "items.jsonl.gz"
    plain.write_text(text)
    compressed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, compressed):
        assert read_prices(path, "id", "cost") == {"a": 1300.0, "c": 2.0, "d": 2.0}
        expected = {"a": ["film noir", "war"], "b": ["thai", "pizza", "cafe"]}
        assert read_categories(path, "id", "kinds") == expected
    with pytest.raises(DataError, match="no column 'price'"):
        read_prices(plain, "id", "price")
    with pytest.raises(DataError, match="no such file"):
        read_prices(tmp_path / "absent", "id", "cost")
    plain.write_text("{")
    with pytest.raises(DataError, match="no column 'id'"):
        read_categories(plain, "id", "kinds")
