"""Training: what a run learns, selects and stops at; runs side by side are what each would be alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmrec.config import RankerConfig, TrainingConfig
from mmrec.ranker.dlrm import Ranker, TrainingRun
from mmrec.ranker.inputs import Batch, ColdStartDropout
from mmrec.ranker.layers import Shard
from mmrec.ranker.loss import class_weights
from mmrec.ranker.training import (
    StackTrainer,
    TrainingHistory,
    TrainingTask,
    predict_logits,
    train_ranker,
    weighted_loss,
)
from toys import ranker_of, toy

EQUAL = (0.5, 0.5)
LONG = TrainingConfig(
    learning_rate=0.02, weight_decay=0.1, batch_size=64, epochs=40, patience=3, cold_start_dropout=0.1
)
SHORT = LONG.model_copy(update={"epochs": 3})
SINGLE = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=6, patience=6, cold_start_dropout=0.1)


@pytest.fixture
def exact() -> Iterator[None]:
    """Double precision: a stack adds up in another order, and Adam makes much of little."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def grid(task: TrainingTask) -> list[TrainingRun]:
    """Two losses by three rates of dropout, each from a seed of its own."""
    settings = [(loss, rate) for loss in ("plain", "basic") for rate in (0.0, 0.2, 0.5)]
    return [
        TrainingRun(seed, rate, class_weights(task.label, loss))
        for seed, (loss, rate) in enumerate(settings, start=5)
    ]


def trained(
    task: TrainingTask,
    runs: Sequence[TrainingRun],
    reduction: str,
    training: TrainingConfig,
    *,
    linear: bool = False,
    seed: int = 3,
) -> tuple[Ranker, dict[str, list[TrainingHistory]]]:
    ranker = ranker_of(task, runs, linear=linear)
    if ranker.linear is not None:
        for at, run in enumerate(runs):
            generator = torch.Generator().manual_seed(run.seed)
            ranker.linear.weight.data[at].normal_(std=0.3, generator=generator)
    return ranker, train_ranker(ranker, runs, task, RankerConfig(reduction=reduction), training, seed)


def equal(ranker: Ranker, run: int, other: Ranker, at: int, within: float = 1e-9) -> bool:
    """Whether a run of one stack has the weights of a run of another, but for rounding."""
    pairs = zip(ranker.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a[run], b[at], rtol=0, atol=within) for a, b in pairs)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("reduction", "forget", "linear", "by_fpr"),
    [
        ("staged", 0.0, False, False),
        ("staged", 0.1, False, False),
        ("staged", 0.0, True, True),
        ("joint", 0.0, False, False),
        ("joint", 0.1, False, True),
        ("joint", 0.1, True, False),
    ],
)
def test_each_run_of_a_stack_is_the_run_alone(
    reduction: str, forget: float, linear: bool, by_fpr: bool
) -> None:
    task = replace(toy(dtype=np.float64), by_fpr=by_fpr)
    training = LONG.model_copy(update={"cold_start_dropout": forget})
    runs = grid(task)
    stack, course = trained(task, runs, reduction, training, linear=linear)
    for histories in course.values():
        lengths = {len(history.score) for history in histories}
        assert len(lengths) > 2, "runs are to leave the stack at different times"
        assert max(lengths) < LONG.epochs
    answers = predict_logits(stack, task.inputs, task.selection_rows)
    if not (by_fpr or linear):
        label = torch.from_numpy(task.label[task.selection_rows]).double()
        losses = weighted_loss(
            torch.from_numpy(answers), label, torch.tensor([run.class_weights for run in runs])
        )
        best = [max(history.score) for history in course["ranker"]]
        assert (-losses).tolist() == pytest.approx(best, abs=1e-9)
    for at, run in enumerate(runs):
        alone, own = trained(task, [run], reduction, training, linear=linear)
        assert own.keys() == course.keys()
        for step, (history,) in own.items():
            assert course[step][at].loss == pytest.approx(history.loss, abs=1e-9)
            assert course[step][at].score == pytest.approx(history.score, abs=1e-9)
        assert equal(stack, at, alone, 0)
        assert answers[at] == pytest.approx(
            predict_logits(alone, task.inputs, task.selection_rows)[0], abs=1e-9
        )


@pytest.mark.parametrize("reduction", ["staged", "joint"])
def test_in_single_precision_too(reduction: str) -> None:
    task = toy()
    runs = grid(task)
    stack, _ = trained(task, runs, reduction, SHORT)
    for at, run in enumerate(runs):
        alone, _ = trained(task, [run], reduction, SHORT)
        assert equal(stack, at, alone, 0, within=1e-5)


