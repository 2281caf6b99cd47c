"""Every command as a user types it, on a small Sample City."""

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.cli.options import print_json
from mmrec.cli.recommend import print_recommendations
from mmrec.data.synthetic.city import write_sample_city
from mmrec.evidence.policies import NO_GROUP, EvidenceViews
from serving import command, mmrec

pytestmark = pytest.mark.usefixtures("minilm")


@dataclass(frozen=True)
class City:
    """A folder with city/reviews.jsonl, city/places.jsonl, and a model of them with what `fit` printed."""

    folder: Path
    data: Path
    reviews: list[dict]
    result: dict

    def run(self, *words):
        run = command(*words, cwd=self.folder)
        assert run.returncode == 0, run.stderr
        return run

    def recommend(self, *words):
        run = self.run("recommend", "model", *words, "--json")
        rows = json.loads(run.stdout)["recommendations"]
        assert rows
        return rows


@pytest.fixture(scope="module")
def city(one_thread, tmp_path_factory):
    folder = tmp_path_factory.mktemp("city")
    data = write_sample_city(folder / "city", users=80, items=30, reviews=700)
    reviews = [json.loads(line) for line in data.read_text().splitlines()]
    city = City(folder, data, reviews, {})
    run = city.run("fit", data, "--items", "city/places.jsonl", "--out", "model", "--json")
    city.result.update(json.loads(run.stdout))
    return city


def test_fit_compares_all_models_and_audits_their_evidence(city):
    baselines = ["always like", "user mean", "item mean", "user + item mean", "bias model"]
    metrics = city.result["test"]
    assert list(metrics) == [*baselines, "baseline", "proposed", "mmrec"]
    assert metrics["always like"]["auc"] == 0.5
    assert metrics["always like"]["fpr"] == 1.0
    # So few reviews prove nothing.
    verdict = city.result["verdict"]
    assert verdict["model"] == "bias model"
    assert "it takes the place of mmrec" in verdict["sentence"]
    card = (city.folder / "model/README.md").read_text()
    body = card.split("# A recommender made of reviews")[1]
    assert body.strip().startswith(f"**{verdict['sentence']}**")
    assert "| **bias model** |" in body
    # Wide enough for other processors and versions, narrow enough to catch a feature that is lost.
    auc = {"bias model": 0.611, "baseline": 0.563, "proposed": 0.621, "mmrec": 0.667}
    assert {name: metrics[name]["auc"] for name in auc} == pytest.approx(auc, abs=0.025)
    assert set(city.result["audit"]) == {"baseline", "proposed", "mmrec", "lists"}
    assert all("held" in outcome for outcome in city.result["audit"].values())
    report = (city.folder / "model/report.html").read_text()
    assert len(report) > 50_000
    assert report.index(verdict["sentence"][:60]) < report.index("At a setting that keeps 90%")
    lists = city.result["lists"]
    assert lists["judge"] == "bias model"
    assert list(lists["metrics"]) == ["popularity", "item-kNN", "RP3beta", "EASE", "mmrec"]
    assert all(0 < values["recall"] <= 1 for values in lists["metrics"].values())
    difference = lists["differences"]["mmrec"]["recall"]
    assert difference["low"] < difference["high"]


