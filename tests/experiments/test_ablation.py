"""Groups of inputs left out, on data where it is known what each group adds."""

import json
from itertools import combinations

import pytest

from checkerboard import SMALL, checkerboard
from mmrec.cache.store import Store
from mmrec.evaluation.statistics import holm_correction, paired_t_test
from mmrec.experiments import ablation
from mmrec.experiments.ablation import ablate, ablation_tables, metric_rows, shapley_values, synergy
from mmrec.experiments.checkpoint import Checkpoint, latest_results
from mmrec.experiments.report.html import format_difference
from mmrec.pipeline import open_models
from mmrec.recommender.explain import shapley_value
from pages import assert_shown, read_page


@pytest.fixture(scope="module")
def open_checkpoint(encoder, tmp_path_factory):
    """Reopens the file of results, as the command does when it is run again."""
    reviews = checkerboard(tmp_path_factory.mktemp("checkerboard"))
    models = open_models(SMALL, store=Store(None))
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
    assert len(fpr.rows) == len(rows)
    assert {row[0] for row in shapley.rows} == {*result["groups"]}
    assert synergy([result]) is None
    assert auc.notes[0] == "one seed has no intervals and no p; add --seeds 3"


def test_finished_seeds_are_found_again(result, open_checkpoint, monkeypatch):
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


def test_the_page(result, tmp_path):
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
