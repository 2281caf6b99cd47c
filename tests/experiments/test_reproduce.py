"""The paper's experiment in both protocols on a small Sample City; stopping and resuming; tables by hand."""

import json
from itertools import chain, product
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from mmrec.config import Config, PaperConfig, ReadConfig
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import ConfigError, DataError
from mmrec.evaluation.statistics import paired_t_test
from mmrec.experiments import reproduce as experiment
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.reproduce import GRID, MODELS, PROTOCOLS, reproduction_tables
from mmrec.pipeline import open_models
from mmrec.ranker.training import class_weights
from pages import assert_shown, latest_results, read_page
from serving import command

REPEATS = 2
settings = PaperConfig.model_validate


@pytest.fixture(scope="module")
def city(minilm, tmp_path_factory):
    """A small city, and the results of both protocols on it without a stop."""
    folder = tmp_path_factory.mktemp("city")
    data = write_sample_city(folder, seed=3, users=40, items=16, reviews=260)
    reviews = read_reviews(data, ReadConfig(items=folder / "places.jsonl"))
    config = {"store": folder / "store.sqlite", "evidence": {"folds": 3}, "training": {"epochs": 2}}
    config = settings(config)
    checkpoint = Checkpoint(folder / "out/reproduce.json", reviews, config, open_models(config))
    stacks = experiment.reproduce(checkpoint, REPEATS, list(PROTOCOLS))
    protocols = {name: experiment.prepare_protocol(checkpoint, name) for name in PROTOCOLS}
    return SimpleNamespace(folder=folder, checkpoint=checkpoint, stacks=stacks, protocols=protocols)


def test_every_setting_is_trained_with_the_same_seeds_in_both_protocols(city):
    assert list(city.stacks) == list(PROTOCOLS)
    seeds = set()
    for protocol, stacks in city.stacks.items():
        assert list(stacks) == list(MODELS)
        for stack in stacks.values():
            runs = stack["runs"]
            grid = [setting for setting in GRID for _ in range(REPEATS)]
            assert [(run["loss"], run["dropout"]) for run in runs] == grid
            seeds.add(tuple(run["seed"] for run in runs))
            assert len({run["seed"] for run in runs}) == REPEATS
            assert stack["seconds"] > 0
            assert stack["epochs"]["ranker"] == max(run["epochs"] for run in runs) == 2
            assert all(0 <= run["best"] < run["epochs"] for run in runs)
            assert ("valid" in runs[0]) == (protocol == "honest")
    assert len(seeds) == 1


def test_protocols_share_their_test_rows_and_paper_trains_on_all_others(city):
    paper, honest = city.protocols.values()
    assert np.array_equal(paper.split.test, honest.split.test)
    assert paper.reviews.table.equals(honest.reviews.table)
    assert len(paper.split.valid) == len(paper.split.filtered_rows) == len(honest.split.filtered_rows) == 0
    assert np.array_equal(paper.split.train, np.sort(np.r_[honest.split.train, honest.split.valid]))
    assert np.array_equal(paper.evidence.evidence_rows, paper.split.train)
    row, data = int(paper.split.train[0]), paper.dataset.data
    for views, entity in ((paper.evidence.user, data.user), (paper.evidence.item, data.item)):
        expected = [other for other in paper.split.train if entity[other] == entity[row] and other != row]
        assert sorted(views.members(views.view[row])) == sorted(expected)
    assert (paper.config.evidence.policy, paper.config.evidence.summaries) == ("leave_one_out", "all")
    assert (honest.config.evidence.policy, honest.config.evidence.summaries) == ("fold", "policy")
    assert (paper.config.training.select, honest.config.training.select) == ("test", "valid")
    for config in (paper.config, honest.config):
        assert not config.evidence.filtered_rows
        assert (config.training.learning_rate, config.training.weight_decay) == (0.01, 0.0)
    rows = {name: city.stacks[name]["baseline"]["rows"] for name in PROTOCOLS}
    assert rows["paper"] == {"train": len(paper.split.train), "test": len(paper.split.test)}
    assert rows["honest"]["test"] == rows["paper"]["test"]


