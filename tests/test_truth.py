"""Scores against item truth, by hand."""

import gzip
import json
from pathlib import Path

import pytest

from mmrec.errors import DataError
from mmrec.experiments.item_truth import (
    category_recall,
    keyword_categories,
    keyword_price,
    most_frequent_labels,
    normalise_label,
    price_correlation,
    price_level_score,
    rank_labels,
    read_categories,
    read_prices,
)


def test_labels_are_normalised() -> None:
    assert normalise_label("Film-Noir") == normalise_label(" film  NOIR!") == "film noir"


def test_price_score_grows_with_votes_and_ignores_silence() -> None:
    dear, cheap = ["overpriced"], ["cheap price"]
    assert price_level_score([]) == price_level_score(["none"] * 5) == 0
    assert 0 < price_level_score(dear) < price_level_score(dear * 3) < 1
    assert price_level_score(dear + ["none"] * 9) == price_level_score(dear)
    assert price_level_score(cheap) == -price_level_score(dear)
    assert price_level_score(cheap) < price_level_score(["fair price"]) < price_level_score(dear)


def test_price_correlation() -> None:
    truth = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert price_correlation({"a": -1.0, "c": 0.5}, truth) == pytest.approx(1)
    assert price_correlation({"a": 1.0, "c": -0.5, "other": 9.0}, truth) == pytest.approx(-1)
    assert price_correlation({}, truth) == 0
    assert price_correlation({"a": 1.0}, {}) == 0


def test_category_recall_counts_every_true_label() -> None:
    truth = {"a": ["North Indian", "Chinese"], "b": ["Sci-Fi"], "c": ["Momos"], "d": []}
    ranked = {"a": ["chinese", "thai", "north indian"], "b": ["sci fi"]}
    assert category_recall(ranked, truth) == pytest.approx((1 + 1 + 0) / 3)
    assert category_recall(ranked, truth, k=1) == pytest.approx((0.5 + 1 + 0) / 3)
    assert category_recall({}, {}) == 0


def test_rankings_and_comparators() -> None:
    assert rank_labels([["thai"], ["pizza", "thai"], []]) == ["thai", "pizza"]
    truth = {"a": ["Thai", "Pizza"], "b": ["Thai"], "c": ["Cafe", "thai"], "d": ["Pizza"]}
    assert most_frequent_labels(truth, 2) == ["thai", "pizza"]
    texts = {"a": ["Thai pizza, thai soup", "pizzas"], "b": ["Sci-fi", "sci fi!"], "c": []}
    assert keyword_categories(texts, ["Thai", "Pizza", "Sci-Fi"]) == {
        "a": ["thai", "pizza"],
        "b": ["sci fi"],
        "c": [],
    }
    prices = keyword_price({"a": ["Expensive and pricey", "cheap"], "b": ["inexpensive"], "c": []})
    assert prices == {"a": 1.0, "b": -1.0, "c": 0.0}


def test_truth_files(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "cost": "1,300", "kinds": ["Film-Noir", "War", "war"]},
        {"id": "b", "cost": None, "kinds": "Thai, Pizza|Cafe"},
        {"id": "c", "cost": 2.0, "kinds": []},
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    plain, packed = tmp_path / "items.jsonl", tmp_path / "items.jsonl.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, packed):
        assert read_prices(path, "id", "cost") == {"a": 1300.0, "c": 2.0}
        expected = {"a": ["film noir", "war"], "b": ["thai", "pizza", "cafe"]}
        assert read_categories(path, "id", "kinds") == expected
    with pytest.raises(DataError, match="no column 'price'"):
        read_prices(plain, "id", "price")
    with pytest.raises(DataError, match="no such file"):
        read_prices(tmp_path / "absent", "id", "cost")
    plain.write_text("{")
    with pytest.raises(DataError, match="no column 'id'"):
        read_categories(plain, "id", "kinds")
