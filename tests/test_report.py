"""The report: true sentences, a true table, and a page that is inert and needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from mmrec.cache.store import Store
from mmrec.config import Config, TrainingConfig
from mmrec.data.schema import ITEM_SCHEMA, REVIEW_SCHEMA, Reviews
from mmrec.evaluation import ListMetrics, Metrics, SliceMetrics, calibration_bins, evaluate
from mmrec.evidence.audit import Audit, audit
from mmrec.experiments.compare import Comparison, compare
from mmrec.experiments.report.fit_report import headline, write_report
from mmrec.experiments.report.plots import draw_plots
from mmrec.experiments.report.svg import format_difference, format_metric, style_for
from mmrec.experiments.significance import Assessment, assess
from mmrec.features.builder import FeatureAudit
from mmrec.ranker.training import TrainingHistory
from pages import EVIL, Reader, svgs

ORDER = ["always like", "user mean", "item mean", "user + item mean", "bias model", "baseline", "mmrec"]


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
    result = compare(make_reviews(), config, models, model_names=["baseline"])
    result.remarks.append(f"a remark {EVIL}")
    return with_ours(result)


def with_ours(result: Comparison) -> Comparison:
    """The same with our model beside the baseline, of which it is a copy that had a second, better run."""
    test, p = result.prepared.split.test, result.probability["baseline"]
    p = np.clip(p + np.random.default_rng(1).normal(0, 0.1, len(p)), 0.01, 0.99)
    runs = [
        *result.models["baseline"].history["ranker"],
        TrainingHistory([0.7, 0.6, 0.5], [-0.7, -0.1, -0.2]),
    ]
    return replace(
        result,
        metrics=result.metrics | {"mmrec": evaluate(result.prepared.label[test], p[test], (0.5, 0.5))},
        probability=result.probability | {"mmrec": p},
        thresholds=result.thresholds | {"mmrec": 0.7},
        models=result.models | {"mmrec": replace(result.models["baseline"], history={"ranker": runs})},
        features=result.features | {"mmrec": result.features["baseline"]},
    )


@pytest.fixture(scope="module")
def judgement(comparison: Comparison) -> Assessment:
    return assess(comparison)


@pytest.fixture(scope="module")
def audits(comparison: Comparison) -> dict[str, Audit]:
    prepared, model = comparison.prepared, comparison.models["baseline"]
    rows = np.arange(20)
    audited = FeatureAudit(model.builder, prepared.dataset, comparison.features["baseline"])
    data = prepared.dataset.data
    return {"baseline": audit(data, prepared.split, prepared.evidence, audited, rows)}


@pytest.fixture(scope="module")
def page(
    comparison: Comparison, judgement: Assessment, audits: Mapping[str, Audit], tmp_path_factory: Any
) -> str:
    path = tmp_path_factory.mktemp("out") / "new folder" / "report.html"
    command = f"mmrec fit {EVIL}"
    assert write_report(comparison, judgement, audits, path, command=command, read=450) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plots(comparison: Comparison, judgement: Assessment) -> dict[str, list[str]]:
    return draw_plots(comparison, judgement)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without plots, which take the time."""
    monkeypatch.setattr("mmrec.experiments.report.fit_report.draw_plots", lambda *_: {})


def test_hostile_text_is_inert(page: str) -> None:
    reader = Reader(page)
    reader.check()
    assert f"a remark {EVIL}" in reader.text  # shown, as text
    assert f"mmrec fit {EVIL}" in reader.text


def test_hostile_names(comparison: Comparison, judgement: Assessment, tmp_path: Path) -> None:
    evil = "<script>x</script>"

    def renamed(values: dict[str, Any]) -> dict[str, Any]:
        return {name.replace("item mean", evil): value for name, value in values.items()}

    scores, p = renamed(comparison.metrics), renamed(comparison.probability)
    slices = {name: renamed({"item mean": one["warm users"]}) for name, one in judgement.slices.items()}
    differences, intervals = renamed(judgement.differences), renamed(judgement.intervals)
    judged = replace(judgement, differences=differences, intervals=intervals, slices=slices)
    compared = replace(comparison, metrics=scores, probability=p)
    reader = Reader(write_report(compared, judged, {}, tmp_path / "r.html", command="x").read_text())
    reader.check()
    assert reader.text.count(evil) > 8


def test_size(page: str) -> None:
    assert len(page.encode()) < 1_500_000


def test_every_section_is_there(page: str) -> None:
    at = [page.index(f"<h2>{title}</h2>") for title in (
        "Figures on the test reviews", "Is it more than luck?", "From which probability on to recommend",
        "Lists", "For whom, and of what", "Probabilities and training", "Data", "Evidence audit",
        "How it was made",
    )]  # fmt: skip
    assert at == sorted(at)
    assert len(svgs(page)) == 3 + 2 + 3 + 2


