"""Pages of experiments on results by hand: true numbers, and nothing but an inert page."""

from itertools import combinations, product

import numpy as np
import pytest

from mmrec.evaluation.metrics import evaluate
from mmrec.experiments import ablation, sweep
from mmrec.experiments.report.html import ResultTable, write_page
from mmrec.experiments.reproduce import GRID, MODELS, reproduce_page, reproduction_tables
from pages import EVIL, Reader, svgs


def random_metrics(rng, skill):
    label = np.arange(400) % 4 > 0
    p = 1 / (1 + np.exp(-(1 + skill * (label - 0.5) + rng.normal(size=400))))
    return evaluate(label, p, (0.7, 0.3)) | {"log_loss": 0.5}


def random_stacks(repeats=3):
    """Both protocols; `paper` is the better one, as it leaks."""
    rng, stacks = np.random.default_rng(0), {"paper": {}, "honest": {}}
    for protocol, model in product(stacks, MODELS):
        skill, runs = 1 + (protocol == "paper") + 0.5 * (model == "proposed"), []
        for _ in range(len(GRID) * repeats):
            runs.append({part: random_metrics(rng, skill) for part in ("train", "valid", "test")})
        stacks[protocol][model] = {"remarks": [f"{protocol} remark {EVIL}"], "runs": runs}
    return stacks


def random_seed_results(seeds, *, shapley=True):
    groups = ["ratings", "user text", "item text", "photos"]
    names = ["everything", *(f"without {group}" for group in groups), *(f"{group} alone" for group in groups)]
    results = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        metrics, values = {}, {" + ".join(groups): 0.7}
        for number, name in enumerate([*names, "with whole reviews"]):
            metrics[name] = random_metrics(rng, 1.5 - 0.1 * number)
        for size in range(1, 5) if shapley else ():
            for coalition in combinations(groups, size):
                values[" + ".join(coalition)] = 0.52 + 0.03 * size + 0.01 * rng.random()
        result = {"groups": groups, "metrics": metrics, "coalitions": values, "test_ratio": 0.4}
        results.append(result | {"remarks": [f"a remark {EVIL}"]})
    return results


def random_sweep(values):
    rng, results = np.random.default_rng(0), {value: {} for value in values}
    for value, seed in product(values, "012"):
        results[value][seed] = {name: random_metrics(rng, 1) for name in ("model", "bias model")}
    return results


def read(path):
    """Descriptions of the charts of a page, and its text; the page must be inert."""
    page = path.read_text(encoding="utf-8")
    reader = Reader(page)
    reader.check()
    descriptions = []
    for svg in svgs(page):
        descriptions.append(svg.get("aria-label", ""))
        assert svg.get("role") == "img"
        assert len(descriptions[-1]) > 20
        assert "nan" not in descriptions[-1]
        assert svg.findtext("title") == descriptions[-1]
    return descriptions, reader.shown()


def assert_shown(tables, text):
    assert tables
    for table in tables:
        cells = [cell for row in table.rows for cell in row]
        for words in (table.title, *table.notes, *table.header, *cells):
            assert " ".join(words.split()) in text


def test_any_page_is_inert_and_shows_its_texts(tmp_path):
    table = ResultTable(EVIL, ["name", EVIL], [[EVIL, "1"], ["b", "2"]], {(1, 1)}, [f"a note {EVIL}"])
    content = {"panels": ["<svg></svg>"], "results": table, "model": f"plot of {EVIL}"}
    path = tmp_path / "new folder" / "page.html"
    assert write_page(path, f"title {EVIL}", f"mmrec {EVIL}", "sweep", **content) == path
    reader = Reader(path.read_text(encoding="utf-8"))
    reader.check()
    for part in ("title", "a note", "plot of", "mmrec", "name"):
        assert f"{part} {EVIL}" in reader.shown()
    assert "<strong>2</strong>" in reader.page


@pytest.mark.parametrize("repeats", [3, 1])
def test_the_page_of_reproduce(tmp_path, repeats):
    stacks = random_stacks(repeats)
    descriptions, text = read(reproduce_page(stacks, tmp_path / "r.html", "mmrec reproduce"))
    assert_shown(reproduction_tables(stacks), text)
    assert "Table 1: train reviews" in text.partition("Training reviews")[2]
    fpr = {}
    for protocol, by_model in stacks.items():
        fpr[protocol] = np.array([run["test"]["fpr"] for run in by_model["proposed"]["runs"]])
    (leak,) = [description for description in descriptions if description.startswith("FPR, points")]
    gap = 100 * (fpr["paper"] - fpr["honest"]).mean()
    assert f"proposed {gap:+.1f}".replace("-", "−") in leak
    del stacks["paper"]
    descriptions, text = read(reproduce_page(stacks, tmp_path / "r.html", "x"))
    assert descriptions == []
    assert "leak" not in text.lower()


@pytest.mark.parametrize("seeds", [3, 1])
def test_the_page_of_ablate(tmp_path, seeds):
    results = random_seed_results(seeds)
    descriptions, text = read(
        ablation.ablation_page(results, "proposed", tmp_path / "a.html", "mmrec ablate")
    )
    assert_shown(ablation.ablation_tables(results), text)
    assert "What the inputs of proposed add" in text
    assert ("synergy of text and photos" in text) == (seeds > 1)
    assert len(descriptions) == 4
    alone = {name: mean for name, mean, _ in ablation.metric_rows(results, "auc")}["photos alone"][0]
    share = ablation.shapley_values(results)["photos"][0]
    for expected in (f"photos alone {alone - 0.5:+.3f}", f"photos {share:+.3f}", "with whole reviews"):
        assert any(expected in description.replace("−", "-") for description in descriptions)
    # Without all coalitions there are no Shapley values.
    results = random_seed_results(1, shapley=False)
    descriptions, text = read(ablation.ablation_page(results, "mmrec", tmp_path / "a.html", "x"))
    assert len(descriptions) == 3
    assert "Shapley" not in text


@pytest.mark.parametrize("values", [["2", "5", "10"], [f"openai:{EVIL}", "builtin"]])
def test_the_page_of_sweep(tmp_path, values):
    results = random_sweep(values)
    descriptions, text = read(sweep.sweep_page(results, "llm", "mmrec", tmp_path / "s.html", "mmrec sweep"))
    assert_shown([sweep.sweep_table(results, "llm")], text)
    mean = np.mean([row["model"]["auc"] for row in results[values[1]].values()])
    assert f"mmrec at {values[1]} {mean:.3f} ±" in descriptions[0]
    assert len(descriptions) == 2


@pytest.mark.parametrize("values", [["2"], []])
def test_a_value_without_results_is_left_out(tmp_path, values):
    results = {**random_sweep(values), "50": {}}
    descriptions, _ = read(sweep.sweep_page(results, "imbalance", "mmrec", tmp_path / "s.html", "x"))
    assert len(descriptions) == 2 * len(values)
    assert not any("at 50" in description for description in descriptions)
