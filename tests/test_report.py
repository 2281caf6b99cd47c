"""The report: true sentences, a true table, and a page that is inert and needs nothing but itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from mmrec.audit import Audit, audit
from mmrec.config import Config, TrainingConfig
from mmrec.experiment.compare import Comparison, compare
from mmrec.experiment.plots import auc_difference, calibration_bins, draw_plots
from mmrec.experiment.report import headline, write_report
from mmrec.metrics import Scores, evaluate
from mmrec.reviews.table import ITEM_SCHEMA, REVIEW_SCHEMA, Reviews
from mmrec.store import Store

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"
ORDER = ["always like", "user mean", "item mean", "user + item mean", "bias model", "baseline"]


class FakeEncoder:
    """Vectors from the letters of a text; quick, and the same every time."""

    description = "letters (fake)"

    def encode(self, texts: Sequence[str], what: str = "") -> np.ndarray:
        counts = [[text.count(letter) for letter in "aeiourst"] for text in texts]
        return np.array(counts, dtype=np.float16) / 10


def make_reviews(n: int = 400) -> Reviews:
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 30)[:n]
    user, item = pairs % 40, pairs // 40
    mood, quality = rng.normal(size=40), rng.normal(size=30)
    rating = np.clip(np.rint(4 + mood[user] + quality[item] + rng.normal(size=n)), 1, 5)
    table = pl.DataFrame(
        {
            "review_id": [f"r{at}" for at in range(n)],
            "user": [f"u{code}" for code in user],
            "item": [f"i{code}" for code in item],
            "rating": rating,
            "text": [f"{'good' if stars > 3 else 'bad'} {EVIL}" for stars in rating],
            "time": [None] * n,
            "photos": [[] for _ in range(n)],
            "captions": [[] for _ in range(n)],
        },
        schema=REVIEW_SCHEMA,
    )
    rejects = pl.DataFrame(
        {
            "file": ["reviews.csv"] * 12,
            "line": list(range(2, 14)),
            "reason": [f"rating is not a number: reason{at:02}" for at in range(12)],
            "row": [EVIL] * 12,
        }
    )
    items = pl.DataFrame(
        {"item": ["i0"], "name": [EVIL], "photos": [[]], "captions": [[]]}, schema=ITEM_SCHEMA
    )
    return Reviews(table, items, rejects, source=f"/data/{EVIL.replace('/', '')}.csv")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    reader = SimpleNamespace(identity={"model": "builtin", "revision": "7"}, remark="")
    captioner = SimpleNamespace(maker={"kind": "caption", "model": EVIL, "revision": "1"})
    models: Any = SimpleNamespace(
        store=Store(), encoder=FakeEncoder(), reader=reader, captioner=captioner, image=None
    )
    config = Config(training=TrainingConfig(epochs=4, patience=4))
    result = compare(make_reviews(), config, models, which=["baseline"])
    result.remarks.append(f"a remark {EVIL}")
    return result


@pytest.fixture(scope="module")
def audits(comparison: Comparison) -> dict[str, Audit]:
    prepared, model = comparison.prepared, comparison.models["baseline"]
    rows = np.arange(20)
    features = comparison.features["baseline"]
    return {
        "baseline": audit(prepared.corpus, prepared.split, prepared.evidence, model.assembler, features, rows)
    }


@pytest.fixture(scope="module")
def page(comparison: Comparison, audits: Mapping[str, Audit], tmp_path_factory: Any) -> str:
    path = tmp_path_factory.mktemp("out") / "new folder" / "report.html"
    assert write_report(comparison, audits, path, command=f"mmrec evaluate {EVIL}", read=450) == path
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags with their attributes, and the text, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_is_inert(page: str) -> None:
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "img", "iframe", "object", "embed", "base"}
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on")]
    assert EVIL in reader.text  # shown, as text
    assert f"a remark {EVIL}" in reader.text


def test_nothing_is_fetched(page: str) -> None:
    for tag, attrs in Reader(page).tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "@import" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_size_and_ids(page: str) -> None:
    assert len(page.encode()) < 1_500_000
    ids = Counter(attrs["id"] for _, attrs in Reader(page).tags if "id" in attrs)
    assert ids.most_common(1)[0][1] == 1


def test_table_in_order_with_the_best_marked(comparison: Comparison, page: str) -> None:
    assert list(comparison.scores) == ORDER
    at = [page.index(f'<th scope="row">{name}</th>') for name in ORDER]
    assert at == sorted(at)
    best = max(scores.auc for scores in comparison.scores.values())
    assert f'<strong>{best:.3f}<span class="hidden"> (best)</span></strong>' in page
    worst = min(scores.auc for scores in comparison.scores.values())
    assert f"<td>{worst:.3f}</td>" in page


def test_data_and_making_are_told(page: str) -> None:
    text = " ".join(Reader(page).text.split())
    for told in (
        "Reviews read 450",
        "Reviews kept by the filter 400 (88.9%)",
        "Rows refused 12",
        "the first 10 of 12",
        "reason09",
        "Photos 0 in reviews, 0 of items",
        "not an LLM",
        "letters (fake)",
        "Seed 0",
        '"epochs": 4',
    ):
        assert told in text
    assert "reason10" not in text


@pytest.mark.parametrize(("violations", "verdict"), [([], "✓ held"), ([f"row 3 {EVIL}"], "✗ broken")])
def test_audit_verdicts(comparison: Comparison, tmp_path: Path, violations: list[str], verdict: str) -> None:
    audits = {"baseline": Audit("fold", 20, 100, violations)}
    page = write_report(comparison, audits, tmp_path / "r.html", command="x").read_text(encoding="utf-8")
    reader = Reader(page)
    assert verdict in reader.text
    assert str(audits["baseline"]) in reader.text
    assert "Reviews read" not in reader.text  # unknown, so not told


def test_real_audit_held(audits: Mapping[str, Audit], page: str) -> None:
    assert audits["baseline"].passed
    assert "✓ held" in page


def test_peers_alone(comparison: Comparison, tmp_path: Path) -> None:
    scores = {name: score for name, score in comparison.scores.items() if name != "baseline"}
    alone = replace(comparison, scores=scores, models={}, features={}, seconds={})
    page = write_report(alone, {}, tmp_path / "r.html", command="x").read_text(encoding="utf-8")
    assert "nothing was trained" in page
    assert "nothing to audit" in page


def test_plots_are_well_formed_and_named(comparison: Comparison) -> None:
    plots = draw_plots(comparison)
    assert set(plots) == {"roc", "dislikes", "differences", "calibration", "training baseline"}
    assert len(plots["training baseline"]) == len(comparison.models["baseline"].course)
    for panel in (panel for panels in plots.values() for panel in panels):
        svg = ElementTree.fromstring(panel)
        assert svg.get("role") == "img"
        assert len(svg.get("aria-label", "")) > 20
        assert svg.findtext("title") == svg.get("aria-label")
        assert svg.findall(".//text")
        assert "#0" not in panel.replace('"#', "")  # every colour comes from the page


def test_plots_of_many_rows_stay_small() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(100_000) < 0.7
    p = np.clip(0.5 + 0.1 * label + rng.normal(0, 0.2, len(label)), 0, 1)
    rows = np.arange(len(label))
    prepared: Any = SimpleNamespace(label=label, split=SimpleNamespace(test=rows))
    scores = {"bias model": evaluate(label, p, (0.5, 0.5))}
    plots = draw_plots(Comparison(prepared, scores, {"bias model": p}))
    assert sum(len(panel) for panels in plots.values() for panel in panels) < 150_000


def scored(fpr_at_90: float) -> Scores:
    return Scores(0.7, 0.5, 0.6, 0.7, 0.4, 0.4, fpr_at_90, 0.9, 1000, 750)


@pytest.mark.parametrize(
    ("proposed", "peer", "told"),
    [
        (0.53, 0.58, "53 of 100 disliked ones are still recommended by the proposed model; the best simple "
         "peer (bias model) lets through 58."),
        (0.58, 0.53, "peer (bias model) does better and lets through only 53."),
        (0.531, 0.529, "lets through as many."),
    ],
)  # fmt: skip
def test_headline_is_true(proposed: float, peer: float, told: str) -> None:
    scores = {"always like": scored(1), "item mean": scored(0.7), "bias model": scored(peer)}
    scores["baseline"], scores["proposed"] = scored(0.1), scored(proposed)
    sentence = headline(scores, ["baseline", "proposed"])
    assert sentence.startswith("At a setting that keeps 90% of the liked items, ")
    assert sentence.endswith(told)


def test_headline_without_peers_or_models() -> None:
    assert "by the baseline model." in headline({"baseline": scored(0.5)}, ["baseline"])
    assert "50 of 100" in headline({"always like": scored(1), "item mean": scored(0.5)}, [])


def test_auc_difference_and_its_error() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(600) < 0.7
    one, other = (np.round(label + rng.normal(0, spread, 600), 1) for spread in (1.0, 2.0))
    gap, error = auc_difference(label, one, other)
    assert gap == pytest.approx(roc_auc_score(label, one) - roc_auc_score(label, other))
    draws = []
    for _ in range(300):
        rows = rng.integers(600, size=600)
        draws.append(auc_difference(label[rows], one[rows], other[rows])[0])
    assert error == pytest.approx(np.std(draws), rel=0.2)
    assert auc_difference(label, one, one) == (0, 0)


def test_calibration_bins() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    bins = calibration_bins(rng.random(5000) < p, p)
    assert bins[:, 2].tolist() == [500] * 10
    assert np.abs(bins[:, 0] - bins[:, 1]).max() < 0.08
    tied = calibration_bins(np.array([True, False, True, True]), np.array([0.5, 0.5, 0.5, 0.5]))
    assert tied.tolist() == [[0.5, 0.75, 4]]
