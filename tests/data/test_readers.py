"""Reading of every kind of file and layout, of bad rows and of bad files."""

import gzip
import json
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrec.config import ReadConfig
from mmrec.console import escape_text
from mmrec.data.readers import read_reviews
from mmrec.data.schema import ITEM_SCHEMA, REVIEW_SCHEMA
from mmrec.errors import DataError

DATA = Path(__file__).resolve().parents[3] / "shared/data"
ANY = ReadConfig(max_reject_share=1)
GOOD = {"user": "u", "item": "i", "rating": 4, "text": "fine", "time": "2020-01-02"}

ROWS = [
    {"user": "u1", "item": "i1", "rating": 5, "text": 'so "good",\nreally', "time": "2019-05-25T15:34:00"},
    {"user": "u2", "item": "i1", "rating": 1.5, "text": "", "time": None},
    {"user": "u1", "item": "i2", "rating": 4, "text": "été ☕ 😀", "time": "2020-01-01T00:00:00"},
]


def write(path, *lines):
    def spelt(line):
        line = json.dumps(line) if isinstance(line, dict) else line
        return line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass")

    data = b"\n".join(spelt(line) for line in lines) + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def written(folder, suffix):
    path, table = folder / f"reviews{suffix}", pl.DataFrame(ROWS, strict=False)
    if suffix == ".parquet":
        table.write_parquet(path)
        return path
    whole = {".csv": table.write_csv().rstrip("\n"), ".array.json": json.dumps(ROWS, indent=2)}
    rows = whole.get(suffix.removesuffix(".gz"))
    return write(path, rows) if rows else write(path, *ROWS)


def reasons(reviews):
    return list(reviews.rejects.select("line", "reason").iter_rows())


