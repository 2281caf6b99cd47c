"""One setting over several values: what is dropped, what is found again, and the commands."""

import json
from itertools import product

import numpy as np
import pytest

from checkerboard import SMALL, checkerboard
from mmrec.cache.store import Store
from mmrec.cli import main
from mmrec.config import Config, EvidenceConfig, RankerConfig
from mmrec.errors import ConfigError
from mmrec.experiments import sweep as experiment
from mmrec.experiments.checkpoint import Checkpoint, latest_results
from mmrec.experiments.sweep import SWEPT_SETTINGS, drop_dislikes, sweep, sweep_table
from mmrec.pipeline import open_models, prepare_data
from pages import EVIL, assert_shown, read_page

RANKER = RankerConfig(features="baseline", embedding_size=4, hidden_size=8)
TRAINING = SMALL.training.model_copy(update={"epochs": 2})
BASELINE = SMALL.model_copy(update={"ranker": RANKER, "training": TRAINING})


@pytest.fixture(scope="module")
def models(encoder):
    return open_models(BASELINE, store=Store(None))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


def test_dislikes_are_dropped_from_evidence_rows_alone(reviews, models):
    prepared = prepare_data(reviews, BASELINE, models)
    label, split = prepared.label, prepared.split
    rows_kept = []
    for ratio in (2.0, 3.0):
        thinned = drop_dislikes(prepare_data(reviews, BASELINE, models), ratio)
        assert np.array_equal(thinned.split.test, split.test)
        for before, after in ((split.train, thinned.split.train), (split.valid, thinned.split.valid)):
            assert np.array_equal(after[label[after]], before[label[before]])
            assert len(after) == label[before].sum() + round(label[before].sum() / ratio)
        dropped = np.setdiff1d(split.evidence_rows, thinned.split.evidence_rows)
        assert not label[dropped].any()
        evidence = [*thinned.evidence.user.review_sets(), *thinned.evidence.item.review_sets()]
        assert not np.isin(np.concatenate(evidence), dropped).any()
        assert np.array_equal(thinned.dataset.part, thinned.evidence.fold)
        rows_kept.append(thinned.split.evidence_rows)
    assert np.isin(rows_kept[1], rows_kept[0]).all(), "what is kept at a ratio is kept at every lower one"
    for ratio in (0.5, 1000):  # which the data do not have
        assert drop_dislikes(prepare_data(reviews, BASELINE, models), ratio) is None


def test_finished_seeds_are_found_again(reviews, models, tmp_path, monkeypatch):
    computed = []

    def record(reviews, config, models, ratio):
        computed.append((config.evidence.folds, config.seed))
        metrics = {"auc": 0.5 + 0.1 * config.seed, "fpr_at_90": 0.4, "ap_negative": 0.3}
        return {"model": metrics, "bias model": metrics}

    monkeypatch.setattr(experiment, "_train_and_evaluate", record)
    path = tmp_path / "out" / "sweep-K.json"
    first = sweep(Checkpoint(path, reviews, BASELINE, models), "K", ["2", "4"], 1)
    assert computed == [(2, 3), (4, 3)]
    again = sweep(Checkpoint(path, reviews, BASELINE, models), "K", ["4", "2"], 2)
    assert computed[2:] == [(4, 4), (2, 4)]
    assert list(again) == ["4", "2"]
    assert again["2"].keys() == {"3", "4"}
    assert first["2"]["3"] == again["2"]["3"]
    assert len(latest_results(path)) == 4
    rows = sweep_table(again, "K").rows
    assert rows[0][:3] == ["4", "model", "0.8500 ±0.0500"]
    assert rows[1][:3] == ["4", "bias model", "0.8500 ±0.0500"]
    rows = sweep_table({"2": {}, "3": {"3": again["2"]["3"]}, "5": again["2"]}, "K").rows
    assert [row[0] for row in rows] == ["3 (1 of 2)", "3 (1 of 2)", "5", "5"]
    assert rows[0][2] == "0.8000 ±0.0000"


def test_values_reach_the_training(reviews, models, tmp_path, monkeypatch):
    folds, ratios = [], []
    monkeypatch.setattr(experiment, "drop_dislikes", lambda prepared, ratio: ratios.append(ratio))
    checkpoint = Checkpoint(tmp_path / "sweep.json", reviews, BASELINE, models)
    assert sweep(checkpoint, "imbalance", ["2", "50"], 1) == {"2": {}, "50": {}}
    assert sweep(checkpoint, "imbalance", ["2", "50"], 1) == {"2": {}, "50": {}}
    assert ratios == [2, 50]

    def record(prepared):
        folds.append(len(np.unique(prepared.evidence.fold)) - 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "train_model", record)
    with pytest.raises(KeyboardInterrupt):
        sweep(checkpoint, "K", ["5"], 1)
    assert folds == [5]


@pytest.mark.parametrize(
    ("over", "value"), [("K", "1"), ("K", "ten"), ("policy", "none"), ("imbalance", "0"), ("imbalance", "x")]
)
def test_a_value_that_a_setting_does_not_take_is_refused(reviews, models, tmp_path, over, value):
    checkpoint = Checkpoint(tmp_path / "sweep.json", reviews, BASELINE, models)
    with pytest.raises(ConfigError, match="usual values are"):
        sweep(checkpoint, over, [value], 1)


@pytest.mark.parametrize("over", ["K", "policy", "reduction"])
def test_usual_values_are_valid(over):
    section, name, values = SWEPT_SETTINGS[over]
    assert values
    for value in values:
        changed = experiment._with_value(Config(evidence=EvidenceConfig(folds=7)), over, value)
        assert str(getattr(getattr(changed, section), name)) == value


@pytest.mark.parametrize("values", [["2", "5", "10"], [f"openai:{EVIL}", "builtin"], []])
def test_the_page(tmp_path, values):
    results = {"50": {}}  # which the data did not have
    for number, (value, seed) in enumerate(product(values, "012")):
        metrics = {"auc": 0.5 + number / 100, "fpr_at_90": 0.4, "ap_negative": 0.3}
        results.setdefault(value, {})[seed] = {"model": metrics, "bias model": metrics}
    page = experiment.sweep_page(results, "llm", "mmrec", tmp_path / "s.html", "mmrec sweep")
    descriptions, text = read_page(page)
    assert_shown([sweep_table(results, "llm")], text)
    assert len(descriptions) == (2 if values else 0)
    assert not values or f"mmrec at {values[1]} 0.540 ±" in descriptions[0]
    assert not any("at 50" in description for description in descriptions)


def run_command(*words):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--epochs", "2", "--folds", "2", "--hidden-size", "8", "--embedding-size", "4"])
    return int(stopped.value.code or 0)


def test_sweep_and_ablate_as_commands(reviews, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert run_command("sweep", reviews.source, "--over", "llm") == 2
    assert "needs --values" in capsys.readouterr().err
    over = ("--over", "policy", "--values", "fold", "all", "--seeds", "2")
    assert run_command("sweep", reviews.source, *over) == 0
    output = capsys.readouterr()
    assert "`proposed`" in output.err
    assert all(word in output.out for word in ("fold", "all", "bias model"))
    options = ("--features", "proposed", "--seeds", "2", "--compare", "none", "--json")
    assert run_command("ablate", reviews.source, *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["shapley"] == {}
    assert result["rows"]["auc"][0][0] == "everything"
    assert latest_results(tmp_path / "ablation" / "ablation.json").keys() == {"0", "1"}
