"""Groups of inputs left out, on data where it is known what each adds; one setting over several values."""

import json
from itertools import combinations, product

import numpy as np
import pytest

from checkerboard import SMALL, checkerboard
from mmrec.cache.store import Store
from mmrec.config import Config, EvidenceConfig, RankerConfig
from mmrec.errors import ConfigError
from mmrec.evaluation.statistics import holm_correction, paired_t_test
from mmrec.experiments import ablation
from mmrec.experiments import sweep as sweeps
from mmrec.experiments.ablation import ablate, ablation_tables, metric_rows, shapley_values, synergy
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.report.html import format_difference
from mmrec.experiments.sweep import SWEPT_SETTINGS, drop_dislikes, sweep, sweep_table
from mmrec.pipeline import open_models, prepare_data
from mmrec.recommender.explain import shapley_value
from pages import EVIL, assert_shown, latest_results, read_page
from serving import command

RANKER = RankerConfig(features="baseline", embedding_size=4, hidden_size=8)
TRAINING = SMALL.training.model_copy(update={"epochs": 2})
BASELINE = SMALL.model_copy(update={"ranker": RANKER, "training": TRAINING})


@pytest.fixture(scope="module")
def models(encoder):
    return open_models(SMALL, store=Store(None))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.fixture(scope="module")
def open_checkpoint(reviews, models, tmp_path_factory):
    """Reopens the file of results, as the command does when it is run again."""
    path = tmp_path_factory.mktemp("out") / "deep" / "ablation.json"
    return lambda **changes: Checkpoint(path, reviews, SMALL.model_copy(update=changes), models)


@pytest.fixture(scope="module")
def result(open_checkpoint):
    (result,) = ablate(open_checkpoint(), 1, {"shapley", "words"})
    return result


def test_on_the_checkerboard_texts_of_both_sides_add_everything_and_ratings_nothing(result):
    metrics, groups, coalitions = result["metrics"], result["groups"], result["coalitions"]
    assert metrics["everything"]["auc"] > 0.95
    assert metrics["ratings alone"]["auc"] == pytest.approx(0.5, abs=0.12)
    assert metrics["with whole reviews"]["auc"] > 0.9
    shares = {group: share for group, (share,) in shapley_values([result]).items()}
    assert sum(shares.values()) == pytest.approx(metrics["everything"]["auc"] - 0.5, abs=1e-9)
    assert abs(shares["ratings"]) < 0.06
    assert shares["user text"] > 0.15
    assert shares["item text"] + shares.get("categories", 0) > 0.12
    assert "photos" not in groups
    assert any("photos" in remark and "left out" in remark for remark in result["remarks"])
    # Rows of the table agree with their coalitions.
    assert len(coalitions) == 2 ** len(groups) - 1
    assert coalitions[" + ".join(groups)] == metrics["everything"]["auc"]
    assert coalitions["ratings"] == metrics["ratings alone"]["auc"]
    assert coalitions[" + ".join(groups[1:])] == metrics["without ratings"]["auc"]


def test_a_single_seed_has_no_interval(result):
    rows = {name: gap for name, _, gap in metric_rows([result], "auc")}
    assert next(iter(rows)) == "everything"
    assert rows["everything"].mean == 0
    assert rows["without text"].mean < -0.2
    assert rows["without text"].interval == (rows["without text"].mean,)
    auc, fpr, shapley = ablation_tables([result])
    assert [len(row) for row in auc.rows] == [len(auc.header)] * len(rows)
    assert {row[-1] for row in auc.rows} == {"-"}
    assert len(fpr.rows) == len(rows)
    assert {row[0] for row in shapley.rows} == {*result["groups"]}
    assert synergy([result]) is None
    assert auc.notes[0] == "one seed has no intervals and no p; add --seeds 3"