SUFFIXES = [".jsonl", ".ndjson", ".JSONL", ".json", ".array.json", ".csv", ".parquet"]
SUFFIXES += [".jsonl.gz", ".json.gz", ".csv.gz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_container_gives_the_same_reviews(tmp_path, suffix):
    path = written(tmp_path, suffix)
    reviews = read_reviews(path)
    if not suffix.endswith((".gz", ".parquet")):  # a byte order mark is no part of the data
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read_reviews(path).table.equals(reviews.table)
    assert reviews.table.equals(read_reviews(written(tmp_path, ".jsonl")).table)
    assert dict(reviews.table.schema) == REVIEW_SCHEMA
    assert dict(reviews.items.schema) == ITEM_SCHEMA
    times = (datetime(2019, 5, 25, 15, 34), None, datetime(2020, 1, 1))
    expected = [(row["rating"], row["text"], time) for row, time in zip(ROWS, times, strict=True)]
    assert reviews.table.select("rating", "text", "time").rows() == expected
    assert reviews.rejects.height == 0
    assert reviews.table["review_id"].str.contains("^[0-9a-f]{16}$").all()


def test_the_kaggle_object_is_read_in_the_order_train_val_test(tmp_path):
    def row(user):
        ids = {"business_id": "b", "user_id": user, "rating": 4, "review_text": "ok"}
        return ids | {"pics": [{"id": "p", "url": ["https://x.org/p"]}], "history_reviews": [["x", "older"]]}

    document = {"test": [row("u4")], "train": [row("u1"), row("u2")], "val": [row("u3")]}
    path = save_photo(tmp_path / "p") / "kaggle.json"
    for indent in (None, 2):
        path.write_text(json.dumps(document, indent=indent))
        table = read_reviews(path).table
        assert table["user"].to_list() == ["u1", "u2", "u3", "u4"]
        assert table["photos"].list.len().to_list() == [1, 1, 1, 1]
    path.write_text(json.dumps(document["train"]))
    assert read_reviews(path, ReadConfig(format="kaggle")).table["user"].to_list() == ["u1", "u2"]


AMAZON = {"reviewerID": "u", "asin": "i", "overall": 4.0, "reviewText": "t", "unixReviewTime": 1404345600}
YELP = {"user_id": "u", "business_id": "i", "stars": 4.0, "text": "t", "date": "2014-07-03 00:00:00"}
AMAZON_2023 = {"user_id": "u", "asin": "variant", "parent_asin": "i", "rating": 4.0, "text": "t"}
AMAZON_2023 |= {"timestamp": 1404345600000, "images": [{"large_image_url": "https://x.org/l.jpg"}]}
AMAZON_2018 = AMAZON | {"image": ["https://x.org/1.jpg"]}
PLAIN = {"userId": "u", "itemId": "i", "score": 4, "review": "t", "date": "2014-07-03"}
CITY = {"user_id": "u", "business_id": "i", "rating": 4, "review_text": "t", "timestamp": "2014-07-03"}


@pytest.mark.parametrize("row", [YELP, AMAZON, AMAZON_2018, AMAZON_2023, PLAIN, CITY])
def test_layouts_are_recognised_by_their_columns(tmp_path, row):
    reviews = read_reviews(write(tmp_path / "rows.json", row))
    assert reviews.table.drop("review_id").row(0) == ("u", "i", 4.0, "t", datetime(2014, 7, 3), [], [])
    assert reviews.rejects.height == 0


def test_bad_rows_are_refused_with_their_lines_and_cost_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("mmrec.data.files._MAX_LINE", 150_000)
    cases = [
        ("{broken", "broken JSON: Expecting property name enclosed in double quotes at position 1"),
        ("[1, 2]", "not an object: list"),
        ("\x1b[31m\u202e" + "x" * 500, "broken JSON: Expecting value at position 0"),
        ('{"rating": 1' + "0" * 5000 + "}", "broken JSON: a number has too many digits"),
        ('{"a": ' + "[" * 100_000, "broken JSON: nested too deeply"),
        (b'{"user": "\xff"}', "not UTF-8: byte 0xff at position 10"),
        (GOOD | {"text": "x" * 200_000}, "line is longer than 150000 bytes"),
        ({"user": "u", "item": "i"}, "rating is missing"),
        (GOOD | {"rating": float("nan")}, "rating is missing"),
        (GOOD | {"rating": "x"}, "rating should be a valid number, unable to parse string as a number: x"),
        (GOOD | {"time": "2023-02-30"}, "time should be a possible date: 2023-02-30"),
        (GOOD, "exact duplicate of an earlier row: line 1"),
    ]
    path = write(tmp_path / "r.jsonl", GOOD, "", *[line for line, _ in cases], GOOD | {"user": "v"})
    reviews = read_reviews(path, ANY)
    assert reviews.table["user"].to_list() == ["u", "v"]
    for number, (line, reason) in enumerate(cases):
        *place, shown = reviews.rejects.row(number)
        assert place == [str(path), 3 + number, reason]
        assert not isinstance(line, str) or shown == escape_text(line, 200)
    assert reviews.rejects.height == len(cases)


def test_odd_but_usable_values_are_read(tmp_path):
    odd = b'{"user": 7, "item": 8.0, "rating": "4", "text": null}'
    escapes = b'{"user": "u", "item": "i", "rating": 4, "text": "a\\u0000b\\ud800c\\ud83d\\ude00 0123456789"}'
    reviews = read_reviews(write(tmp_path / "r.jsonl", odd, escapes), ReadConfig(max_text=8))
    assert reviews.table.select("user", "item", "text").rows() == [("7", "8", ""), ("u", "i", "abc😀 012")]


def test_lines_of_a_csv_are_where_records_start(tmp_path):
    lines = ["user,item,rating,text", 'u1,i,5,"two\nlines, and ""quotes"""', "u2,i,9,bad rating", ""]
    lines += ["u3,i,5", 'u4,i,5,"closed" badly', b"u5,i,5,caf\xe9", "u6,i,5,fine", 'u7,i,5,"never closed']
    lines += ['u8,i,5," a comma, in quotes"', "u9,i,5,fine"]
    reviews = read_reviews(write(tmp_path / "r.csv", *lines), ANY)
    assert reviews.table["user"].to_list() == ["u1", "u6", "u8", "u9"]
    assert reviews.table["text"][0] == 'two\nlines, and "quotes"'
    assert reasons(reviews) == [
        (4, "rating should be less than or equal to 5: 9"),
        (6, "wrong number of cells: 3, and the header has 4"),
        (7, "broken CSV: ',' expected after '\"'"),
        (8, "not UTF-8: byte 0xe9 at position 10"),
        (10, "broken CSV: ',' expected after '\"'"),
    ]


def test_a_quote_that_is_never_closed_and_long_texts_in_a_csv_with_semicolons(tmp_path):
    rows = [f"u{n};i;5;fine" for n in range(1100)] + ["u;i;4;" + "x" * 200_000]
    reviews = read_reviews(write(tmp_path / "r.csv", "user;item;rating;text", 'x;i;5;"open', *rows))
    assert reviews.table["text"].str.len_chars().to_list() == [4] * 1100 + [100_000]
    assert reasons(reviews) == [(2, "broken CSV: unexpected end of data")]


def test_bad_rows_of_a_json_array_have_row_numbers(tmp_path):
    rows = [b"3", b'{"rating": 1%s}' % (b"0" * 5000), b'{"user": "\xff", "item": "i", "rating": 4}']
    rows.append(json.dumps(GOOD).encode())  # odd first rows do not decide the layout
    reviews = read_reviews(write(tmp_path / "r.json", b"[" + b",\n".join(rows) + b"]"), ANY)
    problems = ["not an object: int", "user is missing", "not UTF-8: bytes that are no text"]
    assert (len(reviews), reasons(reviews)) == (1, [*enumerate(problems, start=1)])


def test_too_many_bad_rows_stop_with_counts_examples_and_the_mend(tmp_path):
    bad = [GOOD | {"rating": 6 + n} for n in range(3)] + [GOOD | {"user": ""}]
    path = write(tmp_path / "r.jsonl", GOOD, *bad)
    with pytest.raises(DataError) as error:
        read_reviews(path)
    refused, *examples, mend = str(error.value).splitlines()
    assert refused == f"{path}: 4 of 5 rows were refused:"
    rating = "  3 rows: rating should be less than or equal to 5: 6 (line 2)"
    assert examples == [rating, "  1 rows: user is missing (line 5)"]
    assert mend == "Mend the file, name its columns with --map, or allow more with --max-reject-share"
    assert len(read_reviews(path, ReadConfig(max_reject_share=0.8))) == 1


def test_ids_of_the_file_are_kept_while_unique(tmp_path):
    derived = read_reviews(write(tmp_path / "d.jsonl", GOOD)).table["review_id"].item()
    given = {"v": "a", "w": derived, "u": "a", "x": 7, "y": ""}
    rows = [GOOD | {"user": user, "review_id": review_id} for user, review_id in given.items()]
    rows += [GOOD | {"user": "ab", "item": "c"}, GOOD | {"user": "a", "item": "bc"}]
    ids = read_reviews(write(tmp_path / "r.jsonl", *rows)).table["review_id"].to_list()
    assert [*ids[:2], ids[3]] == ["a", derived, "7"]
    assert len(set(ids)) == len(rows)  # fields do not run together


def save_photo(path):
    """Into a new folder if there is none."""
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (20, 10), "blue").save(path, "JPEG")
    return path.parent


