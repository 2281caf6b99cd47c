"""The check of what a language model wrote, on profiles whose quality is known."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.cli.annotation_quality import print_check
from mmrec.config import AnnotationConfig, Config, LanguageConfig
from mmrec.data.schema import REVIEW_SCHEMA, EntityKind, Reviews
from mmrec.encoder.text_encoder import Encoder
from mmrec.errors import DataError
from mmrec.evidence.views import EvidenceViews
from mmrec.experiments.annotate import AnnotationRun, SummarizedViews
from mmrec.experiments.annotation_check import AnnotationQuality, measure_annotation_quality
from mmrec.experiments.annotation_quality import Estimate, QualityContext, match_rates, mean_estimate
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.annotator import Annotator
from mmrec.llm.extractive import ExtractiveModel
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
REPHRASED = {
    "bakery": "Guests adore the loaves of sourdough.",
    "curry": "Visitors praise the vindaloo and the naan.",
    "gelato": "People rave about pistachio ice cream.",
    "noodles": "Its ramen broth wins much praise.",
    "pizza": "Its pizza from the wood oven is praised for the crust.",
    "pub": "Visitors enjoy craft beers by the fire.",
    "steak": "Guests praise the grilling of the ribeye steak.",
    "sushi": "Visitors praise how fresh the salmon sushi is.",
    "tacos": "People adore tacos filled with fish.",
    "tea": "Guests enjoy a choice of oolong tea.",
}
PRAISED = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
"""How many of the four reviews of each item praise."""
ITEMS = list(PLACES)


@pytest.fixture(scope="module")
def models(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Models:
    opened = open_models(Config(store=tmp_path_factory.mktemp("check") / "store.sqlite"))
    model = ExtractiveModel(encoder, "restaurant")
    reader = Annotator(model, opened.store, LanguageConfig(), AnnotationConfig())
    return replace(opened, encoder=encoder, annotator=reader, quote_annotator=reader)


@pytest.fixture(scope="module")
def corpus(models: Models) -> Dataset:
    return reviewed(
        models,
        {
            item: [PLACES[item][at >= praised] for at in range(4)]
            for item, praised in zip(ITEMS, PRAISED, strict=True)
        },
    )


def reviewed(models: Models, texts: dict[str, Sequence[str]]) -> Dataset:
    """Reviews of items by users who wrote one of each; praise is rated 5, anything else 1."""
    rows = [(item, at, text) for item, own in texts.items() for at, text in enumerate(own)]
    praise = {like for like, _ in PLACES.values()}
    table = pl.DataFrame(
        {
            "review_id": [f"{item}-{at}" for item, at, _ in rows],
            "user": [f"user{at}" for _, at, _ in rows],
            "item": [item for item, _, _ in rows],
            "rating": [5.0 if text in praise else 1.0 for _, _, text in rows],
            "text": [text for _, _, text in rows],
            "time": [None] * len(rows),
            "photos": [[] for _ in rows],
            "captions": [[] for _ in rows],
        },
        schema=REVIEW_SCHEMA,
    )
    return Dataset.from_reviews(Reviews(table), models, Config())


def whole(corpus: Dataset, said: Sequence[Summary], of: EntityKind = "item") -> AnnotationRun:
    side = EvidenceViews.all_reviews(corpus.data.item if of == "item" else corpus.data.user)
    return AnnotationRun(corpus, summaries=[SummarizedViews(of, corpus, side, list(said))])


def checked(profiles: AnnotationRun, models: Models, truth: Path | None = None) -> AnnotationQuality:
    strategy = "notes" if profiles.notes else "summary"
    config = Config(annotation=AnnotationConfig.model_validate({"strategy": strategy}))
    return measure_annotation_quality(profiles, config, models, truth)


def figures(check: AnnotationQuality, measure: str, row: str) -> dict[str, float]:
    values = check.measures[measure].rows[row].items()
    return {
        name: value.value if isinstance(value, Estimate) else value
        for name, value in values
        if value is not None
    }


def worst(check: AnnotationQuality, measure: str) -> list[str]:
    return [example.entity for example in check.measures[measure].examples]


def told(item: str, likes: bool = True, dislikes: bool = True, times: int = 1) -> Summary:
    """A summary that quotes the item's like, or its dislike, or both."""
    parts = [PLACES[item][0]] * likes * times + [PLACES[item][1]] * dislikes * times
    return Summary(text=" ".join(parts))


