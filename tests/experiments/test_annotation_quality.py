"""The quality of what a language model wrote, on annotations whose quality is known."""

import gzip
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mmrec.cache.store import Store
from mmrec.cli.annotate import print_quality
from mmrec.cli.options import stdout
from mmrec.config import AnnotationConfig, Config
from mmrec.data.schema import REVIEW_SCHEMA, Reviews
from mmrec.errors import DataError
from mmrec.evidence.policies import EvidenceViews
from mmrec.experiments import annotation_quality as quality_of
from mmrec.experiments.annotate import AnnotatedText, AnnotationRun, annotated_texts
from mmrec.experiments.annotation_measures import Estimate, match_rates, mean_estimate
from mmrec.experiments.annotation_quality import measure_annotation_quality
from mmrec.features.dataset import Dataset
from mmrec.llm.types import Note, Summary
from mmrec.pipeline import open_models

PLACES = {
    "bakery": ("The sourdough bread is wonderful.", "The croissants were stale and hard."),
    "curry": ("Delicious lamb vindaloo with fresh naan.", "The samosas dripped with disgusting grease."),
    "gelato": ("Their pistachio gelato is amazing.", "The waffle cones were soggy and horrible."),
    "noodles": ("I love the rich ramen broth.", "The dumplings were cold and rubbery, awful."),
    "pizza": ("Excellent wood fired pizza crust.", "The mozzarella tasted terrible and cheap."),
    "pub": ("Great craft beer and a lovely fireplace.", "The toilets of the pub are filthy, gross."),
    "steak": ("The ribeye was perfectly grilled, superb.", "The mashed potatoes were bland and awful."),
    "sushi": ("Fantastic fresh salmon nigiri.", "The wasabi paste was terrible, fake stuff."),
    "tacos": ("The fish tacos are fantastic.", "The guacamole was brown and disgusting."),
    "tea": ("A lovely selection of oolong teas.", "The cucumber sandwiches were dry and awful."),
}
"""A like and a dislike of each item."""
PRAISE_COUNT = dict(zip(PLACES, [0, 1, 1, 2, 2, 3, 3, 4, 4, 4], strict=True))
"""How many of the four reviews of each item praise."""
ITEMS = list(PLACES)


@pytest.fixture(scope="module")
def models(minilm):
    return open_models(Config(), store=Store(None))


@pytest.fixture(scope="module")
def dataset(models):
    texts = {}
    for item, (like, dislike) in PLACES.items():
        texts[item] = [like] * PRAISE_COUNT[item] + [dislike] * (4 - PRAISE_COUNT[item])
    return dataset_of(models, texts)


def dataset_of(models, texts):
    """Reviews of items by users who wrote one of each; praise is rated 5, anything else 1."""
    rows, likes = [], {like for like, _ in PLACES.values()}
    for item, reviews in texts.items():
        for number, text in enumerate(reviews):
            ids = {"review_id": f"{item}-{number}", "user": f"user{number}", "item": item}
            rating = 5.0 if text in likes else 1.0
            rows.append({**ids, "rating": rating, "text": text, "photos": [], "captions": []})
    return Dataset.from_reviews(Reviews(pl.DataFrame(rows, schema=REVIEW_SCHEMA)), models, Config())


def run_of(dataset, annotations, kind="item"):
    """An annotation of all reviews of each entity, or of each review."""
    data = dataset.data
    entity = {"item": data.item, "user": data.user, "review": np.arange(len(dataset))}[kind]
    texts = annotated_texts(kind, dataset, EvidenceViews.all_reviews(entity), annotations)
    return AnnotationRun(dataset, {kind: list(texts)})


@pytest.fixture(scope="module")
def measure(dataset, models):
    """Measures a run, or annotations of the dataset."""

    def measure(annotated, truth=None, kind="item"):
        run = annotated if isinstance(annotated, AnnotationRun) else run_of(dataset, annotated, kind)
        strategy = "notes" if "review" in run.texts else "summary"
        config = Config(annotation=AnnotationConfig.model_validate({"strategy": strategy}))
        return measure_annotation_quality(run, config, models, truth)

    return measure