def test_finished_seeds_of_an_ablation_are_found_again(result, open_checkpoint, monkeypatch):
    path = open_checkpoint()._path
    assert not path.with_suffix(".part").exists()
    finished = latest_results(path)
    assert finished.keys() == {"3"}
    computed = []

    def record(checkpoint, seed, extras):
        computed.append((seed, extras))
        return {**finished["3"], "extras": sorted(extras)}

    monkeypatch.setattr(ablation, "_seed_result", record)
    again = ablate(open_checkpoint(), 1, {"words"})
    assert json.dumps(again) == json.dumps([result])
    assert computed == []
    ablate(open_checkpoint(), 3, {"shapley"})
    assert computed == [(4, {"shapley"}), (5, {"shapley"})]
    # Extras that a result lacks are computed; so is everything with other settings.
    ablate(open_checkpoint(seed=4), 2, {"words"})
    assert computed[2:] == [(4, {"words"}), (5, {"words"})]
    ablate(open_checkpoint(like_rating=3.0), 1, set())
    assert computed[4:] == [(3, set())]
    assert latest_results(path).keys() == {"3"}
    ablate(open_checkpoint(), 3, {"words"})
    assert len(computed) == 5


def result_by_hand(*aucs):
    """ROC-AUC of everything, without text, and without photos."""
    names = ("everything", "without text", "without photos")
    coalitions = ("user text + item text + photos", "photos", "user text + item text")
    return {
        "groups": ["user text", "item text", "photos"],
        "metrics": {name: {"auc": auc, "fpr_at_90": 1 - auc} for name, auc in zip(names, aucs, strict=True)},
        "coalitions": dict(zip(coalitions, aucs, strict=True)),
        "test_ratio": 0.5,
        "remarks": ["a remark"],
    }


def test_differences_over_seeds_are_paired_and_corrected():
    aucs = [(0.9, 0.6, 0.71), (0.8, 0.52, 0.6), (0.85, 0.54, 0.65)]
    everything, *others = zip(*aucs, strict=True)
    gaps = [paired_t_test(other, everything, 0.5) for other in others]
    rows = metric_rows([result_by_hand(*values) for values in aucs], "auc")
    assert [name for name, _, _ in rows] == ["everything", "without text", "without photos"]
    corrected = holm_correction([gap.p_value for gap in gaps]).tolist()
    assert [gap.p_value for _, _, gap in rows[1:]] == pytest.approx(corrected)
    assert rows[1][2][:3] == gaps[0][:3]
    # Student's t at two degrees of freedom, 4.303; half as many test rows as train rows widen the error.
    half = 4.3027 * 0.05 * (1 / 3 + 0.5) ** 0.5
    assert rows[0][1] == pytest.approx((0.85, 0.85 - half, 0.85 + half), abs=1e-4)


def test_synergy_is_positive_where_text_and_photos_complement_each_other():
    complements = [result_by_hand(0.9, 0.5, 0.5), result_by_hand(0.8, 0.5, 0.51)]
    assert synergy(complements).mean == pytest.approx(0.345)
    alike = [result_by_hand(0.8, 0.8, 0.79), result_by_hand(0.7, 0.7, 0.71)]
    assert synergy(alike).mean == pytest.approx(-0.25)
    notes = ablation_tables(complements)[0].notes
    assert "synergy of text and photos" in notes[-1]
    assert notes.count("a remark") == 1


def test_the_page_of_an_ablation(result, tmp_path):
    several = [result_by_hand(0.9, 0.6, 0.71), result_by_hand(0.8, 0.52, 0.6)]
    for results, chart_count in ((several, 2), ([result], 4)):
        path = ablation.ablation_page(results, "proposed", tmp_path / "a.html", "mmrec ablate")
        descriptions, text = read_page(path)
        assert_shown(ablation_tables(results), text)
        assert "What the inputs of proposed add" in text
        assert len(descriptions) == chart_count
        assert ("synergy of text and photos" in text) == (results is several)
        assert ("Shapley" in text) == (results is not several)
    alone = {name: mean for name, mean, _ in metric_rows([result], "auc")}["user text alone"][0]
    (share,) = shapley_values([result])["user text"]
    assert f"user text alone {format_difference(alone - 0.5)}" in descriptions[2]
    assert f"user text {format_difference(share)}" in descriptions[3]
    assert "with whole reviews" in descriptions[0]


