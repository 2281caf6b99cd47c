"""Pages of experiments on made-up results: true numbers, and nothing but an inert page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrec.evaluation import evaluate
from mmrec.experiments import ablation, sweep
from mmrec.experiments.report import tables
from mmrec.experiments.report.experiment_pages import ablation_page, reproduce_page, sweep_page
from mmrec.experiments.report.html import Plot, Section, write_page
from mmrec.experiments.report.tables import Table
from mmrec.experiments.reproduce import GRID
from mmrec.features.groups import FEATURE_GROUPS
from pages import EVIL, Reader, svgs


def figures(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    label = np.arange(400) % 4 > 0
    p = 1 / (1 + np.exp(-(1 + skill * (label - 0.5) + rng.normal(size=400))))
    return {**evaluate(label, p, (0.7, 0.3)).dict(), "log_loss": 0.5}


def stacks(repeats: int = 3) -> dict[str, dict[str, Any]]:
    """Both protocols; `paper` is the better one, as it leaks."""
    rng = np.random.default_rng(0)
    return {
        protocol: {
            model: {
                "remarks": [f"{protocol} remark {EVIL}"],
                "runs": [
                    {"loss": loss, "dropout": dropout}
                    | {part: figures(rng, skill + gain) for part in ("train", "valid", "test")}
                    for loss, dropout in GRID
                    for _ in range(repeats)
                ],
            }
            for model, gain in (("baseline", 0), ("proposed", 0.5))
        }
        for protocol, skill in (("paper", 2), ("honest", 1))
    }


def trials(seeds: int, *, shapley: bool = True) -> list[ablation.SeedResult]:
    groups = [group for group in FEATURE_GROUPS if group in ("ratings", "user text", "item text", "photos")]
    coalitions = [
        " + ".join(group for at, group in enumerate(groups) if 1 << at & code) for code in range(1, 16)
    ]
    names = ["everything", *(f"without {group}" for group in groups), *(f"{group} alone" for group in groups)]
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        rows = {name: figures(rng, 1.5 - 0.1 * at) for at, name in enumerate([*names, "with whole reviews"])}
        gap = dict.fromkeys(ablation.BOOTSTRAPPED_METRICS, (-0.02, -0.05, 0.01, 0.2))
        values = {some: 0.55 + 0.03 * some.count("+") + 0.01 * rng.random() for some in coalitions}
        found.append(
            {
                "groups": groups,
                "figures": rows,
                "values": values if shapley else {coalitions[-1]: 0.7},
                "bootstrap": dict.fromkeys(rows, gap) if seeds == 1 else {},
                "ratio": 0.4,
                "remarks": [f"a remark {EVIL}"],
            }
        )
    return found


def points(values: list[str]) -> sweep.SweepResults:
    rng = np.random.default_rng(0)
    return {
        value: {str(seed): {who: figures(rng, 1) for who in ("model", "bias model")} for seed in range(3)}
        for value in values
    }


def read(path: Path) -> tuple[str, str]:
    """A page, checked for what holds of all, and its text as it is shown."""
    page = path.read_text(encoding="utf-8")
    reader = Reader(page)
    reader.check()
    for svg in svgs(page):
        assert svg.get("role") == "img"
        assert len(svg.get("aria-label", "")) > 20
        assert "nan" not in svg.get("aria-label", "")
        assert svg.findtext("title") == svg.get("aria-label")
    return page, reader.shown()


def has(text: str, shown: list[Table]) -> None:
    for table in shown:
        for words in (
            table.title,
            *table.notes,
            *table.header,
            *(cell for row in table.rows for cell in row),
        ):
            assert " ".join(words.split()) in text


def test_any_page(tmp_path: Path) -> None:
    table = Table(EVIL, ["name", EVIL], [[EVIL, "1"], ["b", "2"]], frozenset({(1, 1)}), [f"a note {EVIL}"])
    plot = Plot(f"plot {EVIL}", ["<svg role='img' aria-label='an empty picture'></svg>"], f"caption {EVIL}")
    path = tmp_path / "new folder" / "page.html"
    sections = [Section(f"section {EVIL}", [f"text {EVIL}", table, plot])]
    assert write_page(path, f"title {EVIL}", sections, f"mmrec {EVIL}") == path
    reader = Reader(path.read_text(encoding="utf-8"))
    reader.check()
    for where in ("title", "section", "text", "a note", "plot", "caption", "mmrec"):
        assert f"{where} {EVIL}" in reader.text
    assert "<strong>2</strong>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("repeats", [3, 1])
def test_reproduce(tmp_path: Path, repeats: int) -> None:
    found = stacks(repeats)
    page, text = read(reproduce_page(found, tmp_path / "r.html", "mmrec reproduce"))
    has(text, tables.reproduction_tables(found))
    settings = [svg for svg in svgs(page) if "FPR at accuracy" in svg.get("aria-label", "")]
    assert len(settings) == 2
    fpr = np.mean([run["test"]["fpr"] for run in found["honest"]["proposed"]["runs"][:repeats]])
    assert f"honest basic 0.1 {fpr:.1%} at" in settings[1].get("aria-label", "")
    gaps = [
        run["test"]["fpr"] - other["test"]["fpr"]
        for run, other in zip(*(found[name]["proposed"]["runs"] for name in found), strict=True)
    ]
    (leak,) = [svg for svg in svgs(page) if svg.get("aria-label", "").startswith("FPR, points")]
    assert f"proposed {100 * np.mean(gaps):+.1f}".replace("-", "−") in leak.get("aria-label", "")


def test_reproduce_of_one_protocol(tmp_path: Path) -> None:
    page, text = read(reproduce_page({"honest": stacks()["honest"]}, tmp_path / "r.html", "x"))
    assert len(svgs(page)) == 2
    assert "leak" not in text.lower()


@pytest.mark.parametrize("seeds", [3, 1])
def test_ablation(tmp_path: Path, seeds: int) -> None:
    found = trials(seeds)
    page, text = read(ablation_page(found, "proposed", tmp_path / "a.html", "mmrec ablate"))
    has(text, ablation.tables(found))
    assert "What the inputs of proposed add" in text
    told = [svg.get("aria-label", "").replace("−", "-") for svg in svgs(page)]
    alone = {name: one for name, one, _ in ablation.metric_rows(found, "auc")}["photos alone"][0]
    shares = ablation.shapley_values(found)["photos"][0]
    assert any(f"photos alone {alone - 0.5:+.3f}" in label for label in told)
    assert any(f"photos {shares:+.3f}" in label for label in told)
    assert any("with whole reviews" in label for label in told)
    assert len(told) == 4 + (seeds > 1)  # with one seed there is no synergy


def test_ablation_without_coalitions(tmp_path: Path) -> None:
    page, text = read(ablation_page(trials(1, shapley=False), "mmrec", tmp_path / "a.html", "x"))
    assert len(svgs(page)) == 3
    assert "Shapley" not in text


@pytest.mark.parametrize("values", [["2", "5", "10"], [f"openai:{EVIL}", "builtin"]])
def test_sweep(tmp_path: Path, values: list[str]) -> None:
    found = points(values)
    page, text = read(sweep_page(found, "llm", "mmrec", tmp_path / "s.html", "mmrec sweep"))
    has(text, [sweep.sweep_table(found, "llm")])
    mean = np.mean([point["model"]["auc"] for point in found[values[1]].values()])
    assert f"mmrec at {values[1]} {mean:.3f} ±" in svgs(page)[0].get("aria-label", "")
    assert len(svgs(page)) == 2


def test_sweep_without_a_point(tmp_path: Path) -> None:
    found = {**points(["2"]), "50": {}}
    _, text = read(sweep_page(found, "imbalance", "mmrec", tmp_path / "s.html", "x"))
    assert "50" in text
    assert not svgs(sweep_page({"50": {}}, "imbalance", "mmrec", tmp_path / "n.html", "x").read_text())
