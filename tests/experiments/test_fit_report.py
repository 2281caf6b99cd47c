"""The report of a fit: true sentences and tables, and a page that is inert and needs nothing but itself."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mmrec.cache.store import Store
from mmrec.config import Config, TrainingConfig
from mmrec.data.schema import ITEM_SCHEMA, REVIEW_SCHEMA, Reviews
from mmrec.evaluation import statistics
from mmrec.evaluation.list_metrics import ListComparison, ListMetrics, TradePoint, compare_lists
from mmrec.evaluation.metrics import METRICS, evaluate
from mmrec.experiments.compare import Assessment, assess, audit_features, compare, slice_masks
from mmrec.experiments.report import fit_report
from mmrec.experiments.report.charts import draw_charts, style_for
from mmrec.experiments.report.fit_report import headline, write_report
from mmrec.experiments.report.html import ResultTable, format_difference, format_metric, write_page
from mmrec.experiments.report.list_tables import list_sentence, trade_chart, trade_sentence
from mmrec.features.audit import Audit
from mmrec.pipeline import open_models
from mmrec.ranker.training import TrainingHistory
from pages import EVIL, Reader, descriptions, svgs
from review_tables import interactions

MODELS = ["always like", "user mean", "item mean", "user + item mean", "bias model", "baseline", "mmrec"]
NAN = float("nan")


def make_reviews(n=400):
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 30)[:n]
    user, item = pairs % 40, pairs // 40
    mood, quality = rng.normal(size=40), rng.normal(size=30)
    rating = np.clip(np.rint(4 + mood[user] + quality[item] + rng.normal(size=n)), 1, 5)
    rows, rejected, empty = [], [], {"photos": [], "captions": []}
    for number, stars in enumerate(rating):
        ids = {"review_id": f"r{number}", "user": f"u{user[number]}", "item": f"i{item[number]}"}
        rows.append({**ids, "rating": stars, "text": f"{'good' if stars > 3 else 'bad'} {EVIL}", **empty})
    for number in range(12):
        reason = f"rating is not a number: reason{number:02}"
        rejected.append({"file": "reviews.csv", "line": 2 + number, "reason": reason, "row": EVIL})
    items = pl.DataFrame([{"item": "i0", "name": EVIL, **empty}], schema=ITEM_SCHEMA)
    tables = pl.DataFrame(rows, schema=REVIEW_SCHEMA), items, pl.DataFrame(rejected)
    return Reviews(*tables, source=f"/data/{EVIL.replace('/', '')}.csv")


@pytest.fixture(scope="module")
def comparison(encoder):
    """Of a baseline, and of a copy of it as `mmrec`, which had a second, better run."""
    config = Config(training=TrainingConfig(epochs=4, patience=4))
    captioner = SimpleNamespace(provenance={"kind": "caption", "model": EVIL, "revision": "1"})
    models = replace(open_models(config, store=Store(None)), encoder=encoder, captioner=captioner)
    result = compare(make_reviews(), config, models, model_names=["baseline"])
    result.remarks.append(f"a remark {EVIL}")
    baseline, test = result.trained["baseline"], result.prepared.split.test
    noise = np.random.default_rng(1).normal(0, 0.1, len(baseline.probability))
    probability = np.clip(baseline.probability + noise, 0.01, 0.99)
    runs = [*baseline.model.history["ranker"], TrainingHistory([0.7, 0.6, 0.5], [-0.7, -0.1, -0.2])]
    model = replace(baseline.model, history={"ranker": runs})
    result.metrics["mmrec"] = evaluate(result.prepared.label[test], probability[test], (0.5, 0.5))
    result.probability["mmrec"] = probability
    result.trained["mmrec"] = replace(baseline, model=model, probability=probability)
    return result


@pytest.fixture(scope="module")
def assessment(comparison):
    return assess(comparison, rounds=100)


@pytest.fixture(scope="module")
def page(comparison, assessment, tmp_path_factory):
    audits = audit_features(replace(comparison, trained={"baseline": comparison.trained["baseline"]}), 20)
    path = tmp_path_factory.mktemp("out") / "new folder" / "report.html"
    command = f"mmrec fit {EVIL}"
    assert write_report(comparison, assessment, audits, path, command=command, read=450) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture
def page_text(tmp_path, monkeypatch):
    """Writes reports without charts, which take the time, and gives their texts."""
    keys = ("roc", "likes", "dislikes", "differences", "calibration", "training")
    monkeypatch.setattr(fit_report, "draw_charts", lambda *_: {key: [] for key in keys})
    monkeypatch.setattr(fit_report, "trade_chart", lambda _: "")

    def write(comparison, assessment, audits=None, **options):
        path = tmp_path / "report.html"
        write_report(comparison, assessment, audits or {}, path, command="x", **options)
        return Reader(path.read_text(encoding="utf-8")).shown()

    return write


def test_hostile_text_is_inert_and_every_section_is_there(page, encoder):
    reader = Reader(page)
    reader.check()
    assert len(page.encode()) < 1_500_000
    assert [text for tag, text in reader.headings() if tag == "h2"] == [
        "Lists", "Likes and dislikes", "Metrics on the test reviews", "Is the difference more than chance?",
        "From which probability on to recommend", "For which users and items",
        "Probabilities and training", "Data", "Evidence audit", "How it was made",
    ]  # fmt: skip
    assert len(svgs(page)) == 1 + 3 + 2 + 3 + 2
    text, reported = reader.shown(), [metric for metric in METRICS if metric.in_report]
    assert len(reported) > 5
    for metric in reported:
        assert f">{metric.title}\u00a0" in page
        assert metric.explanation in text
    assert "Brier score" not in page
    expected = (
        "Reviews read 450", "Reviews kept by the filter 400 (88.9%)", "Rows rejected 12",
        "the first 10 of 12", "reason09", "Photos 0 in reviews, 0 of items", "not an LLM",
        encoder.description, "Seed 0", '"epochs": 4', "✓ held", f"a remark {EVIL}", f"mmrec fit {EVIL}",
    )  # fmt: skip
    assert [words for words in expected if words not in text] == []
    assert "reason10" not in text


def test_the_assessment_is_shown(assessment, page):
    text = Reader(page).shown().replace(" (best)", "")
    for metric, spec in (("auc", ".3f"), ("fpr_at_90", ".1%")):
        value, low, high = assessment.intervals["mmrec"][metric]
        assert f" {value:{spec}} {low:{spec}}–{high:{spec}} " in text
    assert f"Other users might make it {100 * low:.0f} to {100 * high:.0f} for mmrec" in text
    assert len(assessment.differences) == 5
    for gaps in assessment.differences.values():
        for gap, scale, digits in ((gaps["auc"], 1, 3), (gaps["fpr_at_90"], 100, 1)):
            mean, low, high = (format_difference(scale * number, digits) for number in gap[:3])
            assert f"{mean} {low} to {high} {gap.p_value:.3f}" in text
    assert list(assessment.operating_points) == ["bias model", "baseline", "mmrec"]
    for name, point in assessment.operating_points.items():
        assert " ".join([name, *(f"{share:.1%}" for share in point.values())]) in text
    sizes = assessment.slices["bias model"]
    assert "warm users" in sizes
    for name, size in sizes.items():
        aucs = [slices[name].get("auc", NAN) for slices in assessment.slices.values()]
        line = " ".join([name, str(size["rows"]), str(size["likes"]), *map(format_metric, aucs)])
        assert (line in text) == (size["rows"] > 0), line


def test_lists_come_first_beside_those_of_peers(comparison, assessment, page):
    text, lists = Reader(page).shown(), assessment.lists
    assert list(lists.metrics) == ["popularity", "item-kNN", "RP3beta", "EASE", "mmrec"]
    own, peer = lists.metrics["mmrec"], lists.metrics[lists.reference]
    assert peer.recall == max(values.recall for name, values in lists.metrics.items() if name != "mmrec")
    assert lists.differences["mmrec"]["recall"].mean == pytest.approx(own.recall - peer.recall)
    low, high = lists.intervals["mmrec"]["ndcg"][1:3]
    cells = f"{own.ndcg:.3f} ({low:.3f}–{high:.3f}) {own.mrr:.3f}"
    assert cells in text
    judged = "the lists of mmrec (judged by the probabilities of baseline)"
    assert f"{judged} find {own.recall / peer.recall:.2f} times as much as {lists.reference}" in text
    assert f"{own.dislikes / peer.dislikes:.2f} times its share of dislikes" in text
    assert text.index(cells) < text.index("Accuracy")
    penalty = comparison.lists.settings["EASE"]["penalty"]
    assert f"EASE penalty {penalty}" in text
    # The evidence of test lists is all that is not test.
    rows, data = comparison.prepared.split.evidence_rows, comparison.prepared.dataset.data
    assert (
        comparison.lists.task.visits.nnz
        == len(rows)
        == len(set(zip(data.user[rows], data.item[rows], strict=True)))
    )
    chart = trade_chart(lists)
    assert f"mmrec: {own.recall:.3f}, {own.dislikes:.1%}" in chart
    trade = {(point.caution, point.max_fpr): point for point in lists.trade}
    assert len(trade) == 9 * 4
    caution = comparison.prepared.config.operating.caution
    assert trade[caution, None][2:] == (own.recall, own.dislikes)
    point = trade[1, 0.6]
    assert point.recall < own.recall
    assert f"caution 1, max_fpr 0.6: {point.recall:.3f}, {point.dislikes:.1%}" in chart


@pytest.mark.parametrize(
    ("trade", "expected"),
    [
        ([], None),
        ([(0.2, None, 0.29, 0.01)], "No setting of mmrec reaches the recall of a."),
        ([(0.2, None, 0.3, 0.14), (0.5, 0.3, 0.31, 0.12), (1, 0.3, 0.2, 0.01)],
         "the lowest share of dislikes is 12.0% instead of 20.0% (caution 0.5, max_fpr 0.3). It is read off "
         "these test reviews; on others the best setting may be worth less."),
    ],
)  # fmt: skip
def test_the_sentence_of_the_trade_takes_the_fewest_dislikes_at_the_recall_of_the_best_peer(trade, expected):
    metrics = {"a": ListMetrics(0.3, 0.1, 0.1, 0.2, 1, 1, 9), "mmrec": ListMetrics(0, 0, 0, 0, 0, 0, 9)}
    points = [TradePoint(*row) for row in trade]
    lists = ListComparison("mmrec", "a", metrics, {}, {}, {"a": {}}, points, "bias model")
    assert "the lists of mmrec (judged by the probabilities of the bias model)" in list_sentence(lists)
    sentence = trade_sentence(lists)
    assert sentence == expected or sentence.endswith(expected)


def test_intervals_and_differences_are_of_users_drawn_again_with_p_corrected_by_holm(comparison, assessment):
    test, p = comparison.prepared.split.test, comparison.probability
    rows = comparison.prepared.dataset.data.user[test], comparison.prepared.label[test]
    metrics = {"auc": statistics.weighted_auc, "fpr_at_90": statistics.weighted_fpr_at_tpr}
    for key, metric in metrics.items():
        uncorrected, corrected = [], []
        for name, gaps in assessment.differences.items():
            draw = partial(statistics.bootstrap, *rows, p[name][test], metric, rounds=100)
            gap = draw(reference=p["bias model"][test])
            assert assessment.intervals[name][key] == draw()[:3]
            assert gaps[key][:3] == gap[:3]
            uncorrected.append(gap.p_value)
            corrected.append(gaps[key].p_value)
        assert corrected == statistics.holm_correction(uncorrected).tolist()
        assert min(corrected) == min(1, 5 * min(uncorrected)) > min(uncorrected)


def test_what_cannot_be_computed_is_a_dash(comparison, assessment, page_text):
    nothing = {"threshold": float("inf"), "tpr": 0.0, "fpr": 0.0, "share": 0.0, "precision": NAN}
    task = comparison.lists.task
    no_task = replace(task, liked=task.liked[:0])
    no_top = {name: top[:0] for name, top in comparison.lists.top.items()}
    no_lists = compare_lists(replace(comparison.lists, task=no_task, top=no_top, trade=[]))
    odd_assessment = replace(
        assessment,
        intervals={"mmrec": dict.fromkeys(("auc", "fpr_at_90"), (0.5, NAN, NAN))},
        operating_points={"mmrec": nothing},
        lists=no_lists,
        slices={"bias model": {"cold users": {"rows": 7, "likes": 3}, "warm users": {"rows": 0, "likes": 0}}},
    )
    metrics = comparison.metrics["mmrec"] | {"accuracy": NAN, "ap_positive": NAN}
    odd = replace(comparison, metrics=comparison.metrics | {"mmrec": metrics})
    text = page_text(odd, odd_assessment)
    for row in (
        "mmrec never 0.0% 0.0% 0.0% -",
        "mmrec - - - - - -",
        "Too few liked test reviews",
        "cold users 7 3 -",
    ):
        assert row in text
    assert "warm users" not in text
    assert f"mmrec - {metrics['fpr']:.1%}" in text.replace(" (best)", "")
    assert "nan" not in text
    assert format_difference(NAN) == format_metric(NAN) == "-"


def test_models_are_listed_in_order_and_the_best_are_marked(comparison, page):
    assert list(comparison.metrics) == MODELS
    page = page[page.index("Metrics on the test reviews</h2>") :]
    positions = [page.index(f'<th scope="row">{name}</th>') for name in MODELS]
    assert positions == sorted(positions)
    aucs, fprs = ([row[name] for row in comparison.metrics.values()] for name in ("auc", "fpr_at_90"))
    for best in (f"{max(aucs):.3f}", f"{min(fprs):.1%}"):
        assert f'<strong>{best}<span class="hidden"> (best)</span></strong>' in page
    assert f"<td>{min(aucs):.3f}" in page


def test_filtered_reviews_are_not_counted_as_kept(comparison, assessment, page_text):
    prepared = comparison.prepared
    train = prepared.split.train
    split = replace(prepared.split, train=train[50:], filtered_rows=train[:50])
    text = page_text(replace(comparison, prepared=replace(prepared, split=split)), assessment, read=500)
    assert "Reviews kept by the filter 350 (70.0%)" in text
    assert "Reviews dropped by the filter 50" in text
    label = prepared.label[np.concatenate([split.train, split.valid, split.test])]
    assert f"Likes {label.mean():.1%} Photos" in text


@pytest.mark.parametrize(("violations", "verdict"), [([], "✓ held"), ([f"row 3 {EVIL}"], "✗ broken")])
def test_audit_verdicts(comparison, assessment, page_text, violations, verdict):
    audits = {"baseline": Audit("fold", 20, 100, violations)}
    text = page_text(comparison, assessment, audits)
    assert f"{verdict} — {audits['baseline']}" in text
    assert "mmrec not audited" in text
    assert "Reviews read" not in text  # unknown


def test_charts_are_well_formed_and_described(comparison, assessment):
    charts = draw_charts(comparison, assessment) | {"trade": [trade_chart(assessment.lists)]}
    assert set(charts) == {"trade", "roc", "likes", "dislikes", "differences", "calibration", "training"}
    assert sum(len(descriptions(panel)) for panels in charts.values() for panel in panels) == 11
    for key, metric in (("roc", "auc"), ("likes", "ap_positive"), ("dislikes", "ap_negative")):
        assert f"mmrec {comparison.metrics['mmrec'][metric]:.3f}" in charts[key][0]
        assert "var(--mmrec)" in charts[key][0]
    label = "Training of mmrec, ranker: 2 runs; the best has 3 epochs, best epoch 2"
    for words in (label, ">mmrec: ranker, best of 2<", ">epoch (2: −0.100)<"):
        assert words in charts["training"][1]


def test_models_differ_by_more_than_colour():
    names = [*MODELS[1:], "proposed", "logistic regression", "LightGBM", "matrix factorisation", "DeepFM"]
    assert len({str(style_for(name).dash) for name in names} - {"-"}) == len(names) - 2
    assert style_for("mmrec").width > 2 * style_for("user + item mean").width  # both are unbroken
    assert len({style_for(name).marker for name in ("baseline", "proposed", "mmrec")}) == 3


def test_charts_of_many_rows_stay_small():
    rng = np.random.default_rng(0)
    label = rng.random(100_000) < 0.7
    p = np.clip(0.5 + 0.1 * label + rng.normal(0, 0.2, len(label)), 0, 1)
    prepared = SimpleNamespace(label=label, split=SimpleNamespace(test=np.arange(len(label))))
    comparison = SimpleNamespace(
        prepared=prepared,
        metrics={"bias model": evaluate(label, p, (0.5, 0.5))},
        probability={"bias model": p},
        trained={},
    )
    charts = draw_charts(comparison, Assessment("bias model", {}, {}, {}, {}, None))
    assert sum(len(panel) for panels in charts.values() for panel in panels) < 150_000


@pytest.mark.parametrize(
    ("fprs", "end"),
    [
        ({"proposed": 0.53}, "53 of 100 disliked ones are still recommended by the proposed model; the best "
         "simple baseline (bias model) lets through 58."),
        ({"proposed": 0.6}, "baseline (bias model) does better and lets through only 58."),
        ({"proposed": 0.581}, "lets through as many."),
        ({"proposed": 0.2, "mmrec": 0.5, "LightGBM": 0.4}, "50 of 100 disliked ones are still recommended by "
         "mmrec; the best baseline (LightGBM) does better and lets through only 40."),
        ({}, "10 of 100 disliked ones are still recommended by the baseline model; the best simple baseline "
         "(bias model) lets through 58."),
    ],
)  # fmt: skip
def test_the_headline_is_true_and_about_mmrec_else_about_another_trained_model(fprs, end):
    values = {"always like": 0, "item mean": 0.7, "bias model": 0.58, "baseline": 0.1, **fprs}
    metrics = {name: {"fpr_at_90": value} for name, value in values.items()}
    sentence = headline(metrics, [name for name in ("baseline", "proposed", "mmrec") if name in values])
    assert sentence.startswith("At a setting that keeps 90% of the liked items, ")
    assert sentence.endswith(end)


def test_slices_by_hand():
    names, dense = ("cheap price", "mean rating", "overpriced"), [[0, 1, 0], [0.5, 1, 0.2], [0, 1, 1.0]]
    item, item_view = SimpleNamespace(names=names, dense=np.array(dense)), [9, 9, 9, 9, 9, 9, 0, 1, 2, 1]
    features = SimpleNamespace(item_view=np.array(item_view), item=item)
    # Users 0 and 2 have 3 and 1 evidence reviews, the first item five. It has a photo, the second one in
    # an evidence review; the photo of a test row does not count.
    data = interactions([0, 0, 0, 2, 3, 3, 0, 1, 2, 2], [0, 0, 0, 1, 0, 0, 0, 1, 2, 1])
    photos = [[], [], [], ["p"], [], [], [], [], ["p"], []]
    dataset = SimpleNamespace(data=data, item_photos=[["p"], [], []], item_captions=[[], [], []])
    dataset.photos, dataset.review_captions = photos, [[]] * 10
    split = SimpleNamespace(test=np.arange(6, 10), evidence_rows=np.arange(6))
    masks = slice_masks(SimpleNamespace(dataset=dataset, split=split), features)
    assert {name: "".join(map(str, mask.astype(int))) for name, mask in masks.items()} == {
        "cold users": "0111", "warm users": "1000", "few reviews": "0111", "many reviews": "1000",
        "with photo": "1101", "without photo": "0010", "with price": "0111", "without price": "1000",
        "price: cheap price": "0101", "price: overpriced": "0010",
    }  # fmt: skip


def test_any_page_is_inert_and_shows_its_texts(tmp_path):
    table = ResultTable(EVIL, ["name", EVIL], [[EVIL, "1"], ["b", "2"]], {(1, 1)}, [f"a note {EVIL}"])
    content = {"panels": ["<svg></svg>"], "results": table, "model": f"plot of {EVIL}"}
    path = write_page(tmp_path / "page.html", f"title {EVIL}", f"mmrec {EVIL}", "sweep", **content)
    reader = Reader(path.read_text(encoding="utf-8"))
    reader.check()
    for part in ("title", "a note", "plot of", "mmrec", "name"):
        assert f"{part} {EVIL}" in reader.shown()
    assert "<strong>2</strong>" in reader.page
