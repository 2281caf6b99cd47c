"""Groups of features: every column has one, and a masked group has no influence on a ranker."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.config import RankerConfig, TrainingConfig
from mmrec.features.mixed_effects import EFFECT_COLUMNS
from mmrec.features.tables import FEATURE_GROUPS, group_of, visible_columns
from mmrec.ranker.dlrm import Ranker, TrainingRun
from mmrec.ranker.training import TrainingTask, predict_logits, train_ranker
from mmrec.recommender.explain import shapley_value
from toys import ranker_of, toy

NUMBERS = ("mean rating", "no rating", "log count")
DENSE = [f"{kind} {name}" for kind in ("user", "item") for name in NUMBERS]
ALL_GROUPS = frozenset(FEATURE_GROUPS)
TOY_GROUPS = ("ratings", "user text", "item text", "categories", "counts")


@pytest.mark.parametrize(
    ("names", "group"),
    [
        ("mean rating|no rating|rating effect|spread|stars to 1.5|stars to 4.9", "ratings"),
        ("gist|likes|dislikes|summary|reviews|text rating effect|log length|blank|no gist", "item text"),
        ("cheap price|fair price|overpriced|no price", "price"),
        ("photos|no photos", "photos"),
        ("log count", "counts"),
    ],
)
def test_every_column_has_its_group(names: str, group: str) -> None:
    assert {group_of(f"item {name}") for name in names.split("|")} == {group}
    if group in ("ratings", "item text", "counts"):
        expected = group.replace("item", "user")
        assert {group_of(f"user {name}") for name in names.split("|")} == {expected}


def test_categories_and_effects_have_their_groups() -> None:
    assert group_of("categories") == "categories"
    assert {group_of(f"item {name}") for name in EFFECT_COLUMNS} == {"ratings", "item text"}


def test_a_run_sees_the_columns_of_all_groups_but_the_masked_ones() -> None:
    masked = [frozenset[str](), frozenset({"item text"}), ALL_GROUPS]
    visible = visible_columns(["user gist", "item gist", "categories"], masked)
    assert visible.tolist() == [[True] * 3, [True, False, True], [False] * 3]


def trained_stack(
    task: TrainingTask, masked: list[frozenset[str]], reduction: str, *, linear: bool
) -> Ranker:
    runs = [TrainingRun(1, 0.1, (0.5, 0.5), groups) for groups in masked]
    ranker = ranker_of(task, runs, linear=linear)
    ranker.mask_inputs(DENSE, masked)
    if ranker.linear is not None:
        generator = torch.Generator().manual_seed(0)
        ranker.linear.weight.data[:] = torch.randn(ranker.linear_size, 1, generator=generator)
    training = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=4, patience=4)
    train_ranker(ranker, runs, task, RankerConfig.model_validate({"reduction": reduction}), training, 0)
    return ranker


@pytest.mark.parametrize(("reduction", "linear"), [("joint", True), ("joint", False), ("staged", False)])
def test_a_masked_group_has_no_influence(reduction: str, linear: bool) -> None:
    task = toy()
    masked = [frozenset[str](), *(frozenset({group}) for group in TOY_GROUPS), ALL_GROUPS]
    ranker = trained_stack(task, masked, reduction, linear=linear)
    before = predict_logits(ranker, task.inputs, task.selection_rows)
    assert np.ptp(before[-1]) == 0
    generator = torch.Generator().manual_seed(0)
    tensors = {"user": task.inputs.user, "item": task.inputs.item}
    for run, group in enumerate(TOY_GROUPS, start=1):
        originals = []
        for kind, entity in tensors.items():
            state = entity.dense, dict(entity.vectors), dict(entity.present), entity.categories
            originals.append((entity, state))
            columns = torch.tensor([group_of(f"{kind} {name}") == group for name in NUMBERS])
            noise = torch.randn(entity.dense.shape, generator=generator) * 9
            entity.dense = torch.where(columns, noise, entity.dense)
            if group == f"{kind} text":
                name = f"{kind} gist"
                shape = entity.vectors[name].shape
                entity.vectors[name] = torch.randn(shape, generator=generator) * 9
                entity.present[name] = torch.rand(entity.present[name].shape, generator=generator)
            if group == "categories":
                entity.categories = entity.categories.flip(0)
        after = predict_logits(ranker, task.inputs, task.selection_rows)
        assert np.array_equal(after[run], before[run]), group
        # The toy's count never changes, and so has no influence anyway.
        assert (group == "counts") == np.allclose(after[0], before[0]), group
        for entity, state in originals:
            entity.dense, entity.vectors, entity.present, entity.categories = state
    assert np.array_equal(predict_logits(ranker, task.inputs, task.selection_rows), before)


def test_a_masked_run_is_trained_alike_alone_and_beside_others() -> None:
    task, text = toy(), frozenset({"user text", "item text"})
    together = trained_stack(task, [frozenset(), text], "joint", linear=True)
    alone = trained_stack(task, [text], "joint", linear=True)
    logits = [predict_logits(ranker, task.inputs, task.selection_rows) for ranker in (together, alone)]
    assert logits[0][1] == pytest.approx(logits[1][0], abs=1e-3)


def test_shapley_values_of_any_number_of_players() -> None:
    """v = 1 if both `a` and `b` are in, plus .5 for `c`; with five players two add nothing."""
    players = "abcde"
    values = {}
    for mask in range(32):
        coalition = frozenset(player for number, player in enumerate(players) if mask >> number & 1)
        values[coalition] = float({*"ab"} <= coalition) + 0.5 * ("c" in coalition)
    assert [shapley_value(values, player) for player in players] == pytest.approx([0.5, 0.5, 0.5, 0, 0])
    assert shapley_value({frozenset(): 0.5, frozenset({0}): 0.8}, 0) == pytest.approx(0.3)