def test_what_is_judged_is_told(judgement: Assessment, page: str) -> None:
    text = Reader(page).shown()
    value, low, high = judgement.intervals["mmrec"]["auc"]
    assert f" {value:.3f} {low:.3f}–{high:.3f} " in text.replace(" (best)", "")
    value, low, high = judgement.intervals["mmrec"]["fpr_at_90"]
    assert f" {value:.1%} {low:.1%}–{high:.1%} " in text.replace(" (best)", "")
    assert f"Other users might make it {100 * low:.0f} to {100 * high:.0f} for mmrec" in text
    for own in judgement.differences.values():
        for gap, scale, digits in ((own["auc"], 1, 3), (own["fpr_at_90"], 100, 1)):
            mean, low_, high_ = (format_difference(scale * one, digits) for one in gap[:3])
            assert f"{mean} {low_} to {high_} {gap.p_value:.3f}" in text.replace("</strong>", "")
    for name, (threshold, given) in judgement.operating_points.items():
        assert " ".join([name, *(f"{one:.1%}" for one in (threshold, *given))]) in text
    for name, kinds in judgement.lists.items():
        told = [f"{one.ndcg:.3f} {one.hit_rate:.1%} {one.mrr:.3f} {one.users}" for one in kinds.values()]
        assert " ".join([name, *told]) in text
    for at, one in judgement.slices["bias model"].items():
        aucs = [own[at].metrics for own in judgement.slices.values()]
        told = [f"{scores.auc:.3f}" if scores else "-" for scores in aucs]
        line = " ".join([at, str(one.rows), str(one.likes), *told])
        assert (line in text) == (one.rows > 0), line


@pytest.mark.usefixtures("undrawn")
def test_what_nobody_can_judge(comparison: Comparison, judgement: Assessment, tmp_path: Path) -> None:
    _, given = judgement.operating_points["mmrec"]
    nothing = given._replace(tpr=0.0, fpr=0.0, share=0.0, precision=float("nan"))
    nobody = ListMetrics(*[float("nan")] * 3, 0, np.zeros(0), np.zeros((0, 3)))
    odd = replace(
        judgement,
        operating_points={"mmrec": (float("inf"), nothing)},
        lists={"mmrec": {"sampled": nobody, "full": nobody}},
        slices={
            "bias model": {"cold users": SliceMetrics(7, 3, None), "warm users": SliceMetrics(0, 0, None)}
        },
    )
    path = write_report(comparison, odd, {}, tmp_path / "r.html", command="x")
    text = Reader(path.read_text(encoding="utf-8")).shown()
    assert "mmrec never 0.0% 0.0% 0.0% -" in text
    assert "mmrec - - - 0 - - - 0" in text
    assert "cold users 7 3 -" in text
    assert "warm users" not in text


def test_table_in_order_with_the_best_marked(comparison: Comparison, page: str) -> None:
    assert list(comparison.metrics) == ORDER
    at = [page.index(f'<th scope="row">{name}</th>') for name in ORDER]
    assert at == sorted(at)
    best = max(scores.auc for scores in comparison.metrics.values())
    assert f'<strong>{best:.3f}<span class="hidden"> (best)</span></strong>' in page
    worst = min(scores.auc for scores in comparison.metrics.values())
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


@pytest.mark.usefixtures("undrawn")
def test_spare_reviews_are_not_called_kept(
    comparison: Comparison, judgement: Assessment, tmp_path: Path
) -> None:
    prepared = comparison.prepared
    split = replace(prepared.split, train=prepared.split.train[50:], filtered_rows=prepared.split.train[:50])
    thinner = replace(comparison, prepared=replace(prepared, split=split))
    path = write_report(thinner, judgement, {}, tmp_path / "r.html", command="x", read=500)
    text = Reader(path.read_text(encoding="utf-8")).shown()
    assert "Reviews kept by the filter 350 (70.0%)" in text
    assert "Spare reviews 50, which the filter dropped" in text
    label = prepared.label[np.concatenate([split.train, split.valid, split.test])]
    assert f"Likes {label.mean():.1%} Photos" in text


@pytest.mark.usefixtures("undrawn")
def test_what_is_no_number_is_a_dash(comparison: Comparison, judgement: Assessment, tmp_path: Path) -> None:
    nan = float("nan")
    scores = comparison.metrics | {
        "mmrec": replace(comparison.metrics["mmrec"], accuracy=nan, ap_positive=nan)
    }
    odd = replace(judgement, intervals={"mmrec": {"auc": (0.5, nan, nan), "fpr_at_90": (0.5, nan, nan)}})
    path = write_report(replace(comparison, metrics=scores), odd, {}, tmp_path / "r.html", command="x")
    page = path.read_text(encoding="utf-8")
    assert '<th scope="row">mmrec</th><td>-</td>' in page
    assert "nan" not in Reader(page).shown()
    assert format_difference(nan) == format_metric(nan) == "-"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("violations", "verdict"), [([], "✓ held"), ([f"row 3 {EVIL}"], "✗ broken")])