def quoted(item: str, praised: int) -> Summary:
    """A summary that quotes what is in the item's reviews, and nothing else."""
    return told(item, praised > 0, praised < 4)


def rotated(items: Sequence[str]) -> list[str]:
    return [*items[1:], items[0]]


def test_quotes_are_supported_and_nothing_is_left_to_read(corpus: Dataset, models: Models) -> None:
    check = checked(whole(corpus, [quoted(*one) for one in zip(ITEMS, PRAISED, strict=True)]), models)
    support = figures(check, "support", "item: text")
    assert support["matched"] == support["verbatim"] == 1
    assert support["count"] == sum((praised > 0) + (praised < 4) for praised in PRAISED)
    assert worst(check, "support") == []
    assert check.sample_counts == {"item": {"written": 10, "missing": 0, "looked_at": 10, "reviews": 40}}


def test_other_words_for_the_same_are_supported_without_being_quotes(corpus: Dataset, models: Models) -> None:
    check = checked(whole(corpus, [Summary(text=REPHRASED[item]) for item in ITEMS]), models)
    support = figures(check, "support", "item: text")
    assert support["verbatim"] == 0
    # The bakery has no review that praises its bread.
    assert support["matched"] >= 0.7


def test_a_summary_of_another_place_is_not_supported(corpus: Dataset, models: Models) -> None:
    said = [quoted(*one) for one in zip(ITEMS, PRAISED, strict=True)]
    check = checked(whole(corpus, rotated(said)), models)
    support = figures(check, "support", "item: text")
    assert support["matched"] < 0.25
    assert support["verbatim"] == 0
    one_wrong = [*said[:4], Summary(text="The opera singer missed every high note."), *said[5:]]
    (example,) = checked(whole(corpus, one_wrong), models).measures["support"].examples
    assert example.entity == "item pizza"
    assert example.text == "The opera singer missed every high note."
    assert example.review_id.startswith("pizza-")
    assert example.compared_text in PLACES["pizza"]


def test_invented_likes_are_told_apart_from_the_text(corpus: Dataset, models: Models) -> None:
    invented = [
        quoted(*one).model_copy(update={"likes": ["parking for trucks"], "dislikes": [PLACES[one[0]][1]]})
        for one in zip(ITEMS, PRAISED, strict=True)
    ]
    check = checked(whole(corpus, invented), models)
    assert figures(check, "support", "item: text")["matched"] == 1
    assert figures(check, "support", "item: likes")["matched"] < 0.3
    # The three places that got only praise have nothing that backs a dislike.
    assert figures(check, "support", "item: dislikes")["verbatim"] == pytest.approx(0.7)


@pytest.mark.parametrize(("kept", "dropped"), [("likes", "dislikes"), ("dislikes", "likes")])
def test_what_is_dropped_is_not_covered(corpus: Dataset, models: Models, kept: str, dropped: str) -> None:
    said = [told(item, likes=kept == "likes", dislikes=kept == "dislikes") for item in ITEMS]
    check = checked(whole(corpus, said), models)
    covered = figures(check, "coverage", f"item: {kept}")
    assert covered["matched"] > 0.9
    assert covered["count"] > 10
    assert figures(check, "coverage", f"item: {dropped}")["matched"] == 0
    for example in check.measures["coverage"].examples:
        item = example.entity.removeprefix("item ")
        assert example.text == PLACES[item][dropped == "dislikes"]
        assert example.review_id.startswith(item)


def test_praise_of_the_same_thing_does_not_cover_a_complaint(corpus: Dataset, models: Models) -> None:
    praise = {"bakery": "The croissants were delicious, fresh and wonderful."}
    said = [Summary(text=praise[item]) if item in praise else told(item) for item in ITEMS]
    check = checked(whole(corpus, said), models)
    assert worst(check, "coverage")[0] == "item bakery"
    assert figures(check, "coverage", "item: dislikes")["matched"] < 1


