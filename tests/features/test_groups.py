"""Groups of features: every column has one, and a masked group has no influence on a ranker."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmrec.config import TrainingConfig
from mmrec.features.tables import FEATURE_GROUPS, Features, group_of, visible_columns
from mmrec.ranker.inputs import RankerInputs, TrainingRun
from mmrec.ranker.training import StackTrainer, predict_logits
from mmrec.recommender.explain import shapley_value
from toys import NUMBERS, ranker_of, toy

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
def test_every_column_has_its_group(names, group):
    assert {group_of(f"item {name}") for name in names.split("|")} == {group}
    if group in ("ratings", "item text", "counts"):
        expected = group.replace("item", "user")
        assert {group_of(f"user {name}") for name in names.split("|")} == {expected}


def test_a_run_sees_the_columns_of_all_groups_but_the_masked_ones():
    masked = [frozenset(), frozenset({"item text"}), ALL_GROUPS]
    visible = visible_columns(["user gist", "item gist", "categories"], masked)
    assert visible.tolist() == [[True] * 3, [True, False, True], [False] * 3]


def with_noise(entity, kind, group, rng):
    """Features of users or items with noise in place of the inputs of one group."""
    columns = [group_of(f"{kind} {name}") == group for name in NUMBERS]
    noise = rng.normal(0, 9, entity.dense.shape).astype(np.float32)
    changes = {"dense": np.where(columns, noise, entity.dense)}
    if group == f"{kind} text":
        gist = entity.vectors["gist"]
        changes["vectors"] = {"gist": rng.normal(0, 9, gist.shape).astype(np.float16)}
        changes["present"] = {"gist": rng.random(len(gist)).astype(np.float32)}
    if group == "categories":
        changes["categories"] = entity.categories[::-1].copy()
    return replace(entity, **changes)


@pytest.mark.parametrize(("reduction", "linear"), [("joint", True), ("joint", False), ("staged", False)])
def test_a_masked_group_has_no_influence(reduction, linear):
    task = toy()
    masked = [frozenset(), *(frozenset({group}) for group in TOY_GROUPS), ALL_GROUPS]
    runs = [TrainingRun(1, 0.1, (0.5, 0.5), groups) for groups in masked]
    ranker = ranker_of(task, runs, linear=linear)
    ranker.mask_inputs(DENSE, masked)
    if linear:
        generator = torch.Generator().manual_seed(0)
        ranker.linear.weight.data[:] = torch.randn(ranker.linear_size, 1, generator=generator)
    training = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=4, patience=4)
    StackTrainer(ranker, runs, task, training, 0).train(reduction)
    before = predict_logits(ranker, task.inputs, task.valid_rows)
    assert np.ptp(before[-1]) == 0
    rng = np.random.default_rng(0)
    for run, group in enumerate(TOY_GROUPS, start=1):
        user = with_noise(task.inputs.user, "user", group, rng)
        item = with_noise(task.inputs.item, "item", group, rng)
        views = task.inputs.user_view.numpy(), task.inputs.item_view.numpy()
        inputs = RankerInputs(Features(user, item, *views))
        after = predict_logits(ranker, inputs, task.valid_rows)
        assert np.array_equal(after[run], before[run]), group
        # The toy's count never changes, and so has no influence anyway.
        assert (group == "counts") == np.allclose(after[0], before[0]), group


def test_shapley_values_of_any_number_of_players():
    """v = 1 if both `a` and `b` are in, plus .5 for `c`; with five players two add nothing."""
    players = "abcde"
    values = {}
    for mask in range(32):
        coalition = frozenset(player for number, player in enumerate(players) if mask >> number & 1)
        values[coalition] = float({*"ab"} <= coalition) + 0.5 * ("c" in coalition)
    assert [shapley_value(values, player) for player in players] == pytest.approx([0.5, 0.5, 0.5, 0, 0])
    assert shapley_value({frozenset(): 0.5, frozenset({0}): 0.8}, 0) == pytest.approx(0.3)