def values(quality, name, row):
    estimates = quality.measures[name].rows[row].items()
    return {key: getattr(value, "value", value) for key, value in estimates if value is not None}


def quote(item, likes=1, dislikes=1, **fields):
    """A summary that repeats the item's like, its dislike, or both."""
    like, dislike = PLACES[item]
    return Summary(text=" ".join([like] * likes + [dislike] * dislikes), **fields)


def faithful_summaries():
    """Of each item exactly what its reviews hold."""
    return [quote(item, count > 0, count < 4) for item, count in PRAISE_COUNT.items()]


def rotate(items):
    return [*items[1:], items[0]]


def test_quotes_and_rephrased_quotes_are_supported_and_those_of_another_place_are_not(measure):
    quality = measure(faithful_summaries())
    support = values(quality, "support", "item: text")
    assert support["matched"] == support["verbatim"] == 1
    assert support["count"] == sum((count > 0) + (count < 4) for count in PRAISE_COUNT.values())
    assert quality.measures["support"].examples == []
    assert quality.sample_counts == {"item": {"written": 10, "missing": 0, "sampled": 10, "reviews": 40}}
    rephrased = [Summary(text=f"Visitors have this to say: {like}") for like, _ in PLACES.values()]
    # The bakery has no review that praises its bread.
    for summaries, least, most in ((rephrased, 0.7, 1), (rotate(faithful_summaries()), 0, 0.25)):
        support = values(measure(summaries), "support", "item: text")
        assert support["verbatim"] == 0
        assert least <= support["matched"] <= most


def test_what_reviews_do_not_support_is_an_example_and_invented_likes_are_counted_apart(measure):
    summaries = faithful_summaries()
    summaries[4] = Summary(text="The opera singer missed every high note.")
    (example,) = measure(summaries).measures["support"].examples
    assert (example.entity, example.text) == ("item pizza", summaries[4].text)
    assert example.review_id.startswith("pizza-")
    assert example.compared_text in PLACES["pizza"]
    invented = []
    for summary, (_, dislike) in zip(faithful_summaries(), PLACES.values(), strict=True):
        invented.append(Summary(text=summary.text, likes=["parking for trucks"], dislikes=[dislike]))
    quality = measure(invented)
    assert values(quality, "support", "item: text")["matched"] == 1
    assert values(quality, "support", "item: likes")["matched"] < 0.3
    # The three places with nothing but praise have no review that supports a dislike.
    assert values(quality, "support", "item: dislikes")["verbatim"] == pytest.approx(0.7)


@pytest.mark.parametrize(("written", "dropped"), [("likes", "dislikes"), ("dislikes", "likes")])
def test_what_a_summary_drops_is_not_covered(measure, written, dropped):
    quality = measure([quote(item, written == "likes", written == "dislikes") for item in ITEMS])
    covered = values(quality, "coverage", f"item: {written}")
    assert covered["matched"] > 0.9
    assert covered["count"] > 10
    assert values(quality, "coverage", f"item: {dropped}")["matched"] == 0
    assert len(quality.measures["coverage"].examples) == 3
    for example in quality.measures["coverage"].examples:
        item = example.entity.removeprefix("item ")
        assert example.text == PLACES[item][dropped == "dislikes"]
        assert example.review_id.startswith(item)


def test_amplified_praise_and_blame_have_a_steep_slope(measure):
    counts = PRAISE_COUNT.items()
    faithful = measure([quote(item, count, 4 - count) for item, count in counts])
    amplified = measure([quote(item, count > 2, count <= 2) for item, count in counts])
    praising = measure([quote(item, dislikes=0) for item in ITEMS])
    polarity = values(faithful, "polarity", "item")
    assert (polarity["slope"], polarity["shift"]) == pytest.approx((1, 0), abs=0.02)
    assert polarity["rating"] > 0.9
    assert values(amplified, "polarity", "item")["slope"] > 1.2
    polarity, drawn = (values(praising, "polarity", row) for row in ("item", "item: drawn"))
    assert polarity["slope"] < 0.3
    assert praising.measures["polarity"].examples[0].entity == "item bakery"
    # Brevity alone neither praises nor blames.
    assert abs(drawn["shift"]) < 0.25 < polarity["shift"]
    assert drawn["rating"] > polarity.get("rating", 0)
    assert drawn["count"] == 10