def test_amplified_praise_and_blame(corpus: Dataset, models: Models) -> None:
    in_proportion = [
        Summary(text=" ".join([PLACES[item][0]] * praised + [PLACES[item][1]] * (4 - praised)))
        for item, praised in zip(ITEMS, PRAISED, strict=True)
    ]
    one_sided = [told(item, praised > 2, praised <= 2) for item, praised in zip(ITEMS, PRAISED, strict=True)]
    rosy = [told(item, dislikes=False) for item in ITEMS]
    faithful, loud, praising = (
        figures(checked(whole(corpus, said), models), "polarity", "item")
        for said in (in_proportion, one_sided, rosy)
    )
    assert faithful["slope"] == pytest.approx(1, abs=0.02)
    assert faithful["shift"] == pytest.approx(0, abs=0.02)
    assert faithful["rating"] > 0.9
    assert loud["slope"] > 1.2
    assert praising["slope"] < 0.3
    assert praising["shift"] > 0.25


def test_brevity_alone_neither_praises_nor_blames(corpus: Dataset, models: Models) -> None:
    check = checked(whole(corpus, [told(item, dislikes=False) for item in ITEMS]), models)
    assert worst(check, "polarity")[0] == "item bakery"
    rosy, drawn = (figures(check, "polarity", name) for name in ("item", "item: drawn"))
    assert abs(drawn["shift"]) < 0.25 < rosy["shift"]
    assert drawn["rating"] > rosy.get("rating", 0)
    assert drawn["count"] == 10


def folded(corpus: Dataset, said: dict[str, Sequence[Summary]]) -> AnnotationRun:
    """Views of items that each leave one review out."""
    code = {item: at for at, item in enumerate(corpus.data.items)}
    views = [(item, left, one) for item, own in said.items() for left, one in enumerate(own)]
    rows = {item: np.flatnonzero(corpus.data.item == code[item]) for item in said}
    side = EvidenceViews.from_lists(
        np.array([code[item] for item, _, _ in views]),
        [np.delete(rows[item], left) for item, left, _ in views],
    )
    return AnnotationRun(
        corpus, summaries=[SummarizedViews("item", corpus, side, [one for _, _, one in views])]
    )


def test_agreement_of_folds(corpus: Dataset, models: Models) -> None:
    tags = ["cheap price", "overpriced"] * 5
    same = {
        item: [told(item).model_copy(update={"price": tag, "categories": [item]})] * 3
        for item, tag in zip(ITEMS, tags, strict=True)
    }
    check = checked(folded(corpus, same), models)
    alike, others = (figures(check, "agreement", f"item: {part}") for part in ("same", "others"))
    assert alike["count"] == others["count"] == 10
    assert alike["cosine"] > 0.99
    assert alike["price"] == alike["categories"] == 1
    assert alike["shared"] == pytest.approx(0.5)  # two of four reviews
    assert others["cosine"] < 0.6
    assert others["categories"] == others["shared"] == 0
    assert others["price"] < 1
    other = Summary(text=PLACES["sushi"][0], price="fair price", categories=["sushi", "fish"])
    check = checked(folded(corpus, same | {"tea": [same["tea"][0], other]}), models)
    assert figures(check, "agreement", "item: same")["cosine"] < alike["cosine"] - 0.03
    assert figures(check, "agreement", "item: same")["price"] == pytest.approx(0.9)
    assert worst(check, "agreement") == ["item tea"]


def test_notes_are_held_against_their_own_review(corpus: Dataset, models: Models) -> None:
    notes = models.quote_annotator.write_notes(corpus.texts)
    check = checked(AnnotationRun(corpus, notes=notes), models)
    assert figures(check, "support", "review: text")["matched"] == 1
    assert figures(check, "coverage", "review: dislikes")["matched"] == 1
    assert list(check.measures) == ["support", "coverage", "polarity"]
    notes[5] = Note(gist="Open on Sundays until midnight.", dislikes=["no dogs allowed"])
    notes[7] = Note()
    check = checked(AnnotationRun(corpus, notes=notes), models)
    assert check.sample_counts["review"]["missing"] == 1
    assert check.sample_counts["review"]["looked_at"] == 39
    (example,) = check.measures["support"].examples
    assert example.entity == f"review {corpus.review_ids[5]}" == f"review {example.review_id}"


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    else:
        raw = "\n".join(json.dumps(row) for row in rows).encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["truth.jsonl", "truth.jsonl.gz", "truth.csv"])