def test_audit_verdicts(
    comparison: Comparison, judgement: Assessment, tmp_path: Path, violations: list[str], verdict: str
) -> None:
    audits = {"baseline": Audit("fold", 20, 100, violations)}
    path = write_report(comparison, judgement, audits, tmp_path / "r.html", command="x")
    reader = Reader(path.read_text(encoding="utf-8"))
    assert "not audited" in reader.text  # ours
    assert verdict in reader.text
    assert str(audits["baseline"]) in reader.text
    assert "Reviews read" not in reader.text  # unknown, so not told


def test_real_audit_held(audits: Mapping[str, Audit], page: str) -> None:
    assert audits["baseline"].passed
    assert "✓ held" in page


@pytest.mark.usefixtures("undrawn")
def test_peers_alone(comparison: Comparison, tmp_path: Path) -> None:
    scores = {name: score for name, score in comparison.metrics.items() if name not in comparison.models}
    alone = replace(comparison, metrics=scores, models={}, features={}, seconds={})
    unjudged = Assessment("bias model", {}, {}, {}, {}, {"bias model": {}})
    page = write_report(alone, unjudged, {}, tmp_path / "r.html", command="x").read_text(encoding="utf-8")
    assert "nothing was trained" in page
    assert "nothing to audit" in page


def test_plots_are_well_formed_and_named(comparison: Comparison, plots: dict[str, list[str]]) -> None:
    assert set(plots) == {"roc", "likes", "dislikes", "differences", "calibration", "training"}
    for panel in (panel for panels in plots.values() for panel in panels):
        (svg,) = svgs(panel)
        assert svg.get("role") == "img"
        assert len(svg.get("aria-label", "")) > 20
        assert svg.findtext("title") == svg.get("aria-label")
        assert svg.findall(".//text")
    for key, figure in (("roc", "auc"), ("likes", "ap_positive"), ("dislikes", "ap_negative")):
        assert f"mmrec {getattr(comparison.metrics['mmrec'], figure):.3f}" in plots[key][0]
        assert "var(--mmrec)" in plots[key][0]


def test_all_runs_are_drawn_and_the_best_is_named(plots: dict[str, list[str]]) -> None:
    _, ours = plots["training"]
    assert "Training of mmrec, ranker: 2 runs; the best has 3 epochs, best epoch 2" in ours
    assert ">mmrec: ranker, best of 2<" in ours
    assert ">epoch (2: −0.100)<" in ours


def test_models_are_not_told_apart_by_colour_alone() -> None:
    names = [*ORDER[1:], "proposed", "logistic regression", "LightGBM", "matrix factorisation", "DeepFM"]
    assert len({str(style_for(name).dash) for name in names} - {"-"}) == len(names) - 2
    assert style_for("mmrec").width > 2 * style_for("user + item mean").width  # both are unbroken
    assert len({style_for(name).marker for name in ("baseline", "proposed", "mmrec")}) == 3


def test_plots_of_many_rows_stay_small() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(100_000) < 0.7
    p = np.clip(0.5 + 0.1 * label + rng.normal(0, 0.2, len(label)), 0, 1)
    rows = np.arange(len(label))
    prepared: Any = SimpleNamespace(label=label, split=SimpleNamespace(test=rows))
    scores = {"bias model": evaluate(label, p, (0.5, 0.5))}
    unjudged = Assessment("bias model", {}, {}, {}, {}, {})
    plots = draw_plots(Comparison(prepared, scores, {"bias model": p}), unjudged)
    assert sum(len(panel) for panels in plots.values() for panel in panels) < 150_000


def scored(fpr_at_90: float) -> Metrics:
    return Metrics(0.7, 0.5, 0.6, 0.7, 0.4, 0.4, fpr_at_90, 0.9, 1000, 750)


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


def test_headline_is_about_ours() -> None:
    scores = {"LightGBM": scored(0.4), "baseline": scored(0.3), "proposed": scored(0.2), "mmrec": scored(0.5)}
    told = "50 of 100 disliked ones are still recommended by mmrec; the best peer (LightGBM) does better"
    assert told in headline(scores, ["baseline", "proposed", "mmrec"])


def test_headline_without_peers_or_models() -> None:
    assert "by the baseline model." in headline({"baseline": scored(0.5)}, ["baseline"])
    assert "50 of 100" in headline({"always like": scored(1), "item mean": scored(0.5)}, [])


def test_calibration_bins() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    bins = calibration_bins(rng.random(5000) < p, p)
    assert bins[:, 2].tolist() == [500] * 10
    assert np.abs(bins[:, 0] - bins[:, 1]).max() < 0.08
    tied = calibration_bins(np.array([True, False, True, True]), np.array([0.5, 0.5, 0.5, 0.5]))
    assert tied.tolist() == [[0.5, 0.75, 4]]