def run_without_one_review(dataset, summaries):
    """Views of items that each leave one review out."""
    written, codes, members = [], [], []
    for item, item_summaries in summaries.items():
        written += item_summaries
        codes += [dataset.data.items.index(item)] * len(item_summaries)
        rows = np.flatnonzero(dataset.data.item == codes[-1])
        members += [np.delete(rows, left_out) for left_out in range(len(item_summaries))]
    views = EvidenceViews.from_lists(np.array(codes), members)
    return AnnotationRun(dataset, {"item": list(annotated_texts("item", dataset, views, written))})


def test_summaries_of_one_entity_agree_more_than_those_of_two(dataset, measure):
    summaries = {}
    for item, price in zip(ITEMS, ["cheap price", "overpriced"] * 5, strict=True):
        summaries[item] = [quote(item, price=price, categories=[item])] * 3
    quality = measure(run_without_one_review(dataset, summaries))
    same, others = (values(quality, "agreement", f"item: {row}") for row in ("same", "others"))
    assert same["count"] == others["count"] == 10
    assert others["cosine"] < 0.6 < 0.99 < same["cosine"]
    assert others["price"] < same["price"] == same["categories"] == 1
    assert same["shared"] == pytest.approx(0.5)  # two of four reviews
    assert others["categories"] == others["shared"] == 0
    differing = quote("sushi", dislikes=0, price="fair price", categories=["sushi", "fish"])
    summaries["tea"] = [summaries["tea"][0], differing]
    quality = measure(run_without_one_review(dataset, summaries))
    less = values(quality, "agreement", "item: same")
    assert less["cosine"] < same["cosine"] - 0.03
    assert less["price"] == pytest.approx(0.9)
    assert [example.entity for example in quality.measures["agreement"].examples] == ["item tea"]


def test_notes_are_compared_with_their_own_review(dataset, models, measure):
    notes = models.quote_annotator.write_notes(dataset.texts)
    quality = measure(notes, kind="review")
    assert values(quality, "support", "review: text")["matched"] == 1
    assert values(quality, "coverage", "review: dislikes")["matched"] == 1
    assert list(quality.measures) == ["support", "coverage", "polarity"]
    notes[5] = Note(gist="Open on Sundays until midnight.", dislikes=["no dogs allowed"])
    notes[7] = Note()
    quality = measure(notes, kind="review")
    counts = quality.sample_counts["review"]
    assert (counts["missing"], counts["sampled"]) == (1, 39)
    (example,) = quality.measures["support"].examples
    assert example.entity == f"review {dataset.review_ids[5]}" == f"review {example.review_id}"


