"""Every command as a user types it, on a small Sample City."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from mmrec.cli.options import print_json
from mmrec.data.synthetic.city import write_sample_city
from serving import command, mmrec

pytestmark = pytest.mark.usefixtures("minilm")


@dataclass(frozen=True)
class City:
    """A folder with city/reviews.jsonl, city/places.jsonl, and a model of them with what `fit` printed."""

    folder: Path
    data: Path
    result: dict

    @property
    def reviews(self) -> list[dict]:
        return [json.loads(line) for line in self.data.read_text().splitlines()]


@pytest.fixture(scope="module")
def city(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> City:
    folder = tmp_path_factory.mktemp("city")
    data = write_sample_city(folder / "city", users=150, items=60, reviews=1500)
    run = command("fit", data, "--items", "city/places.jsonl", "--out", "model", "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    return City(folder, data, json.loads(run.stdout))


def test_fit_compares_all_models_and_audits_their_evidence(city: City) -> None:
    baselines = ["always like", "user mean", "item mean", "user + item mean", "bias model"]
    assert list(city.result["test"]) == [*baselines, "baseline", "proposed", "mmrec"]
    assert city.result["test"]["always like"]["auc"] == 0.5
    assert city.result["test"]["always like"]["fpr"] == 1.0
    assert set(city.result["audit"]) == {"baseline", "proposed", "mmrec"}
    assert all("held" in outcome for outcome in city.result["audit"].values())
    assert (city.folder / "model/report.html").stat().st_size > 50_000


def test_metrics_on_the_sample_city_stay_in_their_range(city: City) -> None:
    # Wide enough for other processors and versions, narrow enough to catch a feature that is lost.
    metrics = city.result["test"]
    assert metrics["bias model"]["auc"] == pytest.approx(0.78, abs=0.03)
    assert metrics["baseline"]["auc"] == pytest.approx(0.77, abs=0.04)
    assert metrics["proposed"]["auc"] == pytest.approx(0.77, abs=0.04)


def test_a_second_fit_finds_all_annotations_and_vectors_in_the_store(city: City) -> None:
    again = command("fit", city.data, "--items", "city/places.jsonl", "--out", "again", cwd=city.folder)
    assert again.returncode == 0, again.stderr
    assert "encoding" not in again.stderr
    assert "reading reviews" not in again.stderr
    assert "proposed" in again.stdout


def test_recommend_gives_a_known_user_new_items_with_reasons(city: City) -> None:
    user = city.reviews[0]["user_id"]
    run = command("recommend", "model", "--user", user, "--n", 5, "--why", "--json", cwd=city.folder)
    rows = json.loads(run.stdout)["recommendations"]
    assert len(rows) == 5
    reviewed = {review["business_id"] for review in city.reviews if review["user_id"] == user}
    assert not {row["item"] for row in rows} & reviewed
    probabilities = [row["probability"] for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    texts = " ".join(review["review_text"] for review in city.reviews)
    assert any(row["why"]["quotes"] for row in rows)
    for row in rows:
        assert row["name"]
        assert all(quote["text"] in texts for quote in row["why"]["quotes"])


def test_recommend_prints_the_terms_of_a_probability(city: City) -> None:
    run = command("recommend", "model", "--likes", "ramen, cheap", "--n", 2, "--why", cwd=city.folder)
    assert run.returncode == 0, run.stderr
    assert "For ramen, cheap" in run.stdout
    assert "its ratings" in run.stdout


def test_recommend_says_that_a_user_is_unknown(city: City) -> None:
    run = command("recommend", "model", "--user", "stranger", cwd=city.folder)
    assert run.returncode == 0
    assert "stranger has written no review here" in run.stderr


def test_recommend_writes_the_lists_of_everyone(city: City) -> None:
    run = command("recommend", "model", "--everyone", "all.parquet", "--n", 3, cwd=city.folder)
    assert run.returncode == 0, run.stderr
    assert "users/s" in run.stdout
    lists = pl.read_parquet(city.folder / "all.parquet")
    single = command("recommend", "model", "--user", lists["user"][0], "--n", 3, "--json", cwd=city.folder)
    rows = json.loads(single.stdout)["recommendations"]
    assert lists["item"].head(3).to_list() == [row["item"] for row in rows]


def test_recommend_applies_its_filters(city: City) -> None:
    flags = ("--price", "cheap price", "fair price", "--max-fpr", 0.9, "--diversity", 0.5, "--n", 50)
    run = command("recommend", "model", "--user", "stranger", *flags, "--json", cwd=city.folder)
    assert run.returncode == 0, run.stderr
    prices = {row["price"] for row in json.loads(run.stdout)["recommendations"]}
    assert prices
    assert prices <= {"cheap price", "fair price"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--user", "ann", "--price", "cheapo"), "cheapo"),
        (("--user", "ann", "--category", "nope"), "nope"),
        (("--user", "ann", "--n", "0"), "--n 0"),
        (("--user", "ann", "--max-fpr", "2"), "from 0 to 1"),
        (("--everyone", "all.parquet", "--why"), "--everyone goes with"),
        (("--everyone", "no/folder/x.parquet"), "there is no folder"),
    ],
)
def test_recommend_refuses_impossible_flags(city: City, flags: tuple[str, ...], message: str) -> None:
    run = command("recommend", "model", *flags, cwd=city.folder)
    assert run.returncode == 2
    assert message in run.stderr


def test_evaluate_measures_new_reviews_and_leaves_out_seen_ones(city: City) -> None:
    again = command("evaluate", "model", "--json", cwd=city.folder)
    assert json.loads(again.stdout)["scores"] == city.result["test"]
    rows = city.reviews[:60]
    new = [row | {"user_id": f"new {number}"} for number, row in enumerate(rows)]
    (city.folder / "new.jsonl").write_text("\n".join(map(json.dumps, rows[:10] + new)))
    run = command("evaluate", "model", "new.jsonl", "--json", cwd=city.folder)
    assert json.loads(run.stdout)["scores"]["mmrec"]["rows"] == 60
    assert "10 reviews that the model has seen were left out" in run.stderr
    seen = command("evaluate", "model", city.data, cwd=city.folder)
    assert seen.returncode == 2
    assert "need both likes and dislikes" in seen.stderr


def test_doctor_checks_this_machine(tmp_path: Path) -> None:
    checks = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    assert checks["encoder"]["state"] == "ok"
    assert "builtin" in checks["language"]["detail"]
    assert {"service", "PostgreSQL", "store"} <= set(checks)
    assert "encoder" in command("doctor", cwd=tmp_path).stdout


def test_help_lists_commands_and_settings_and_imports_no_command(tmp_path: Path) -> None:
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
        (("fit", "absent.jsonl"), "absent.jsonl"),
        (("fit", "bad.jsonl"), "--max-reject-share"),
        (("fit", "tiny.jsonl"), "--min-reviews"),
        (("fit", "tiny.jsonl", "--map", "rating=stars"), "stars"),
        (("recommend", "no-model", "--user", "x"), "no model.json here"),
        (("evaluate", "no-model"), "no model.json here"),
        (("fit", "tiny.jsonl", "--test-share", "3"), "less than 1"),
        (("sweep", "tiny.jsonl", "--over", "llm"), "--over llm needs --values"),
        (("ablate", "tiny.jsonl", "--seeds", "0"), "--seeds 0"),
    ],
)
def test_an_error_of_the_user_is_printed_as_a_sentence(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"user": "u", "item": "i", "rating": 9}\n' * 3)
    (tmp_path / "tiny.jsonl").write_text('{"user": "u", "item": "i", "rating": 4}\n')
    run = command(*words, cwd=tmp_path)
    assert run.returncode != 0
    assert message in run.stderr + run.stdout
    assert "Traceback" not in run.stderr


def test_the_program_ends_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    run = mmrec("fit", "absent.jsonl", cwd=tmp_path)
    assert run.returncode == 2
    assert "absent.jsonl" in run.stderr
    assert "Traceback" not in run.stderr


def test_bad_rows_are_listed_and_cost_nothing_more(city: City) -> None:
    file = city.folder / "mixed.jsonl"
    file.write_text(city.data.read_text() + '{"user_id": "u", "business_id": "b", "rating": 7}\n{broken\n')
    run = command("fit", file, "--out", "mixed", "--epochs", 2, cwd=city.folder)
    assert run.returncode == 0, run.stderr
    rejects = [json.loads(line) for line in (city.folder / "mixed/rejects.jsonl").read_text().splitlines()]
    lines = [row["line"] for row in rejects if not row["reason"].startswith("photo")]
    assert lines == [1501, 1502]


def test_a_model_selected_on_test_rows_says_so_in_every_output(city: City) -> None:
    flags = ("--out", "paper", "--select", "test", "--epochs", 2, "--json")
    run = command("fit", city.data, *flags, cwd=city.folder)
    assert run.returncode == 0, run.stderr
    outputs = [
        " ".join(json.loads(run.stdout)["remarks"]),
        run.stderr,
        command("evaluate", "paper", cwd=city.folder).stderr,
        (city.folder / "paper/report.html").read_text(),
    ]
    assert all("chosen on test rows" in " ".join(text.split()) for text in outputs)


def test_json_has_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"threshold": float("inf"), "rates": [0.5, float("nan")], "path": Path("here")})
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result == {"threshold": None, "rates": [0.5, None], "path": "here"}