def test_refused_photos_cost_the_photo_and_not_the_review(tmp_path):
    photos = save_photo(tmp_path / "photos/a.jpg")
    (photos / "b.jpg").write_text("no photo")
    names = ["a.jpg", "b.jpg", "../r.jsonl", "gone\x1b.jpg", "https://x.org/c.jpg", "./a.jpg"]
    path = write(tmp_path / "r.jsonl", GOOD | {"photos": names})
    reviews = read_reviews(path, ReadConfig(photos=photos, max_reject_share=0))
    assert reviews.table["photos"].to_list() == [[str((photos / "a.jpg").resolve())]]
    assert reasons(reviews) == [
        (1, "photo b.jpg: not a JPEG, PNG, WebP or GIF"),
        (1, "photo ../r.jsonl: outside the folder"),
        (1, r"photo gone\x1b.jpg: no such file"),
    ]
    small = read_reviews(path, ReadConfig(photos=photos, max_pixels=199))
    assert small.table["photos"].to_list() == [[]]
    with pytest.raises(DataError, match="no such folder of photos"):
        read_reviews(path, ReadConfig(photos=tmp_path / "absent"))


def test_items_come_with_name_and_photos_and_nothing_else(tmp_path):
    folder = save_photo(tmp_path / "catalogue/a.jpg")
    lines = ("business_id,title,photos,price", "i1, Café  Uno ,a.jpg|gone.jpg,3", "i2,,,2", "i1,again,,1")
    items, path = write(folder / "items.csv", *lines), write(tmp_path / "r.jsonl", GOOD)
    reviews = read_reviews(path, ReadConfig(items=items, max_reject_share=0.5))
    photo = str((folder / "a.jpg").resolve())
    assert reviews.items.rows() == [("i1", "Café Uno", [photo], []), ("i2", None, [], [])]
    assert dict(reviews.items.schema) == ITEM_SCHEMA
    assert reasons(reviews) == [(2, "photo gone.jpg: no such file"), (4, "item was described before: line 2")]
    assert set(reviews.rejects["file"]) == {str(items)}
    with pytest.raises(DataError, match=r"items\.csv: 1 of 3 rows were refused"):
        read_reviews(path, ReadConfig(items=items))