def test_settings_and_seeds_set_runs_apart_and_nothing_else_does() -> None:
    task = toy()
    run = TrainingRun(5, 0.2, EQUAL)
    others = [replace(run, dropout=0.5), replace(run, seed=6), replace(run, class_weights=(0.8, 0.2))]
    untrained = ranker_of(task, [run, run, *others])
    assert equal(untrained, 0, untrained, 2)
    assert not equal(untrained, 0, untrained, 3)
    ranker, course = trained(task, [run, *others, run], "joint", SHORT)
    assert equal(ranker, 0, ranker, 4, within=1e-6)
    assert course["ranker"][0].score == pytest.approx(course["ranker"][4].score, abs=1e-6)
    for at in (1, 2, 3):
        assert not equal(ranker, 0, ranker, at, within=1e-3)


@pytest.mark.usefixtures("exact")
def test_a_run_hears_the_same_when_others_leave_the_stack() -> None:
    task = toy(dtype=np.float64)
    runs = grid(task)
    masks = torch.ones(len(runs), 6)
    masks[torch.arange(6), torch.arange(6)] = 0

    def train_heard(which: list[int]) -> tuple[Ranker, list[TrainingHistory]]:
        own = [runs[at] for at in which]
        ranker = ranker_of(task, own)
        ranker.bottom[0].mask_inputs(masks[which])
        return ranker, train_ranker(ranker, own, task, RankerConfig(reduction="joint"), LONG, 3)["ranker"]

    stack, histories = train_heard([*range(6)])
    assert len({len(history.score) for history in histories}) > 2
    together = predict_logits(stack, task.inputs, task.selection_rows)
    for at in range(6):
        alone, _ = train_heard([at])
        assert equal(stack, at, alone, 0)
        assert together[at] == pytest.approx(
            predict_logits(alone, task.inputs, task.selection_rows)[0], abs=1e-9
        )


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("stay", [[2, 0], [1]])
def test_runs_that_stay_keep_their_moments_noise_and_weights(stay: list[int]) -> None:
    """A few steps, then some runs leave; the others go on as if nothing had happened."""
    task = toy(dtype=np.float64)
    runs = grid(task)[2:5]
    ends = []
    for leaving in (False, True):
        ranker = ranker_of(task, runs)
        stack = StackTrainer(
            ranker, task, LONG, torch.tensor([run.class_weights for run in runs]), 0, Shard()
        )
        stack.cold_start_dropout = ColdStartDropout(task.inputs, 0.1, torch.Generator().manual_seed(0))
        optimiser = torch.optim.AdamW(ranker.parameters(), lr=0.01, fused=True)
        for at, rows in enumerate(torch.arange(200).split(20)):
            if at == 5 and leaving:
                stack.keep_runs(torch.tensor(stay), optimiser)
            optimiser.zero_grad()
            weighted_loss(stack.score(rows), stack.label[rows], stack.weights).sum().backward()
            optimiser.step()
        ends.append((ranker, optimiser))
    (whole, moments), (part, own) = ends
    for at, run in enumerate(stay):
        assert equal(part, at, whole, run)
        for ours, theirs in zip(own.state.values(), moments.state.values(), strict=True):
            for name in ("exp_avg", "exp_avg_sq"):
                assert torch.allclose(ours[name][at], theirs[name][run], atol=1e-12)


@pytest.mark.parametrize("by_fpr", [False, True])
def test_an_epoch_that_is_no_number_is_never_kept(by_fpr: bool) -> None:
    """Whoever diverges goes back to its last sound epoch, and the others go on."""
    task = replace(toy(), by_fpr=by_fpr)
    runs = [TrainingRun(1, 0.0, EQUAL), TrainingRun(2, 0.0, EQUAL)]
    ranker = ranker_of(task, runs)
    start = ranker.top[-1].weight.detach().clone()
    broken = ranker.forward

    def forward(batch: Batch) -> torch.Tensor:
        logit = broken(batch)
        return torch.stack([logit[0] * torch.nan, logit[1]]) if len(logit) == 2 else logit

    ranker.forward = forward  # type: ignore[method-assign]
    course = train_ranker(ranker, runs, task, RankerConfig(), SHORT, 3)["ranker"]
    assert course[0].score == [-np.inf] * 3
    assert np.isfinite(course[1].score).all()
    assert torch.equal(ranker.top[-1].weight[0], start[0])
    assert not torch.equal(ranker.top[-1].weight[1], start[1])