def write_truth(folder, rows):
    (folder / "truth.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder / "truth.jsonl"


def test_price_and_categories_are_compared_with_the_truth(measure, tmp_path):
    tags, levels = ["cheap price", "fair price", "overpriced"], [number % 3 for number in range(10)]
    summaries = []
    for item, level in zip(ITEMS, levels, strict=True):
        summaries.append(quote(item, price=tags[level], categories=[f"{item} house", "cafe"]))
    for other, sign, recall in ((ITEMS, 1, 1), (rotate(ITEMS), -1, 0)):
        rows = []
        for item, label, level in zip(ITEMS, other, levels, strict=True):
            price = "$" * (1 + level if sign > 0 else 3 - level)
            rows.append({"business_id": item, "price_level": price, "cuisines": f"{label}-House"})
        quality = measure(summaries, write_truth(tmp_path, rows))
        assert values(quality, "truth", "price") == pytest.approx({"count": 10, "written": sign})
        assert values(quality, "truth", "categories")["written"] == recall


def test_the_price_is_the_mean_over_notes(dataset, measure, tmp_path):
    notes = []
    for row, text in enumerate(dataset.texts):
        expensive = row % 4 < (row // 4) / 3  # the more of an item's notes, the later it comes
        notes.append(Note(gist=text, price="overpriced" if expensive else "none"))
    rows = [{"item": item, "price": 10 * number + 5} for number, item in enumerate(ITEMS)]
    price = values(measure(notes, write_truth(tmp_path, rows), "review"), "truth", "price")
    assert price == {"count": 10, "written": pytest.approx(1, abs=0.1)}


@pytest.mark.parametrize("order", [1, -1])
def test_the_summary_of_most_reviews_is_compared_with_the_truth(dataset, measure, tmp_path, order):
    texts, tags = [], ["cheap price", "overpriced"] * 5
    for ordered, row_count in ((rotate(tags), 3), (tags, 4)):
        summaries = [quote(item, price=tag) for item, tag in zip(ITEMS, ordered, strict=True)]
        for text in run_of(dataset, summaries).texts["item"]:
            texts.append(replace(text, rows=text.rows[:row_count]))
    # Low prices for "overpriced", so that the right tags are anticorrelated.
    rows = [{"item": item, "price": price} for item, price in zip(ITEMS, [2, 1] * 5, strict=True)]
    quality = measure(AnnotationRun(dataset, {"item": texts[::order]}), write_truth(tmp_path, rows))
    assert quality.sample_counts["item"]["written"] == 20
    assert quality.sample_counts["item"]["sampled"] == 10, "one text an entity"
    assert values(quality, "truth", "price")["written"] == pytest.approx(-1)


def test_the_sample_is_bounded(dataset, measure, monkeypatch):
    written = run_of(dataset, faithful_summaries()).texts["item"]
    sizes = ({"max_entities": 5}, {"max_reviews": 15})
    samples = [quality_of._sample(written, np.random.default_rng(0), **size) for size in sizes]
    assert [len(sample) for sample in samples] == [5, 3]
    monkeypatch.setattr(AnnotatedText, "max_reviews", 2)
    assert measure(faithful_summaries()).sample_counts["item"]["reviews"] == 20


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item": "tea", "name": "Tea House"}, "no column for price or categories"),
        ({"place": "tea", "price": 3}, "no column for the item's id"),
        ({"item": "elsewhere", "price": 3}, "none of the reviewed items"),
        ({"item": "tea", "price": "?"}, "none of the reviewed items"),
    ],
)
def test_a_truth_without_the_items_is_refused(measure, tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        measure(faithful_summaries(), write_truth(tmp_path, [row]))


def test_missing_summaries_are_counted_where_reviews_have_words(models, measure):
    dataset = dataset_of(models, {**PLACES, "tea": ["", " "]})
    summaries = [Summary() if item in ("bakery", "pub", "tea") else quote(item) for item in ITEMS]
    quality = measure(run_of(dataset, summaries))
    assert quality.sample_counts["item"] == {"written": 7, "missing": 2, "sampled": 7, "reviews": 14}
    assert values(quality, "support", "item: text")["matched"] == 1


def test_without_two_texts_there_is_nothing_to_measure(models, measure, capsys):
    one_item = run_of(dataset_of(models, {"tea": PLACES["tea"]}), [quote("tea")])
    for annotated, kind in (([Summary()] * 10, "item"), ([Note()] * 40, "review"), (one_item, "item")):
        quality = measure(annotated, kind=kind)
        assert quality.measures == {}
        print_quality(quality)
        assert "there is nothing to measure" in " ".join(capsys.readouterr().out.split())


def test_hostile_texts_are_printed_inert_within_80_columns_and_the_seed_decides(
    models, measure, capsys, monkeypatch
):
    evil = "[bold red]x[/] [/nope] \x1b[2J\x1b]0;owned\x07 \u202egnp.exe :smile: " + "w" * 900
    dataset = dataset_of(models, {item: [evil + item, *PLACES[item]] for item in ITEMS})
    lists = {"likes": [evil], "dislikes": ["\x1b[31m"]}
    summaries = [Summary(text=f"\ud800 {evil} {item}", **lists) for item in rotate(ITEMS)]
    users = run_of(dataset, [quote("tea", dislikes=0)] * 3, "user").texts
    run = AnnotationRun(dataset, run_of(dataset, summaries).texts | users)
    quality = measure(run)
    assert json.dumps(asdict(quality), allow_nan=False) == json.dumps(asdict(measure(run)))
    assert set(quality.measures) == {"support", "coverage", "polarity"}
    monkeypatch.setattr(stdout, "_width", 80)
    print_quality(quality)
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert "[bold red]x[/] [/nope]" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    for part in (":smile:", "builtin, strategy summary, prompts default", "\nitem: text ", "\nuser: text "):
        assert part in text


@pytest.mark.parametrize("size", [2, 30])
def test_one_random_claim_in_twenty_matches_however_long_the_lists(models, size):
    rng, texts, claims = np.random.default_rng(0), [], []

    def encode(texts, title):
        """Unit vectors that have nothing to do with their texts, or with each other."""
        vectors = rng.normal(size=(len(texts), 16))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    random_models = replace(models, encoder=SimpleNamespace(encode=encode))
    for entity in range(300):
        texts += [(str(entity), "text", "")] * size
        claims += [(str(entity), "claim", "")] * 5
    row = match_rates(claims, texts, random_models, np.random.default_rng(1), [])
    assert row["count"] == 1500
    assert row["matched"].value == pytest.approx(0.05, abs=0.02)
    assert row["by_chance"].value == pytest.approx(0.05)


def test_entities_count_equally():
    estimate = mean_estimate([1.0, 1.0, 1.0, 0.0, np.nan], ["a", "a", "a", "b", "c"])
    assert estimate == Estimate(0.5, 0.5)
    assert mean_estimate([1.0], ["a"]) == Estimate(1.0, None)
    assert mean_estimate([], []) is None


def test_labels_and_prices_are_ranked_by_hand():
    assert [quality_of.normalise_label(label) for label in ("Film-Noir", " film  NOIR!")] == ["film noir"] * 2
    score, expensive = quality_of.price_level_score, ["overpriced"]
    assert score([]) == score(["none"] * 5) == 0
    assert 0 < score(["fair price"]) < score(expensive) < score(expensive * 3) < 1
    assert score(expensive + ["none"] * 9) == score(expensive) == -score(["cheap price"])
    labels, ranked = ["North Indian", "Chinese"], ["chinese", "thai", "north indian"]
    for case, recall in (((ranked, labels), 1), ((ranked, labels, 1), 0.5), (([], labels), 0)):
        assert quality_of.label_recall(*case) == recall
    assert quality_of.rank_labels([["thai"], ["pizza", "thai"], []]) == ["thai", "pizza"]
    truth = {"a": ["Thai", "Pizza"], "b": ["Thai"], "c": ["Cafe", "thai"], "d": ["Pizza"]}
    assert quality_of.most_frequent_labels(truth, 2) == ["thai", "pizza"]


def test_files_of_truth(tmp_path):
    rows = [
        {"item": "a", "cost_for_two": "1,300", "cuisines": ["Film-Noir", "War", "war"]},
        {"item": "b", "cost_for_two": None, "cuisines": "Thai, Pizza|Cafe"},
        {"item": "c", "cost_for_two": 2.0, "cuisines": []},
        {"item": "d", "cost_for_two": "$$", "cuisines": None},
        {"item": None, "cost_for_two": 9.0},
    ]
    path, compressed = write_truth(tmp_path, rows), tmp_path / "items.jsonl.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    labels = {"a": ["film noir", "war"], "b": ["thai", "pizza", "cafe"]}
    for file in (path, compressed):
        assert quality_of.read_truth(file) == ({"a": 1300.0, "c": 2.0, "d": 2.0}, labels)
    for file, message in ((path, "no column for the item's id"), (tmp_path / "absent", "no such file")):
        with pytest.raises(DataError, match=message):
            quality_of.read_truth(file, "id")