def test_the_score_of_the_epoch_is_the_metric_that_chooses_it(city):
    """The class weights of each run are removed and applied again in the same way."""
    for model in MODELS:
        for run in city.stacks["honest"][model]["runs"]:
            assert run["score"] == pytest.approx(-run["valid"]["loss"], abs=1e-4)
            assert run["valid"]["log_loss"] != pytest.approx(run["valid"]["loss"], abs=1e-4)
        for run in city.stacks["paper"][model]["runs"]:
            assert run["score"] == pytest.approx(-run["test"]["fpr"], abs=2e-6)


def test_runs_are_trained_with_the_settings_of_the_grid(city, monkeypatch):
    train_runs = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(experiment, "train_runs", train_runs)
    with pytest.raises(KeyboardInterrupt):
        experiment._train_stack(city.protocols.get, "honest", "baseline", REPEATS)
    prepared, builder, _, runs = train_runs.call_args.args
    assert builder.config.ranker.features == "baseline"
    assert [run.seed for run in runs] == [run["seed"] for run in city.stacks["honest"]["baseline"]["runs"]]
    weights = {loss: class_weights(prepared.label[prepared.split.train], loss) for loss, _ in GRID}
    expected = [(weights[loss], dropout) for loss, dropout in GRID for _ in range(REPEATS)]
    assert [(run.class_weights, run.dropout) for run in runs] == expected
    assert weights["basic"] != weights["sqrt"]


def test_remarks_flag_the_leaks_of_paper_and_none_of_honest(city):
    for model in MODELS:
        paper, honest = (" ".join(city.stacks[name][model]["remarks"]) for name in PROTOCOLS)
        assert "chosen on test" in paper
        assert "leaks the label" in paper
        assert "test" not in honest


@pytest.fixture
def trained(monkeypatch):
    """The models that would have been trained; nothing is."""
    train = Mock(return_value={"runs": []})
    monkeypatch.setattr(experiment, "_train_stack", train)
    return train


@pytest.fixture
def path(tmp_path):
    (tmp_path / "few.jsonl").write_text('{"user": "u", "item": "i", "rating": 4}\n')
    return tmp_path / "reproduce.json"


def run_quickly(path, config=None, repeats=1, protocols=("paper",)):
    models = SimpleNamespace(image_encoder=SimpleNamespace(available=lambda: False))
    reviews = read_reviews(path.parent / "few.jsonl")
    checkpoint = Checkpoint(path, reviews, settings(config or {}), models)
    return experiment.reproduce(checkpoint, repeats, [*protocols])


def test_a_stop_costs_only_the_stack_that_was_training(path, trained):
    trained.side_effect = [{"runs": []}, KeyboardInterrupt, {"runs": []}]
    with pytest.raises(KeyboardInterrupt):
        run_quickly(path)
    assert list(latest_results(path)) == ["seed 0, 1 repeats, paper, baseline"]
    run_quickly(path)
    assert [call.args[2] for call in trained.call_args_list] == ["baseline", "proposed", "proposed"]


def test_other_protocols_settings_repeats_or_reviews_are_trained_and_earlier_results_are_kept(
    path, trained, capsys
):
    other, counts = {"training": {"epochs": 7}}, []
    run_quickly(path, protocols=["honest"])
    results = run_quickly(path, protocols=PROTOCOLS)
    assert [call.args[1:3] for call in trained.call_args_list] == [*product(("honest", "paper"), MODELS)]
    assert [list(stacks) for stacks in results.values()] == [list(MODELS)] * 2
    run_quickly(path, other)
    counts.append(trained.call_count)
    assert "everything is computed anew" in " ".join(capsys.readouterr().err.split())
    assert run_quickly(path, protocols=PROTOCOLS) == results
    counts.append(trained.call_count)
    for row in ("", '{"user": "v", "item": "i", "rating": 2}\n'):
        with path.parent.joinpath("few.jsonl").open("a") as file:
            file.write(row)
        run_quickly(path, other, 2)
        counts.append(trained.call_count)
    assert counts == [6, 6, 8, 10]