def one_run(task: TrainingTask, seed: int = 0) -> list[TrainingRun]:
    return [TrainingRun(seed, 0.2, class_weights(task.label, "basic"))]


def train_one(
    task: TrainingTask, training: TrainingConfig = SINGLE, reduction: str = "joint"
) -> tuple[Ranker, dict[str, TrainingHistory]]:
    ranker, course = trained(task, one_run(task), reduction, training, seed=0)
    assert all(len(histories) == 1 for histories in course.values())
    return ranker, {step: histories[0] for step, histories in course.items()}


def test_vectors_for_missing_blocks_are_learned() -> None:
    task = toy()
    ranker, _ = train_one(task, SINGLE.model_copy(update={"weight_decay": 0.0}))
    before, after = (
        one.reducers["text"].layers[0].weight[0, -2:] for one in (ranker_of(task, one_run(task)), ranker)
    )
    assert bool(((after - before).abs().amax(1) > 1e-3).all())


@pytest.mark.parametrize("reduction", ["staged", "joint"])
def test_reducers_are_frozen_while_the_ranker_trains_just_when_staged(reduction: str) -> None:
    task = toy()
    runs = one_run(task)
    ranker = ranker_of(task, runs)
    reducer = ranker.reducers["text"]
    start = [parameter.detach().clone() for parameter in reducer.layers.parameters()]
    dropped: list[bool] = []
    seen: list[tuple[bool, list[torch.Tensor]]] = []

    def look(*_: object) -> None:
        seen.append((dropped[-1], [parameter.detach().clone() for parameter in reducer.parameters()]))

    reducer.register_forward_hook(lambda *_: dropped.append(ranker.dropout.training))
    ranker.top.register_forward_hook(look)  # runs in the ranker's own training only
    train_ranker(ranker, runs, task, RankerConfig(reduction=reduction), SINGLE, 0)
    final = list(reducer.layers.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(start, final, strict=True))
    same = [all(torch.equal(a, b) for a, b in zip(seen[0][1], one, strict=True)) for _, one in seen]
    frozen = reduction == "staged"
    assert all(same) == frozen
    assert any(training for training, _ in seen) != frozen
    if frozen:
        assert all(torch.equal(a, b) for a, b in zip(seen[0][1], reducer.parameters(), strict=True))


@pytest.mark.parametrize("reduction", ["staged", "joint"])
def test_training_leaves_the_weights_of_the_best_epoch(reduction: str) -> None:
    task = toy()
    ranker, course = train_one(task, reduction=reduction)
    assert sorted(course) == (["ranker", "reducer text"] if reduction == "staged" else ["ranker"])
    history = course["ranker"]
    assert len(history.loss) == len(history.score) == 6
    label = torch.from_numpy(task.label[task.selection_rows].astype(np.float32))
    answers = torch.from_numpy(predict_logits(ranker, task.inputs, task.selection_rows))
    weights = torch.tensor([class_weights(task.label, "basic")])
    loss = weighted_loss(answers, label, weights).item()
    assert -loss == pytest.approx(max(history.score))
    assert history.score[history.best] == max(history.score)
    assert not ranker.training


def test_the_paper_s_way_chooses_by_the_false_positive_rate() -> None:
    task = toy()
    paper = TrainingTask(task.inputs, task.label, task.train_rows, task.selection_rows, by_fpr=True)
    ranker, course = train_one(paper, SINGLE.model_copy(update={"epochs": 2, "patience": 2}))
    answers, label = (
        predict_logits(ranker, task.inputs, task.selection_rows)[0],
        task.label[task.selection_rows],
    )
    rate = float(np.mean(answers[~label] >= 0))
    assert 0 < rate < 1
    assert max(course["ranker"].score) == pytest.approx(-rate)


def test_training_stops_when_patience_ends() -> None:
    task = toy()
    training = SINGLE.model_copy(update={"epochs": 80, "patience": 3, "learning_rate": 0.05})
    _, course = train_one(task, training)
    history = course["ranker"]
    assert len(history.score) == history.best + 3 + 1 < 80


def test_logits_do_not_depend_on_how_rows_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy()
    ranker = ranker_of(task, one_run(task)).eval()
    rows = np.arange(300)
    whole = predict_logits(ranker, task.inputs, rows)
    parts = [predict_logits(ranker, task.inputs, rows[at : at + 7]) for at in range(0, 300, 7)]
    one_by_one = np.concatenate(parts, axis=1)
    assert whole == pytest.approx(one_by_one, abs=1e-5)