def test_a_map_overrides_single_columns_and_items_without_an_id_column_are_an_error(tmp_path):
    items = write(tmp_path / "items.jsonl", {"place": "i", "name": "n"})
    path = write(tmp_path / "r.jsonl", {"user": "u", "place": "i", "rating": 3, "grade": 5})
    with pytest.raises(DataError, match=r"no column for item among: place, name.*--map item=COLUMN"):
        read_reviews(write(tmp_path / "s.jsonl", GOOD), ReadConfig(items=items))
    mapped = read_reviews(path, ReadConfig(items=items, map={"item": "place", "rating": "grade"}))
    assert mapped.table.row(0)[1:4] == ("u", "i", 5.0)
    assert mapped.items["name"].to_list() == ["n"]


def test_unusable_files_are_errors_that_name_the_file(tmp_path):
    cases = {
        "absent.csv": (None, "no such file"),
        ".": (None, "not a file"),
        "empty.jsonl": (b"", "holds no rows"),
        "blank.json": (b"\n \n", "holds no rows"),
        "empty.json": (b"[]", "holds no rows"),
        "head.csv": (b"user,item,rating\n", "holds no rows"),
        "empty.parquet": (b"", "not a readable Parquet"),
        "not.jsonl.gz": (b"plain", "cut off or damaged"),
        "not.json.gz": (b"plain", "cut off or damaged"),
        "half.json": (b'[{"user": "u"}, ', "line 1: broken JSON"),
        "deep.json": (b"[" * 100_000, "nested too deeply"),
        "reviews.xlsx": (b"PK", "must end in .jsonl"),
        "reviews.parquet.gz": (b"PAR1", "must end in .jsonl"),
        "half.jsonl.gz": (gzip.compress(b"{}" * 99)[:-9], "cut off or damaged"),
        "one.jsonl": (b"{broken}", "1 of 1 rows were refused"),
        "twice.csv": (b"user,item,rating,rating\nu,i,4,5\n", "line 1: the header names a column twice"),
        "latin.csv": (b"us\xe9r,item\nu,i\n", "line 1: the header cannot be read .not UTF-8"),
        "three.json": (b'{"train": [], "val": 3}', "must be a list"),
    }
    for name, (data, part) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=part) as error:
            read_reviews(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))


SHOWN = ReadConfig(captions_column="shown", max_text=20, max_reject_share=0.9)


