"""One setting over values: points are what they say, found again, and compared on rows that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boards import SMALL, board
from mmrec.cache.store import Store
from mmrec.cli import main
from mmrec.config import Config, EvidenceConfig, RankerConfig
from mmrec.data import Reviews
from mmrec.encoder.text_encoder import Encoder
from mmrec.errors import ConfigError
from mmrec.experiments import sweep as sweeping
from mmrec.experiments.checkpoint import latest_results
from mmrec.experiments.sweep import SWEPT_SETTINGS, drop_dislikes, sweep, sweep_table
from mmrec.features.dataset import Models
from mmrec.pipeline import open_models, prepare_data

pytestmark = pytest.mark.usefixtures("one_thread")

BASELINE = SMALL.model_copy(
    update={
        "ranker": RankerConfig(features="baseline", embedding_size=4, hidden_size=8),
        "training": SMALL.training.model_copy(update={"epochs": 2}),
    }
)


@pytest.fixture(scope="module")
def models(encoder: Encoder) -> Models:
    return open_models(BASELINE, store=Store(None))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Reviews:
    return board(tmp_path_factory.mktemp("board"))


def test_dislikes_are_left_out_of_what_is_known_and_of_nothing_else(reviews: Reviews, models: Models) -> None:
    whole = prepare_data(reviews, BASELINE, models)
    label, split = whole.label, whole.split
    found = {ratio: drop_dislikes(prepare_data(reviews, BASELINE, models), ratio) for ratio in (2.0, 3.0)}
    for ratio, thin in found.items():
        assert thin is not None
        assert np.array_equal(thin.split.test, split.test)
        for before, after in ((split.train, thin.split.train), (split.valid, thin.split.valid)):
            assert np.array_equal(after[label[after]], before[label[before]])
            assert len(after) == label[before].sum() + round(label[before].sum() / ratio)
        gone = np.setdiff1d(split.evidence_rows, thin.split.evidence_rows)
        assert not label[gone].any()
        heard = np.concatenate([*thin.evidence.user.review_sets(), *thin.evidence.item.review_sets()])
        assert not np.isin(heard, gone).any()
        assert np.array_equal(thin.dataset.part, thin.evidence.fold)
    two, three = found[2.0], found[3.0]
    assert two is not None
    assert three is not None
    assert np.isin(three.split.evidence_rows, two.split.evidence_rows).all()


def test_what_the_data_cannot_give_is_left_out(reviews: Reviews, models: Models) -> None:
    prepared = prepare_data(reviews, BASELINE, models)
    assert drop_dislikes(prepared, 0.5) is None
    assert drop_dislikes(prepared, 1000) is None


def test_points_are_kept_and_found_again(
    reviews: Reviews, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, int]] = []

    def fake(prepared: Any) -> dict[str, dict[str, float]]:
        assert len(np.unique(prepared.evidence.fold)) == prepared.config.evidence.folds + 2
        tried.append((prepared.config.evidence.folds, prepared.config.seed))
        figures = {"auc": 0.5 + 0.1 * prepared.config.seed, "fpr_at_90": 0.4, "ap_negative": 0.3}
        return {"model": figures, "bias model": figures}

    monkeypatch.setattr(sweeping, "_point", fake)
    path = tmp_path / "out" / "sweep-K.json"
    first = sweep(reviews, BASELINE, models, path, "K", ["2", "4"], 1)
    assert tried == [(2, 3), (4, 3)]
    again = sweep(reviews, BASELINE, models, path, "K", ["4", "2"], 2)
    assert tried[2:] == [(4, 4), (2, 4)]
    assert list(again) == ["4", "2"]
    assert again["2"].keys() == {"3", "4"}
    assert first["2"]["3"] == again["2"]["3"]
    assert latest_results(path) == again
    rows = sweep_table(again, "K").rows
    assert [row[:3] for row in rows[:2]] == [["4", who, "0.8500 ±0.0500"] for who in ("model", "bias model")]
    fewer = sweep_table({"2": {}, "3": {"3": again["2"]["3"]}, "5": again["2"]}, "K").rows
    assert [row[0] for row in fewer] == ["3 (1 of 2)", "3 (1 of 2)", "5", "5"]


def test_a_value_that_a_setting_does_not_take_is_refused(
    reviews: Reviews, models: Models, tmp_path: Path
) -> None:
    for over, value in (("K", "1"), ("K", "ten"), ("policy", "none"), ("imbalance", "0"), ("imbalance", "x")):
        with pytest.raises(ConfigError, match="usual values are"):
            sweep(reviews, BASELINE, models, tmp_path / "sweep.json", over, [value], 1)


def test_usual_values_are_taken_by_the_settings() -> None:
    for over in ("K", "policy", "reduction"):
        for value in SWEPT_SETTINGS[over][2]:
            sweeping._set(Config(evidence=EvidenceConfig(folds=7)), over, value)


def test_commands_from_a_file_to_figures(
    reviews: Reviews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "2", "--folds", "2", "--hidden-size", "8", "--embedding-size", "4"]
    with pytest.raises(SystemExit) as left:
        main(["sweep", reviews.source, "--over", "llm", *small])
    assert left.value.code == 2
    assert "needs --values" in capsys.readouterr().err
    over = ["--over", "policy", "--values", "fold", "all", "--seeds", "2"]
    with pytest.raises(SystemExit) as left:
        main(["sweep", reviews.source, *over, *small])
    assert left.value.code == 0
    said = capsys.readouterr()
    assert "`proposed`" in said.err
    assert [word for word in ("fold", "all", "bias model") if word not in said.out] == []
    with pytest.raises(SystemExit):
        main(
            [
                "ablate",
                reviews.source,
                "--model",
                "proposed",
                "--seeds",
                "2",
                "--compare",
                "none",
                "--json",
                *small,
            ]
        )
    found = json.loads(capsys.readouterr().out)
    assert found["shapley"] == {}
    assert found["rows"]["auc"][0][0] == "everything"
    assert latest_results(tmp_path / "ablation" / "ablation.json").keys() == {"0", "1"}