def test_a_failed_audit_is_an_error_and_a_good_model_stays(city, monkeypatch):
    city.run("fit", city.data, "--out", "good", "--epochs", 1)
    before = files_of(city.folder / "good")
    excluding = EvidenceViews.excluding

    def leaking(entity, evidence_rows, group, by_fold=False):
        views = excluding(entity, evidence_rows, group, by_fold)
        return replace(views, excluded_from=np.full_like(views.excluded_from, NO_GROUP))

    monkeypatch.setattr(EvidenceViews, "excluding", staticmethod(leaking))
    run = command("fit", city.data, "--out", "good", "--epochs", 1, cwd=city.folder)
    assert run.returncode == 2
    assert "is in its own evidence" in run.stderr
    assert "Nothing was saved" in run.stderr
    assert files_of(city.folder / "good") == before


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_second_fit_finds_all_results_in_the_store_and_lists_bad_rows(city):
    bad_rows = '{"user_id": "u", "business_id": "b", "rating": 7}\n{broken\n'
    (city.folder / "mixed.jsonl").write_text(city.data.read_text() + bad_rows)
    flags = ("--items", "city/places.jsonl", "--select", "test", "--epochs", 2)
    run = city.run("fit", "mixed.jsonl", "--out", "second", *flags)
    assert "encoding" not in run.stderr
    assert "reading reviews" not in run.stderr
    lists, pairs = run.stdout.index("recall@20"), run.stdout.index("AP-")
    assert run.stdout.startswith(("Use", "Bring"))
    assert lists < run.stdout.index("RP3beta") < pairs < run.stdout.index("proposed")
    rejects = (city.folder / "second/rejects.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, rejects) if not row["reason"].startswith("photo")]
    assert [row["line"] for row in rows] == [len(city.reviews) + 1, len(city.reviews) + 2]
    assert "second/rejects.jsonl" in run.stderr
    # A model selected on test rows says so in every output.
    evaluated = city.run("evaluate", "second", "--json")
    outputs = [run.stderr, evaluated.stderr, *json.loads(evaluated.stdout)["remarks"]]
    outputs.append((city.folder / "second/report.html").read_text())
    assert len(outputs) == 4
    assert all("chosen on test rows" in " ".join(text.split()) for text in outputs)


def test_recommend_gives_a_known_user_new_items_with_reasons(city):
    user = city.reviews[0]["user_id"]
    rows = city.recommend("--user", user, "--n", 5, "--why")
    assert len(rows) == 5
    reviewed = {review["business_id"] for review in city.reviews if review["user_id"] == user}
    assert not {row["item"] for row in rows} & reviewed
    texts = " ".join(review["review_text"] for review in city.reviews)
    assert any(row["why"]["quotes"] for row in rows)
    for row in rows:
        assert row["name"]
        assert all(quote["text"] in texts for quote in row["why"]["quotes"])


def test_recommend_prints_the_terms_of_a_probability_and_says_that_a_user_is_unknown(city):
    run = city.run("recommend", "model", "--likes", "ramen, cheap", "--n", 2, "--why")
    assert "For ramen, cheap" in run.stdout
    assert "Understood: cheap; ramen" in run.stdout
    assert "its ratings" in run.stdout
    assert re.search(r"^  \+ Liked by .* reviewers$", run.stdout, re.MULTILINE)
    assert re.search(r"” \(\w+, [1-5] stars?, \d+ \w{3} 20\d\d\)$", run.stdout, re.MULTILINE)
    run = city.run("recommend", "model", "--user", "stranger")
    assert "stranger has written no review here" in run.stderr
    assert "Ordered by what people choose and by the probability" in " ".join(run.stdout.split())


def test_an_empty_list_says_what_to_change(capsys):
    print_recommendations(pl.DataFrame(), "For ann")
    assert "No item fits; a higher --max-fpr" in " ".join(capsys.readouterr().out.split())


def test_recommend_applies_its_filters_and_writes_the_lists_of_everyone(city):
    flags = ("--price", "cheap price", "fair price", "--max-fpr", 0.9, "--diversity", 0.5, "--n", 50)
    prices = {row["price"] for row in city.recommend("--user", city.reviews[0]["user_id"], *flags)}
    assert prices <= {"cheap price", "fair price"}
    run = city.run("recommend", "model", "--everyone", "all.parquet", "--n", 3)
    assert "rows for 80 users" in run.stdout
    lists = pl.read_parquet(city.folder / "all.parquet")
    rows = city.recommend("--user", lists["user"][0], "--n", 3)
    assert lists["item"].head(3).to_list() == [row["item"] for row in rows]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--user ann --price cheapo", "--price cheapo: Input should be 'cheap price', 'fair price'"),
        ("--user ann --category nope", "no item has it; categories are"),
        ("--user ann --n 0", "--n 0: Input should be greater than or equal to 1"),
        ("--user ann --max-fpr 2", "--max-fpr 2: Input should be less than or equal to 1"),
        ("--user ann --caution inf", "--caution inf: Input should be a finite number"),
        ("--user ann --diversity -1", "--diversity -1: Input should be greater than or equal to 0"),
        ("--everyone all.parquet --why", "--everyone goes with"),
        ("--everyone all.csv", "lists are Parquet; name it .parquet"),
        ("--everyone no/folder/x.parquet", "there is no such folder"),
        ("--everyone model", "--everyone model: this is a folder; name a file"),
        ("--everyone /dev/full", "--everyone /dev/full: cannot be written"),
    ],
)
def test_recommend_refuses_impossible_flags(city, flags, message):
    run = command("recommend", "model", *flags.split(), cwd=city.folder)
    assert run.returncode == 2
    assert message in " ".join(run.stderr.replace("│", " ").split())