def test_shapley_values_of_any_number_of_players():
    """v = 1 if both `a` and `b` are in, plus .5 for `c`; with five players two add nothing."""
    coalitions = [frozenset(players) for size in range(6) for players in combinations("abcde", size)]
    values = {coalition: ({*"ab"} <= coalition) + 0.5 * ("c" in coalition) for coalition in coalitions}
    assert [shapley_value(values, player) for player in "abcde"] == pytest.approx([0.5, 0.5, 0.5, 0, 0])
    assert shapley_value({frozenset(): 0.5, frozenset({0}): 0.8}, 0) == pytest.approx(0.3)


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


def test_finished_seeds_of_a_sweep_are_found_again(reviews, models, tmp_path, monkeypatch):
    computed = []

    def record(reviews, config, models, ratio):
        computed.append((config.evidence.folds, config.seed))
        metrics = {"auc": 0.5 + 0.1 * config.seed, "fpr_at_90": 0.4, "ap_negative": 0.3}
        return {"model": metrics, "bias model": metrics}

    monkeypatch.setattr(sweeps, "_train_and_evaluate", record)
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
    monkeypatch.setattr(sweeps, "drop_dislikes", lambda prepared, ratio: ratios.append(ratio))
    checkpoint = Checkpoint(tmp_path / "sweep.json", reviews, BASELINE, models)
    assert sweep(checkpoint, "imbalance", ["2", "50"], 1) == {"2": {}, "50": {}}
    assert sweep(checkpoint, "imbalance", ["2", "50"], 1) == {"2": {}, "50": {}}
    assert ratios == [2, 50]

    def record(prepared):
        folds.append(len(np.unique(prepared.evidence.fold)) - 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "train_model", record)
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
        changed = sweeps._with_value(Config(evidence=EvidenceConfig(folds=7)), over, value)
        assert str(getattr(getattr(changed, section), name)) == value


@pytest.mark.parametrize("values", [["2", "5", "10"], [f"openai:{EVIL}", "builtin"], []])
def test_the_page_of_a_sweep(tmp_path, values):
    results = {"50": {}}  # which the data did not have
    for number, (value, seed) in enumerate(product(values, "012")):
        metrics = {"auc": 0.5 + number / 100, "fpr_at_90": 0.4, "ap_negative": 0.3}
        results.setdefault(value, {})[seed] = {"model": metrics, "bias model": metrics}
    page = sweeps.sweep_page(results, "llm", "mmrec", tmp_path / "s.html", "mmrec sweep")
    descriptions, text = read_page(page)
    assert_shown([sweep_table(results, "llm")], text)
    assert len(descriptions) == (2 if values else 0)
    assert not values or f"mmrec at {values[1]} 0.540 [" in descriptions[0]
    assert not any("at 50" in description for description in descriptions)


def test_sweep_and_ablate_as_commands(reviews, tmp_path):
    done = command("sweep", reviews.source, "--over", "llm", cwd=tmp_path)
    assert done.returncode == 2
    assert "needs --values" in done.stderr
    small = ["--seeds", "2", "--epochs", "2", "--folds", "2", "--hidden-size", "8", "--embedding-size", "4"]
    over = ("--over", "policy", "--values", "fold", "all")
    done = command("sweep", reviews.source, *over, *small, cwd=tmp_path)
    assert done.returncode == 0
    assert "`proposed`" in done.stderr
    assert all(word in done.stdout for word in ("fold", "all", "bias model"))
    options = ("--features", "proposed", "--compare", "none", "--json")
    done = command("ablate", reviews.source, *options, *small, cwd=tmp_path)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["shapley"] == {}
    assert result["rows"]["auc"][0][0] == "everything"
    assert latest_results(tmp_path / "ablation" / "ablation.json").keys() == {"0", "1"}
