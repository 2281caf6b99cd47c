"""Captions that come with the data: read and checked at the door, and used in place of a captioner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmrec.config import ReadConfig
from mmrec.data import Reviews, read_reviews
from mmrec.errors import DataError


def rows(*captions: Any, **more: Any) -> list[dict[str, Any]]:
    return [
        {"user": f"u{at}", "item": "i", "rating": 4, "text": f"t{at}", "shown": cell, **more}
        for at, cell in enumerate(captions)
    ]


def read(folder: Path, reviews: list[dict[str, Any]], **config: Any) -> Reviews:
    path = folder / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reviews))
    return read_reviews(path, ReadConfig(captions_column="shown", **config))


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("a red car", ["a red car"]),
        ("  a red\r\n\tcar \x00\x1b", ["a red car"]),
        (["a car", "", None, " \n", "a dog"], ["a car", "a dog"]),
        ('["a car", "a dog", " "]', ["a car", "a dog"]),
        ("[untitled", ["[untitled"]),
        ("[1, 2", ["[1, 2"]),
        ("[" * 100_000, ["[" * 20]),
        ("", []),
        (None, []),
        ([], []),
        (float("nan"), []),
        (7, ["7"]),
        ("x" * 50, ["x" * 20]),
    ],
)
def test_a_cell_is_a_text_or_a_list_of_texts(tmp_path: Path, cell: Any, captions: list[str]) -> None:
    reviews = read(tmp_path, rows(cell), max_text=20)
    assert reviews.table["captions"].to_list() == [captions]
    assert not reviews.rejects.height


def test_a_row_whose_captions_are_something_else_is_refused(tmp_path: Path) -> None:
    reviews = read(tmp_path, rows("fine", {"url": "x"}, [["nested"]], True), max_reject_share=0.9)
    assert reviews.table["captions"].to_list() == [["fine"]]
    assert reviews.rejects["reason"].to_list() == [
        f"captions hold something else: text is not text: {what}" for what in ("dict", "list", "True")
    ]


def test_items_may_bring_them_instead(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text('item,name,shown\ni,Uno,"[""a door"", ""a lamp""]"\nj,Due,\n')
    plain = [{key: value for key, value in row.items() if key != "shown"} for row in rows("x", "y")]
    reviews = read(tmp_path, plain, items=items)
    assert reviews.table["captions"].to_list() == [[], []]
    assert reviews.items["captions"].to_list() == [["a door", "a lamp"], []]


def test_parquet_lists_and_files_without_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "reviews.parquet"
    pl.DataFrame(rows(["a car"], ["a dog", "a cat"])).write_parquet(path)
    reviews = read_reviews(path, ReadConfig(captions_column="shown"))
    assert reviews.table["captions"].to_list() == [["a car"], ["a dog", "a cat"]]
    assert read_reviews(path).table["captions"].to_list() == [[], []]


def test_a_column_that_no_file_has_is_named(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item,name\ni,Uno\n")
    (tmp_path / "reviews.jsonl").write_text(json.dumps({"user": "u", "item": "i", "rating": 4}))
    with pytest.raises(DataError, match=r"--captions-column alt: no such column.*user, item.*item, name"):
        read_reviews(tmp_path / "reviews.jsonl", ReadConfig(captions_column="alt", items=items))
