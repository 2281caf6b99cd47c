"""The verdict is true: it names the model that validation rows prove, and what a proof would take."""

from dataclasses import replace

import numpy as np
import pytest

from mmrec.evaluation.statistics import mean_log_likelihood
from mmrec.evaluation.verdict import RivalModels, reach_verdict

EFFECTS = "the bias model (user effect + item effect"


def rivals(trained, bias, rows=600, kind="validation reviews"):
    """Labels drawn from a true logit; models see it with weights `trained` and `bias`, the rest is noise."""
    rng = np.random.default_rng(rows)
    logit, noise = rng.normal(0, 2, rows), rng.normal(0, 2, (2, rows))
    label = rng.random(rows) < 1 / (1 + np.exp(-logit))
    models = []
    for share, other in zip((trained, bias), noise, strict=True):
        models.append(1 / (1 + np.exp(-share * (share * logit + (1 - share) * other))))
    return RivalModels("mmrec", kind, rng.integers(rows // 3, size=rows), label, *models)


def verdict(trained, bias, fallback=True, rows=600):
    test = replace(rivals(trained, bias, 900), kind="test reviews")
    return reach_verdict(rivals(trained, bias, rows), test, 2000, fallback=fallback)


def test_a_proven_model_is_used_and_the_figures_are_of_test_rows():
    result = verdict(0.9, 0.4)
    assert result.model == "mmrec"
    assert result.sentence.startswith(f"Use mmrec: 600 validation reviews prove that it beats {EFFECTS}); ")
    assert "on 900 test reviews, ROC-AUC is 0." in result.sentence
    assert "(difference +0." in result.sentence
    assert "would prove" not in result.sentence


@pytest.mark.parametrize("fallback", [True, False])
def test_without_proof_the_simpler_model_is_used_unless_settings_forbid_it(fallback):
    result = verdict(0.5, 0.5, fallback)
    assert result.model == ("bias model" if fallback else "mmrec")
    assert result.sentence.startswith("Use the simpler one: 600 validation reviews do not prove that mmrec ")
    assert ("it takes the place of mmrec" in result.sentence) == fallback


def test_where_nothing_beats_guessing_more_data_are_asked_for():
    result = verdict(0.0, 0.0, rows=40)
    assert result.model == "bias model"
    assert result.sentence.startswith("Bring more data: 40 validation reviews, ")
    assert "of them dislikes, do not prove that even the bias model" in result.sentence
    assert result.sentence.endswith("by the same users.")


def test_the_number_of_reviews_that_would_do_does():
    """A small true gain is unproven on few reviews, and mostly proven on as many as are named."""
    few = rivals(0.62, 0.5, 220)
    sentence = reach_verdict(few, few, 220, fallback=True).sentence
    needed = int(sentence.split("About ")[1].split()[0].replace(",", ""))
    assert 220 < needed < 3000
    proofs = [rivals(0.62, 0.5, needed + number).gain().is_proven for number in range(10)]
    assert sum(proofs) >= 7


@pytest.mark.parametrize("users", [1, 3])
def test_a_gain_of_few_users_is_no_proof(users):
    few = rivals(0.9, 0.4)
    few = replace(few, user=few.user % users)
    result = reach_verdict(few, few, 2000, fallback=True)
    assert result.model == "bias model"
    assert result.sentence.endswith("These 2,000 reviews are by too few users for a proof.")


def test_a_saved_bias_model_is_compared_with_guessing():
    saved = replace(rivals(0.5, 0.5), name="bias model", kind="new reviews")
    sentence = reach_verdict(saved, saved, 600, fallback=False).sentence
    assert sentence.startswith(f"Use it: 600 new reviews prove that {EFFECTS}) beats guessing; on 600 new")
    assert "difference" not in sentence


@pytest.mark.parametrize("name", ["mmrec", "bias model"])
def test_a_model_that_another_baseline_beats_is_not_to_be_relied_on(name):
    saved, other = replace(rivals(0.5, 0.4), name=name, kind="new reviews"), rivals(0.9, 0.4)
    baselines = {"user mean": np.full(600, 0.5), "item mean": other.trained}
    result = reach_verdict(replace(saved, baselines=baselines), saved, 600, fallback=False)
    start = (
        f"Do not rely on {name} here: 600 new reviews prove that the item mean predicts them better, with "
    )
    assert result.sentence.startswith(f"{start}ROC-AUC 0.")
    assert result.model == name
    baselines = {"user mean": np.full(600, 0.5), "item mean": saved.trained}
    same = reach_verdict(replace(saved, baselines=baselines), saved, 600, fallback=False)
    assert same == reach_verdict(saved, saved, 600, fallback=False)


def test_the_mean_log_likelihood_by_hand():
    label, p = np.array([True, False, True]), np.array([0.5, 0.2, 0.0])
    value = mean_log_likelihood(label, p, np.array([[1.0, 3, 0], [0, 1, 1]]))
    expected = [(np.log(0.5) + 3 * np.log(0.8)) / 4, (np.log(0.8) + np.log(1e-7)) / 2]
    assert value == pytest.approx(expected)