def test_truth_right_and_wrong(corpus: Dataset, models: Models, tmp_path: Path, name: str) -> None:
    tags = ["cheap price", "fair price", "overpriced"]
    levels = {item: at % 3 for at, item in enumerate(ITEMS)}
    said = [
        told(item).model_copy(update={"price": tags[levels[item]], "categories": [f"{item} house", "cafe"]})
        for item in ITEMS
    ]
    right = [
        {"business_id": item, "price_level": "$" * (1 + levels[item]), "cuisines": f"{item}-House"}
        for item in ITEMS
    ]
    check = checked(whole(corpus, said), models, write(tmp_path / name, right))
    assert figures(check, "truth", "price")["written"] == pytest.approx(1)
    assert figures(check, "truth", "price")["count"] == 10
    assert figures(check, "truth", "categories")["written"] == 1
    wrong = [
        row | {"price_level": "$" * (3 - levels[item]), "cuisines": rotated(ITEMS)[at]}
        for at, (item, row) in enumerate(zip(ITEMS, right, strict=True))
    ]
    check = checked(whole(corpus, said), models, write(tmp_path / name, wrong))
    assert figures(check, "truth", "price")["written"] == pytest.approx(-1)
    assert figures(check, "truth", "categories")["written"] == 0
    assert len(worst(check, "truth")) == 3