@pytest.mark.parametrize(
    ("config", "repeats", "protocols", "message"),
    [
        ({}, 1, ("papre",), "papre: name paper, honest, or both"),
        ({}, 1, ("paper", ""), "name paper, honest, or both"),
        ({}, 0, ("paper",), "--repeats 0"),
        ({"evidence": {"policy": "fold"}}, 1, ("paper",), "--policy: protocols and grid decide that"),
        ({"evidence": {"summaries": "all", "filtered_rows": True}}, 1, ("paper",), "--summaries, --filtered"),
        ({"ranker": {"features": "proposed", "dropout": 0.2}}, 1, ("paper",), "--features, --dropout"),
        ({"training": {"select": "test", "loss": "sqrt"}}, 1, ("honest",), "--loss, --select"),
    ],
)
def test_impossible_settings_are_refused_with_the_remedy(path, trained, config, repeats, protocols, message):
    with pytest.raises(ConfigError, match=message):
        run_quickly(path, config, repeats, protocols)
    assert not path.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"results": {}}'])
def test_a_file_that_is_no_checkpoint_is_left_alone(path, content):
    path.write_text(content)
    with pytest.raises(DataError, match="--out"):
        run_quickly(path)
    assert path.read_text() == content


def test_defaults_are_the_paper_s_where_it_names_them():
    paper, usual = PaperConfig().model_dump(), Config().model_dump()
    changed = {
        ("annotation", "strategy"): "summary",
        ("ranker", "reduction"): "staged",
        ("training", "learning_rate"): 0.01,
        ("training", "weight_decay"): 0.0,
        ("training", "cold_start_dropout"): 0.0,
        ("training", "epochs"): 300,
        ("training", "patience"): 50,
    }
    for (section, name), value in changed.items():
        assert paper[section].pop(name) == value
        del usual[section][name]
    assert paper == usual
    assert paper["ranker"]["embedding_size"] == 32


def test_help_shows_the_paper_s_defaults_and_hides_the_fixed_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = command("reproduce", "--help", cwd=tmp_path).stdout
    shown = ("--repeats", "--protocols", "--strategy", "--folds", "--epochs", "[default: 300]")
    assert all(words in text for words in shown)
    assert not any(f"--{name.replace('_', '-')} " in text for name in PaperConfig.fixed_fields)
    assert "--policy" in command("fit", "--help", cwd=tmp_path).stdout, "other commands keep their flags"


def test_the_command_prints_json_or_tables_and_finds_finished_stacks(city):
    options = {"--items": "places.jsonl", "--repeats": REPEATS, "--epochs": 2, "--folds": 3}
    options |= {"--store": "store.sqlite", "--out": "out"}
    words = ("reproduce", "reviews.jsonl", *chain.from_iterable(options.items()))
    printed, tables, refused = (
        command(*words, *more, cwd=city.folder) for more in (["--json"], [], ["--policy", "all"])
    )
    assert (printed.returncode, tables.returncode, refused.returncode) == (0, 0, 2)
    result = json.loads(printed.stdout, parse_constant=pytest.fail)
    assert (result["seed"], result["repeats"]) == (0, REPEATS)
    assert result["stacks"] == city.stacks
    assert "runs as one" not in tables.stderr
    text = " ".join(tables.stdout.split())
    assert all(title in text for title in ("Table 1", "Table 2", "Size of the leak", "31.74%", "Kaggle"))


def metrics_by_hand(protocol, model, setting, repeat):
    paper, proposed = protocol == "paper", model == "proposed"
    return {
        "accuracy": 0.8 + 0.01 * setting + (0.02 if paper else 0.01) * repeat,
        "fpr": 0.3 - 0.02 * setting - 0.1 * proposed + (0.01 * (2 * repeat - 1) if paper else 0.1),
        "loss": 0.5 + 0.1 * repeat,
        "auc": 0.7 + 0.05 * paper + 0.01 * setting + 0.02 * repeat * paper,
        "log_loss": 0.4 + 0.1 * abs(setting - 2),
    }


def stacks_by_hand(repeats=2):
    """Stacks with the same metrics on all parts."""
    stacks = {protocol: {} for protocol in PROTOCOLS}
    for protocol, model in product(PROTOCOLS, MODELS):
        runs = []
        for setting, repeat in product(range(len(GRID)), range(repeats)):
            metrics = metrics_by_hand(protocol, model, setting, repeat)
            runs.append(dict.fromkeys(("train", "valid", "test"), metrics))
        stacks[protocol][model] = {"remarks": [f"a remark on {protocol}"], "runs": runs}
    return stacks