def test_captions_of_a_cell_are_a_text_or_a_list(tmp_path):
    cases = [
        *[(nothing, []) for nothing in ("", None, [], float("nan"))],
        ("a red car", ["a red car"]),
        ("  a red\r\n\tcar \x00\x1b", ["a red car"]),
        (["a car", "", None, " \n", "a dog"], ["a car", "a dog"]),
        ('["a car", "a dog", " "]', ["a car", "a dog"]),
        ("[untitled", ["[untitled"]),
        ("[1, 2", ["[1, 2"]),
        ("[" * 100_000, ["[" * 20]),
        (7, ["7"]),
        ("x" * 50, ["x" * 20]),
    ]
    cells = [*[cell for cell, _ in cases], {"url": "x"}, [["nested"]], True]
    rows = [GOOD | {"user": f"u{number}", "shown": cell} for number, cell in enumerate(cells)]
    reviews = read_reviews(write(tmp_path / "r.jsonl", *rows), SHOWN)
    assert reviews.table["captions"].to_list() == [captions for _, captions in cases]
    refused = [f"captions should be a valid string: {shown}" for shown in ("dict", "list", "True")]
    assert reasons(reviews) == [*enumerate(refused, start=len(cases) + 1)]


def test_captions_of_either_file_are_read_only_with_the_setting(tmp_path):
    items = write(tmp_path / "i.csv", 'item,name,shown\ni,Uno,"[""a door"", ""a lamp""]"\nj,Due,')
    rows = [GOOD | {"shown": ["a car"]}, GOOD | {"user": "v", "shown": ["a dog", "a cat"]}]
    pl.DataFrame(rows).write_parquet(path := tmp_path / "r.parquet")
    reviews = read_reviews(path, SHOWN.model_copy(update={"items": items}))
    assert reviews.table["captions"].to_list() == [["a car"], ["a dog", "a cat"]]
    assert reviews.items["captions"].to_list() == [["a door", "a lamp"], []]
    plain = read_reviews(path, ReadConfig(items=items))
    assert plain.table["captions"].to_list() == plain.items["captions"].to_list() == [[], []]
    with pytest.raises(DataError, match=r"--captions-column alt: no such column.*item, rating.*item, name"):
        read_reviews(path, ReadConfig(captions_column="alt", items=items))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz"]),
    start=st.sampled_from([b"", b"[", b'{"train": [', b"user,item,rating,photos\n", b'{"user": 1,', b"PAR1"]),
    data=st.binary(max_size=100) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")),
    zipped=st.booleans(),
)
def test_no_bytes_raise_anything_but_a_data_error(tmp_path, suffix, start, data, zipped):
    path = tmp_path / f"hostile{suffix}"
    path.write_bytes(gzip.compress(start + data) if zipped else start + data)
    try:
        as_expected = len(read_reviews(path, ANY)) > 0
    except DataError as error:
        as_expected = str(error).startswith(str(path))
    assert as_expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(REVIEW_SCHEMA, json_values)), max_size=5))
def test_every_row_is_a_review_or_a_reject(tmp_path, rows):
    path = write(tmp_path / "r.jsonl", GOOD, *rows)
    reviews = read_reviews(path, ANY)
    refused = reviews.rejects.filter(~pl.col("reason").str.starts_with("photo "))
    assert len(reviews) + refused.height == 1 + len(rows)
    assert reviews.table.null_count().drop("time").sum_horizontal().item() == 0
    assert reviews.table["review_id"].n_unique() == len(reviews)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real review data is not beside this checkout")
@pytest.mark.parametrize(
    ("name", "items", "counts"),
    [
        ("zomato", "places", (9_948, 0, 7_913, 100, 0)),
        ("rt-critics", "films", (12_283, 0, 485, 1_635, 1_635)),
    ],
)
def test_real_data_is_read_completely(name, items, counts):
    config = ReadConfig(items=DATA / name / f"{items}.jsonl.gz")
    reviews = read_reviews(DATA / name / "reviews.jsonl.gz", config)
    table, items, photos = reviews.table, reviews.items.height, reviews.items["photos"].list.len().sum()
    assert (table.height, reviews.rejects.height, table["user"].n_unique(), items, photos) == counts
    assert table["item"].n_unique() == items
