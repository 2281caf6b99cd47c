"""Pages of experiments on results by hand: true numbers, and nothing but an inert page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrec.evaluation.metrics import evaluate
from mmrec.experiments import ablation, sweep
from mmrec.experiments.report.experiment_pages import ablation_page, reproduce_page, sweep_page
from mmrec.experiments.report.html import ResultTable, write_page
from mmrec.experiments.reproduce import GRID, MODELS, Stacks, reproduction_tables
from mmrec.experiments.significance import BOOTSTRAPPED_METRICS
from mmrec.features.tables import FEATURE_GROUPS
from pages import EVIL, Reader, svgs


def random_metrics(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    label = np.arange(400) % 4 > 0
    p = 1 / (1 + np.exp(-(1 + skill * (label - 0.5) + rng.normal(size=400))))
    return evaluate(label, p, (0.7, 0.3)) | {"log_loss": 0.5}


def random_stacks(repeats: int = 3) -> Stacks:
    """Both protocols; `paper` is the better one, as it leaks."""
    rng = np.random.default_rng(0)
    stacks: Stacks = {"paper": {}, "honest": {}}
    for protocol, protocol_skill in (("paper", 2.0), ("honest", 1.0)):
        for model, gain in zip(MODELS, (0, 0.5), strict=True):
            runs = []
            for _ in range(len(GRID) * repeats):
                skill = protocol_skill + gain
                runs.append({part: random_metrics(rng, skill) for part in ("train", "valid", "test")})
            stacks[protocol][model] = {"remarks": [f"{protocol} remark {EVIL}"], "runs": runs}
    return stacks


def random_seed_results(seeds: int, *, shapley: bool = True) -> list[ablation.SeedResult]:
    groups = [group for group in FEATURE_GROUPS if group in ("ratings", "user text", "item text", "photos")]
    coalitions = []
    for mask in range(1, 16):
        coalitions.append(" + ".join(group for bit, group in enumerate(groups) if 1 << bit & mask))
    names = ["everything", *(f"without {group}" for group in groups), *(f"{group} alone" for group in groups)]
    results = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        metrics = {}
        for number, name in enumerate([*names, "with whole reviews"]):
            metrics[name] = random_metrics(rng, 1.5 - 0.1 * number)
        gap = dict.fromkeys(BOOTSTRAPPED_METRICS, (-0.02, -0.05, 0.01, 0.2))
        values = {}
        for coalition in coalitions:
            values[coalition] = 0.55 + 0.03 * coalition.count("+") + 0.01 * rng.random()
        results.append(
            {
                "groups": groups,
                "metrics": metrics,
                "coalitions": values if shapley else {coalitions[-1]: 0.7},
                "bootstrap": dict.fromkeys(metrics, gap) if seeds == 1 else {},
                "test_ratio": 0.4,
                "remarks": [f"a remark {EVIL}"],
            }
        )
    return results


def random_sweep(values: list[str]) -> sweep.SweepResults:
    rng = np.random.default_rng(0)
    results: sweep.SweepResults = {}
    for value in values:
        results[value] = {}
        for seed in range(3):
            models = ("model", "bias model")
            results[value][str(seed)] = {model: random_metrics(rng, 1) for model in models}
    return results


def read(path: Path) -> tuple[list[str], str]:
    """Descriptions of the charts of a page, and its text; the page must be inert."""
    page = path.read_text(encoding="utf-8")
    reader = Reader(page)
    reader.check()
    descriptions = []
    for svg in svgs(page):
        description = svg.get("aria-label", "")
        assert svg.get("role") == "img"
        assert len(description) > 20
        assert "nan" not in description
        assert svg.findtext("title") == description
        descriptions.append(description)
    return descriptions, reader.shown()


def assert_shown(tables: list[ResultTable], text: str) -> None:
    assert tables
    for table in tables:
        cells = [cell for row in table.rows for cell in row]
        for words in (table.title, *table.notes, *table.header, *cells):
            assert " ".join(words.split()) in text


def test_any_page_is_inert_and_shows_its_texts(tmp_path: Path) -> None:
    table = ResultTable(
        EVIL, ["name", EVIL], [[EVIL, "1"], ["b", "2"]], frozenset({(1, 1)}), [f"a note {EVIL}"]
    )
    content = {"panels": ["<svg role='img' aria-label='an empty picture'></svg>"], "results": table}
    path = tmp_path / "new folder" / "page.html"
    content["model"] = f"plot of {EVIL}"
    written = write_page(path, f"title {EVIL}", f"mmrec {EVIL}", "sweep.html.jinja", **content)
    assert written == path
    reader = Reader(path.read_text(encoding="utf-8"))
    reader.check()
    for part in ("title", "a note", "plot of", "mmrec"):
        assert f"{part} {EVIL}" in reader.text
    assert "<strong>2</strong>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("repeats", [3, 1])
def test_the_page_of_reproduce(tmp_path: Path, repeats: int) -> None:
    stacks = random_stacks(repeats)
    descriptions, text = read(reproduce_page(stacks, tmp_path / "r.html", "mmrec reproduce"))
    assert_shown(reproduction_tables(stacks), text)
    settings = [description for description in descriptions if "FPR at accuracy" in description]
    assert len(settings) == 2
    fpr = {
        protocol: np.array([run["test"]["fpr"] for run in stacks[protocol]["proposed"]["runs"]])
        for protocol in stacks
    }
    assert f"honest basic 0.1 {fpr['honest'][:repeats].mean():.1%} at" in settings[1]
    (leak,) = [description for description in descriptions if description.startswith("FPR, points")]
    gap = 100 * (fpr["paper"] - fpr["honest"]).mean()
    assert f"proposed {gap:+.1f}".replace("-", "−") in leak


def test_the_page_of_a_single_protocol_has_no_leak(tmp_path: Path) -> None:
    stacks = {"honest": random_stacks()["honest"]}
    descriptions, text = read(reproduce_page(stacks, tmp_path / "r.html", "x"))
    assert len(descriptions) == 2
    assert "leak" not in text.lower()


@pytest.mark.parametrize("seeds", [3, 1])
def test_the_page_of_ablate(tmp_path: Path, seeds: int) -> None:
    results = random_seed_results(seeds)
    descriptions, text = read(ablation_page(results, "proposed", tmp_path / "a.html", "mmrec ablate"))
    assert_shown(ablation.ablation_tables(results), text)
    assert "What the inputs of proposed add" in text
    descriptions = [description.replace("−", "-") for description in descriptions]
    alone = {name: mean for name, mean, _ in ablation.metric_rows(results, "auc")}["photos alone"][0]
    share = ablation.shapley_values(results)["photos"][0]
    assert any(f"photos alone {alone - 0.5:+.3f}" in description for description in descriptions)
    assert any(f"photos {share:+.3f}" in description for description in descriptions)
    assert any("with whole reviews" in description for description in descriptions)
    assert len(descriptions) == 4 + (seeds > 1)  # with one seed there is no synergy


def test_the_page_of_ablate_without_all_coalitions_has_no_shapley_values(tmp_path: Path) -> None:
    results = random_seed_results(1, shapley=False)
    descriptions, text = read(ablation_page(results, "mmrec", tmp_path / "a.html", "x"))
    assert len(descriptions) == 3
    assert "Shapley" not in text


@pytest.mark.parametrize("values", [["2", "5", "10"], [f"openai:{EVIL}", "builtin"]])
def test_the_page_of_sweep(tmp_path: Path, values: list[str]) -> None:
    results = random_sweep(values)
    descriptions, text = read(sweep_page(results, "llm", "mmrec", tmp_path / "s.html", "mmrec sweep"))
    assert_shown([sweep.sweep_table(results, "llm")], text)
    mean = np.mean([row["model"]["auc"] for row in results[values[1]].values()])
    assert f"mmrec at {values[1]} {mean:.3f} ±" in descriptions[0]
    assert len(descriptions) == 2


def test_a_value_without_results_is_left_out(tmp_path: Path) -> None:
    results = {**random_sweep(["2"]), "50": {}}
    descriptions, _ = read(sweep_page(results, "imbalance", "mmrec", tmp_path / "s.html", "x"))
    assert not any("at 50" in description for description in descriptions)
    descriptions, _ = read(sweep_page({"50": {}}, "imbalance", "mmrec", tmp_path / "n.html", "x"))
    assert not descriptions
