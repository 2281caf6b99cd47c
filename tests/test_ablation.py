"""Inputs left out: what is not heard has no influence, and what adds nothing is found to add nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boards import SMALL, board
from mmrec.cache.store import Store
from mmrec.config import RankerConfig, TrainingConfig
from mmrec.data import Reviews
from mmrec.encoder.text_encoder import Encoder
from mmrec.errors import DataError
from mmrec.evaluation import holm_correction, paired_t_test
from mmrec.experiments import ablation
from mmrec.experiments.ablation import SeedResult, ablate, metric_rows, shapley_values, synergy, tables
from mmrec.experiments.checkpoint import latest_results
from mmrec.features.dataset import Models
from mmrec.features.groups import FEATURE_GROUPS, group_of, shapley_value, visible_columns
from mmrec.features.mixed_effects import EFFECT_COLUMNS
from mmrec.pipeline import open_models
from mmrec.ranker.dlrm import Ranker, TrainingRun
from mmrec.ranker.training import TrainingTask, predict_logits, train_ranker
from toys import ranker_of, toy

pytestmark = pytest.mark.usefixtures("one_thread")

DENSE = [f"{of} {name}" for of in ("user", "item") for name in ("mean rating", "no rating", "log count")]
ALL = frozenset(FEATURE_GROUPS)


def test_every_column_has_its_group() -> None:
    ratings = ["mean rating", "no rating", "rating effect", "spread", "stars to 1.5", "stars to 4.9"]
    assert {group_of(f"{of} {name}") for of in ("user", "item") for name in ratings} == {"ratings"}
    text = [
        "gist",
        "likes",
        "dislikes",
        "summary",
        "reviews",
        "text rating effect",
        "log length",
        "blank",
        "no gist",
    ]
    assert {group_of(f"user {name}") for name in text} == {"user text"}
    assert {group_of(f"item {name}") for name in text} == {"item text"}
    price = ["cheap price", "fair price", "overpriced", "no price"]
    assert {group_of(f"item {name}") for name in price} == {"price"}
    assert {group_of(name) for name in ("item photos", "item no photos")} == {"photos"}
    assert group_of("categories") == "categories"
    assert group_of("item log count") == group_of("user log count") == "counts"
    assert {group_of(f"item {name}") for name in EFFECT_COLUMNS} == {"ratings", "item text"}


def test_what_a_run_hears_is_all_but_what_it_is_deaf_to() -> None:
    masks = visible_columns(
        ["user gist", "item gist", "categories"], [frozenset(), frozenset({"item text"}), ALL]
    )
    assert masks.tolist() == [[True] * 3, [True, False, True], [False] * 3]


def stack(task: TrainingTask, deaf: list[frozenset[str]], reduction: str, *, linear: bool) -> Ranker:
    runs = [TrainingRun(1, 0.1, (0.5, 0.5), one) for one in deaf]
    ranker = ranker_of(task, runs, linear=linear)
    ranker.mask_inputs(DENSE, deaf)
    if ranker.linear is not None:
        ranker.linear.weight.data[:] = torch.randn(
            ranker.linear_size, 1, generator=torch.Generator().manual_seed(0)
        )
    training = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=4, patience=4)
    train_ranker(ranker, runs, task, RankerConfig(reduction=reduction), training, 0)
    return ranker


@pytest.mark.parametrize(("reduction", "linear"), [("joint", True), ("joint", False), ("staged", False)])
def test_what_is_not_heard_has_no_influence(reduction: str, linear: bool) -> None:
    task = toy()
    deaf = [frozenset({group}) for group in ("ratings", "user text", "item text", "categories", "counts")]
    ranker = stack(task, [frozenset(), *deaf, ALL], reduction, linear=linear)
    before = predict_logits(ranker, task.inputs, task.selection_rows)
    assert np.ptp(before[-1]) == 0
    rng = torch.Generator().manual_seed(0)
    sides = (("user", task.inputs.user), ("item", task.inputs.item))
    for at, group in enumerate(["ratings", "user text", "item text", "categories", "counts"], start=1):
        kept = [
            (side, side.dense, dict(side.vectors), dict(side.present), side.categories) for _, side in sides
        ]
        for of, side in sides:
            mask = torch.tensor(
                [group_of(f"{of} {name}") == group for name in ("mean rating", "no rating", "log count")]
            )
            side.dense = torch.where(mask, torch.randn(side.dense.shape, generator=rng) * 9, side.dense)
            if group_of(f"{of} gist") == group:
                name = f"{of} gist"
                side.vectors[name] = torch.randn(side.vectors[name].shape, generator=rng) * 9
                side.present[name] = torch.rand(side.present[name].shape, generator=rng)
            if group == "categories":
                side.categories = side.categories.flip(0)
        after = predict_logits(ranker, task.inputs, task.selection_rows)
        assert np.array_equal(after[at], before[at]), group
        # The toy's count never changes, and so says nothing.
        assert (group == "counts") == np.allclose(after[0], before[0]), group
        for side, *state in kept:
            side.dense, side.vectors, side.present, side.categories = state
    assert np.array_equal(predict_logits(ranker, task.inputs, task.selection_rows), before)


def test_a_deaf_run_is_trained_alike_alone_and_beside_others() -> None:
    task, words = toy(), frozenset({"user text", "item text"})
    together = predict_logits(
        stack(task, [frozenset(), words], "joint", linear=True), task.inputs, task.selection_rows
    )
    alone = predict_logits(stack(task, [words], "joint", linear=True), task.inputs, task.selection_rows)
    assert together[1] == pytest.approx(alone[0], abs=1e-3)


def test_shapley_values_of_any_number_of_players() -> None:
    """v = 1 if both `a` and `b` are in, plus .5 for `c`; with five players two do nothing."""
    players = "abcde"
    sets = [frozenset(one for at, one in enumerate(players) if mask >> at & 1) for mask in range(32)]
    game = {some: float({*"ab"} <= some) + 0.5 * ("c" in some) for some in sets}
    assert [shapley_value(game, one) for one in players] == pytest.approx([0.5, 0.5, 0.5, 0, 0])
    assert shapley_value({frozenset(): 0.5, frozenset({0}): 0.8}, 0) == pytest.approx(0.3)


@pytest.fixture(scope="module")
def models(encoder: Encoder) -> Models:
    return open_models(SMALL, store=Store(None))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Reviews:
    return board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def trials(
    reviews: Reviews, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[SeedResult], Path]:
    path = tmp_path_factory.mktemp("out") / "deep" / "ablation.json"
    return ablate(reviews, SMALL, models, path, seeds=1, extras={"shapley", "words", "bootstrap"}), path


def test_on_the_checkerboard_words_of_both_sides_are_worth_all_and_ratings_nothing(
    trials: tuple[list[SeedResult], Path],
) -> None:
    [trial], _ = trials
    assert trial["figures"]["everything"]["auc"] > 0.95
    assert trial["figures"]["ratings alone"]["auc"] == pytest.approx(0.5, abs=0.12)
    shares = {group: share for group, (share, _) in shapley_values([trial]).items()}
    assert sum(shares.values()) == pytest.approx(trial["figures"]["everything"]["auc"] - 0.5, abs=1e-9)
    assert abs(shares["ratings"]) < 0.06
    assert shares["user text"] > 0.15
    assert shares["item text"] + shares.get("categories", 0) > 0.12
    assert "photos" not in trial["groups"]
    assert any("photos" in remark and "left out" in remark for remark in trial["remarks"])
    assert trial["figures"]["with whole reviews"]["auc"] > 0.9


def test_all_coalitions_are_there_and_what_is_the_same_has_the_same_figures(
    trials: tuple[list[SeedResult], Path],
) -> None:
    [trial], _ = trials
    groups = trial["groups"]
    assert len(trial["values"]) == 2 ** len(groups) - 1
    assert trial["values"][" + ".join(groups)] == trial["figures"]["everything"]["auc"]
    assert trial["values"]["ratings"] == trial["figures"]["ratings alone"]["auc"]
    assert trial["values"][" + ".join(groups[1:])] == trial["figures"]["without ratings"]["auc"]


def test_one_seed_is_compared_by_a_bootstrap_and_told_in_tables(
    trials: tuple[list[SeedResult], Path],
) -> None:
    rows = {name: gap for name, _, gap in metric_rows(trials[0], "auc")}
    assert next(iter(rows)) == "everything"
    assert rows["everything"].mean == 0
    assert rows["without text"].high < -0.2
    assert rows["without text"].p_value < 0.05
    auc, fpr, worth = tables(trials[0])
    assert [len(row) for row in auc.rows] == [len(auc.header)] * len(rows)
    assert len(fpr.rows) == len(rows)
    assert {row[0] for row in worth.rows} == {*trials[0][0]["groups"]}
    assert synergy(trials[0]) is None


def test_finished_seeds_are_found_again(
    trials: tuple[list[SeedResult], Path], reviews: Reviews, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, path = trials
    assert not path.with_suffix(".part").exists()
    held = latest_results(path)
    assert held.keys() == {"3"}
    asked: list[tuple[int, set[str]]] = []

    def fake(prepared: Any, more: set[str]) -> SeedResult:
        asked.append((prepared.config.seed, more))
        return {**held["3"], "asked": sorted(more)}

    monkeypatch.setattr(ablation, "_trial", fake)
    again = ablate(reviews, SMALL, models, path, seeds=1, extras={"words"})
    assert json.dumps(again) == json.dumps(before)
    assert asked == []
    ablate(reviews, SMALL, models, path, seeds=3, extras={"shapley"})
    assert asked == [(4, {"shapley"}), (5, {"shapley"})]
    ablate(reviews, SMALL.model_copy(update={"seed": 4}), models, path, seeds=2, extras={"words"})
    assert asked[2:] == [(4, {"words"}), (5, {"words"})]
    other = SMALL.model_copy(update={"like_rating": 3.0})
    ablate(reviews, other, models, path, seeds=1, extras=set())
    assert asked[4:] == [(3, set())]
    assert latest_results(path).keys() == {"3"}
    ablate(reviews, SMALL, models, path, seeds=3, extras={"words"})
    assert len(asked) == 5, "what was there before is there again"
    path.write_text("[1, 2")
    with pytest.raises(DataError, match="take it away"):
        ablate(reviews, SMALL, models, path, seeds=1, extras=set())


def told(*aucs: float, neither: float = 0.5) -> SeedResult:
    """A trial by hand: everything, without text, without photos."""
    names = ("everything", "without text", "without photos")
    sets = ("user text + item text + photos", "photos", "user text + item text")
    return {
        "asked": [],
        "groups": ["user text", "item text", "photos"],
        "figures": {name: {"auc": auc, "fpr_at_90": 1 - auc} for name, auc in zip(names, aucs, strict=True)},
        "values": dict(zip(sets, aucs, strict=True)),
        "ratio": 0.5,
        "remarks": ["said once"],
    }


def test_over_seeds_differences_are_paired_and_adjusted() -> None:
    some = [told(0.9, 0.6, 0.71), told(0.8, 0.52, 0.6), told(0.85, 0.54, 0.65)]
    raw = [paired_t_test(one, [0.9, 0.8, 0.85], 0.5) for one in ([0.6, 0.52, 0.54], [0.71, 0.6, 0.65])]
    rows = metric_rows(some, "auc")
    assert [row[0] for row in rows] == ["everything", "without text", "without photos"]
    assert [row[2].p_value for row in rows[1:]] == pytest.approx(
        holm_correction([gap.p_value for gap in raw]).tolist()
    )
    assert rows[1][2][:3] == raw[0][:3]
    # Student's t at two degrees of freedom, 4.303; half as many test rows as train rows widen the error.
    assert rows[0][1] == pytest.approx((0.85, 4.3027 * 0.05 * (1 / 3 + 0.5) ** 0.5), abs=1e-4)


def test_synergy_is_above_zero_where_only_both_together_tell() -> None:
    together = synergy([told(0.9, 0.5, 0.5), told(0.8, 0.5, 0.5)])
    assert together is not None
    assert together.mean == pytest.approx(0.35)
    double = synergy([told(0.8, 0.8, 0.79), told(0.7, 0.7, 0.71)])
    assert double is not None
    assert double.mean == pytest.approx(-0.25)
    notes = tables([told(0.9, 0.5, 0.5), told(0.8, 0.5, 0.51)])[0].notes
    assert "synergy of text and photos" in notes[-1]
    assert notes.count("said once") == 1