def cell(table, row, title):
    return table.rows[row][table.header.index(title)]


def test_tables_by_hand():
    train, test, leak = reproduction_tables(stacks_by_hand())
    assert (train.title, test.title) == ("Table 1: train reviews", "Table 2: test reviews")
    settings = [[model, loss, f"{dropout}"] for model in MODELS for loss, dropout in GRID]
    assert [row[:3] for row in test.rows] == settings
    # .80 and .82, of which the deviation is .01 times the root of two.
    assert cell(test, 0, "paper acc. %") == "81.0 ±1.4"
    assert cell(test, 11, "honest FPR %") == "20.0 ±0.0"
    assert cell(train, 5, "paper loss") == "0.550 ±0.071"
    bold = {(row, test.header[column]) for row, column in test.bold}
    best_rows = {"paper acc. %": {5, 11}, "honest FPR %": {11}, "paper loss": set(range(12))}
    for title, rows in best_rows.items():
        assert {row for row, bold_title in bold if bold_title == title} == rows
    published = {tuple(row[:3]): row[-1] for row in test.rows if row[-1]}
    assert published == {
        ("proposed", "basic", "0.5"): "83.48 / 18.16",
        ("baseline", "sqrt", "0.5"): "93.47 / 37.58",
    }
    assert "published acc. / FPR %" not in train.header
    remarks = [note for note in test.notes if "a remark" in note]
    assert remarks == [f"{name}: a remark on {name}" for name in PROTOCOLS]
    # paper picks the last setting, of least FPR; honest the third, of least cross entropy on valid.
    assert leak.rows[0][1] == "as picked: paper sqrt 0.5, honest basic 0.5"
    auc = paired_t_test([0.8, 0.82], [0.72, 0.72])
    assert cell(leak, 0, "ROC-AUC") == f"+0.090 [{auc.low:+.3f}, {auc.high:+.3f}]"
    assert cell(leak, 0, "FPR").startswith("-0.160 [")
    assert leak.rows[3][:2] == ["proposed", "mean of all"]
    for title, mean in (("ROC-AUC", "+0.060 ["), ("FPR", "-0.100 ["), ("accuracy", "+0.005 [")):
        assert cell(leak, 3, title).startswith(mean)


def test_a_single_repeat_has_no_interval_and_a_single_protocol_no_leak():
    stacks = stacks_by_hand(repeats=1)
    _, test, leak = reproduction_tables(stacks)
    assert cell(test, 0, "paper acc. %") == "80.0 ±0.0"
    assert cell(leak, 0, "ROC-AUC") == "+0.080"
    del stacks["honest"]
    train, test = reproduction_tables(stacks)
    assert not any("honest" in title for title in train.header)
    headers = [table.header for table in reproduction_tables({})]
    assert headers == [["model", "loss", "dropout"], ["model", "loss", "dropout", test.header[-1]]]


def test_the_page(tmp_path):
    for repeats in (1, 2):
        stacks = stacks_by_hand(repeats)
        page = experiment.reproduce_page(stacks, tmp_path / "r.html", "mmrec reproduce")
        descriptions, text = read_page(page)
        assert_shown(reproduction_tables(stacks), text)
    auc, fpr = (chart for chart in descriptions if "FPR at accuracy" not in chart)
    baseline, proposed = (chart for chart in descriptions if "FPR at accuracy" in chart)
    assert "of baseline" in baseline
    assert "; honest basic 0.1" in proposed
    test = reproduction_tables(stacks)[1]
    last = [cell(test, 11, f"honest {name} %").split()[0] for name in ("FPR", "acc.")]
    assert proposed.endswith("honest sqrt 0.5 {}% at {}%.".format(*last))
    assert "Table 1: train reviews" in text.partition("Training reviews")[2]
    assert auc.startswith("ROC-AUC;")
    assert "baseline +0.060" in auc
    assert fpr.startswith("FPR, points of 100;")
    assert "proposed −10.0" in fpr
    del stacks["paper"]
    descriptions, text = read_page(experiment.reproduce_page(stacks, tmp_path / "r.html", "x"))
    assert [chart.count("honest") for chart in descriptions] == [len(GRID)] * 2
    assert "leak" not in text.lower()