def test_truth_counts_the_votes_of_notes(corpus: Dataset, models: Models, tmp_path: Path) -> None:
    dear = {item: at for at, item in enumerate(ITEMS)}
    notes = [
        Note(gist=text, price="overpriced" if at % 4 < dear[ITEMS[at // 4]] / 3 else "none")
        for at, text in enumerate(corpus.texts)
    ]
    truth = write(tmp_path / "t.jsonl", [{"item": item, "price": 10 * dear[item] + 5} for item in ITEMS])
    check = checked(AnnotationRun(corpus, notes=notes), models, truth)
    assert figures(check, "truth", "price")["written"] > 0.9
    assert figures(check, "truth", "price")["count"] == 10


def test_one_text_an_entity_and_the_view_that_hears_most_for_the_truth(
    corpus: Dataset, models: Models, tmp_path: Path
) -> None:
    tags = ["cheap price", "overpriced"] * 5
    right = [told(item).model_copy(update={"price": tag}) for item, tag in zip(ITEMS, tags, strict=True)]
    wrong = [one.model_copy(update={"price": tag}) for one, tag in zip(right, rotated(tags), strict=True)]
    truth = write(
        tmp_path / "t.jsonl",
        [{"item": item, "price": len(tag)} for item, tag in zip(ITEMS, tags, strict=True)],
    )
    for parts in (1, -1):
        folds = folded(corpus, {item: [one] * 3 for item, one in zip(ITEMS, wrong, strict=True)}).summaries
        profiles = AnnotationRun(corpus, summaries=[*folds, *whole(corpus, right).summaries][::parts])
        check = checked(profiles, models, truth)
        assert check.sample_counts["item"]["written"] == 40
        assert check.sample_counts["item"]["looked_at"] == 10
        # "cheap price" is the longer word of the two.
        assert figures(check, "truth", "price")["written"] == pytest.approx(-1)


def test_the_sample_is_bounded(corpus: Dataset, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    said = whole(corpus, [quoted(*one) for one in zip(ITEMS, PRAISED, strict=True)])
    monkeypatch.setattr("mmrec.experiments.annotation_check._REVIEWS", 15)
    assert checked(said, models).sample_counts["item"] == {
        "written": 10,
        "missing": 0,
        "looked_at": 3,
        "reviews": 12,
    }
    monkeypatch.setattr("mmrec.experiments.annotation_quality._HEARD", 2)
    assert checked(said, models).sample_counts["item"]["looked_at"] == 7
    monkeypatch.setattr("mmrec.experiments.annotation_check._ENTITIES", 5)
    assert checked(said, models).sample_counts["item"]["looked_at"] == 5


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"item": "tea", "name": "Tea House"}, "no column for price or categories"),
        ({"place": "tea", "price": 3}, "no column for the item's id"),
        ({"item": "elsewhere", "price": 3}, "says nothing of the items"),
        ({"item": "tea", "price": "?"}, "says nothing of the items"),
    ],
)
def test_truth_that_cannot_be_used(
    corpus: Dataset, models: Models, tmp_path: Path, row: dict[str, object], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        checked(whole(corpus, [told(item) for item in ITEMS]), models, write(tmp_path / "t.jsonl", [row]))


def test_missing_summaries_are_counted_apart(models: Models) -> None:
    texts: dict[str, Sequence[str]] = {item: PLACES[item] for item in ITEMS}
    corpus = reviewed(models, texts | {"tea": ["", " "]})
    said = [quoted(item, 2) for item in ITEMS[:-1]]
    # Of the tea house nothing could be said; of the bakery and the pub something could.
    said = [Summary() if ITEMS[at] in ("bakery", "pub") else one for at, one in enumerate(said)]
    check = checked(whole(corpus, [*said, Summary()]), models)
    assert check.sample_counts["item"] == {"written": 7, "missing": 2, "looked_at": 7, "reviews": 14}
    assert figures(check, "support", "item: text")["matched"] == 1


@pytest.mark.parametrize("strategy", ["summary", "notes"])
def test_nothing_to_check(
    corpus: Dataset, models: Models, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    profiles = (
        AnnotationRun(corpus, notes=[Note()] * 40) if strategy == "notes" else whole(corpus, [Summary()] * 10)
    )
    lonely = whole(reviewed(models, {"tea": PLACES["tea"]}), [told("tea")])
    assert "nothing to check" in checked(lonely, models).remarks[0]
    check = checked(profiles, models)
    assert check.measures == {}
    assert "there is nothing to check" in check.remarks[0]
    assert next(iter(check.sample_counts.values()))["missing"] in (10, 40)
    print_check(check)
    assert "nothing to check" in capsys.readouterr().out


def test_hostile_texts_are_shown_inert_within_80_columns(
    models: Models, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "[bold red]x[/] [/nope] \x1b[2J\x1b]0;owned\x07 \u202egnp.exe :smile: " + "w" * 900
    corpus = reviewed(models, {item: [evil + str(at), *PLACES[item]] for at, item in enumerate(ITEMS)})
    said = [
        Summary(text=f"\ud800 {evil} {item}", likes=[evil], dislikes=["\x1b[31m"]) for item in rotated(ITEMS)
    ]
    monkeypatch.setenv("COLUMNS", "80")
    check = checked(whole(corpus, said), models)
    print_check(check)
    shown = capsys.readouterr().out
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert "[bold red]x[/] [/nope]" in " ".join(shown.split())
    assert ":smile:" in shown
    assert max(map(len, shown.splitlines())) <= 80
    json.dumps(asdict(check), allow_nan=False)


def test_tables_fit_and_the_same_seed_gives_the_same_check(
    corpus: Dataset, models: Models, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = whole(corpus, [Summary(text=PLACES["tea"][0])] * 4, "user").summaries
    said = [quoted(*one) for one in zip(ITEMS, PRAISED, strict=True)]
    profiles = AnnotationRun(corpus, summaries=[*whole(corpus, said).summaries, *users])
    one, other = checked(profiles, models), checked(profiles, models)
    assert json.dumps(asdict(one), allow_nan=False) == json.dumps(asdict(other))
    assert set(asdict(one)["measures"]) == {"support", "coverage", "polarity"}
    monkeypatch.setenv("COLUMNS", "80")
    print_check(one)
    shown = capsys.readouterr().out
    assert "builtin, strategy summary, prompts default" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    for row in ("item: text", "user: text", "item: drawn", "user: drawn"):
        assert f"\n{row} " in shown


class RandomEncoder:
    """Unit vectors that have nothing to do with their texts, or with each other."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def encode(self, texts: Sequence[str], what: str = "") -> np.ndarray:
        vectors = self.rng.normal(size=(len(texts), 16))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [2, 30])
def test_one_stranger_in_twenty_has_a_match_however_long_the_lists(models: Models, size: int) -> None:
    judge = QualityContext(replace(models, encoder=RandomEncoder()), None, np.random.default_rng(1))  # type: ignore[arg-type]
    texts = {str(at): [("text", "")] * size for at in range(300)}
    row = match_rates([[("claim", "")] * 5] * 300, texts, judge, [])
    assert row["count"] == 1500
    assert row["matched"].value == pytest.approx(0.05, abs=0.02)  # type: ignore[union-attr]


def test_entities_count_equally() -> None:
    figure = mean_estimate([1.0, 1.0, 1.0, 0.0, np.nan], ["a", "a", "a", "b", "c"])
    assert figure == Estimate(0.5, 0.5)
    assert mean_estimate([1.0], ["a"]) == Estimate(1.0, None)
    assert mean_estimate([], []) is None