def test_evaluate_measures_new_reviews_and_leaves_out_seen_ones(city):
    again = city.run("evaluate", "model", "--json")
    assert json.loads(again.stdout)["scores"] == city.result["test"]
    rows = city.reviews[:60]
    new = [row | {"user_id": f"new {number}"} for number, row in enumerate(rows)]
    (city.folder / "new.jsonl").write_text("\n".join(map(json.dumps, rows[:10] + new)))
    run = city.run("evaluate", "model", "new.jsonl", "--json")
    scores = json.loads(run.stdout)["scores"]
    result = json.loads(run.stdout)
    assert list(scores) == ["always like", "user mean", "item mean", "user + item mean", "bias model"]
    assert {row["rows"] for row in scores.values()} == {60}
    assert scores["always like"]["fpr"] == 1
    # Peers are fitted on the reviews that the model knows, so new users have nothing but the mean.
    assert scores["user mean"]["auc"] == 0.5
    assert scores["item mean"]["auc"] > 0.6
    value, low, high = result["intervals"]["item mean"]["auc"]
    assert low < value < high
    assert value == pytest.approx(scores["item mean"]["auc"])
    gap = result["differences"]["item mean"]["auc"]
    assert gap["mean"] == pytest.approx(value - scores["bias model"]["auc"])
    assert "60 new reviews" in result["verdict"]["sentence"]
    assert "difference" in city.run("evaluate", "model", "new.jsonl").stdout
    assert "10 reviews that the model has seen were left out" in run.stderr
    seen = command("evaluate", "model", city.data, cwd=city.folder)
    assert seen.returncode == 2
    assert "need both likes and dislikes" in seen.stderr


def test_doctor_checks_this_machine(tmp_path):
    checks = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    assert checks["encoder"]["state"] == "ok"
    assert "builtin" in checks["language"]["detail"]
    assert {"machine", "OpenAI", "Ollama", "captions", "service", "PostgreSQL", "store"} <= set(checks)
    assert "encoder" in command("doctor", cwd=tmp_path).stdout


def test_help_lists_commands_and_settings_and_imports_no_command(tmp_path):
    script = "import sys, mmrec.cli\ntry: mmrec.cli.main(['--help'])\nfinally: print(*sys.modules)"
    run = mmrec(program=[sys.executable, "-c", script], cwd=tmp_path)
    assert all(name in run.stdout for name in ("demo", "fit", "annotate", "evaluate", "recommend", "doctor"))
    modules = run.stdout.split()
    assert "mmrec.cli" in modules
    slow = {"torch", "polars", "numpy", "sklearn", "mmrec.cli.fit", "mmrec.config"}
    assert slow & {*modules} == set()
    settings = command("fit", "--help", cwd=tmp_path).stdout
    assert all(flag in settings for flag in ("--max-reject-share", "--item-kind", "--policy", "--photos"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fit absent.jsonl", "absent.jsonl"),
        ("fit a:b:c[red].csv", "a:b:c[red].csv"),  # neither an emoji nor a color
        ("fit bad.jsonl", "--max-reject-share"),
        ("fit tiny.jsonl", "--min-reviews"),
        ("fit tiny.jsonl --map rating=stars", "stars"),
        ("fit tiny.jsonl --map=rating=stars", "stars"),
        ("recommend no-model --user x", "no model.json here"),
        ("evaluate no-model", "no model.json here"),
        ("fit tiny.jsonl --test-share 3", "--test-share 3: Input should be less than 1"),
        ("fit tiny.jsonl --out bad.jsonl", "--out bad.jsonl: File exists; name another folder"),
        ("sweep tiny.jsonl --over llm", "--over llm needs --values"),
        ("ablate tiny.jsonl --seeds 0", 'Invalid value "0" for --seeds'),
    ],
)
def test_an_error_of_the_user_is_printed_as_a_sentence(tmp_path, words, message):
    (tmp_path / "bad.jsonl").write_text('{"user": "u", "item": "i", "rating": 9}\n' * 3)
    (tmp_path / "tiny.jsonl").write_text('{"user": "u", "item": "i", "rating": 4}\n')
    # One as a process of its own, which loads few libraries.
    run = (mmrec if words.startswith("recommend") else command)(*words.split(), cwd=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_json_has_no_infinity(capsys):
    print_json({"threshold": float("inf"), "rates": [0.5, float("nan")], "path": Path("here")})
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result == {"threshold": None, "rates": [0.5, None], "path": "here"}
