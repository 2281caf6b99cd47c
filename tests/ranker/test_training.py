"""One training run: what is learned, frozen, selected and stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.config import RankerConfig, TrainingConfig
from mmrec.ranker.dlrm import Ranker, TrainingRun
from mmrec.ranker.loss import class_weights
from mmrec.ranker.training import TrainingHistory, TrainingTask, predict_logits, train_ranker, weighted_loss
from toys import ranker_of, toy

pytestmark = pytest.mark.usefixtures("one_thread")
EQUAL = (0.5, 0.5)
SHORT = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=6, patience=6, cold_start_dropout=0.1)


def one_run(task: TrainingTask, seed: int = 0) -> list[TrainingRun]:
    return [TrainingRun(seed, 0.2, class_weights(task.label, "basic"))]


def trained(
    task: TrainingTask, training: TrainingConfig = SHORT, reduction: str = "joint"
) -> tuple[Ranker, dict[str, TrainingHistory]]:
    runs = one_run(task)
    ranker = ranker_of(task, runs)
    course = train_ranker(ranker, runs, task, RankerConfig(reduction=reduction), training, 0)
    assert all(len(histories) == 1 for histories in course.values())
    return ranker, {step: histories[0] for step, histories in course.items()}


def test_vectors_for_missing_blocks_are_learned() -> None:
    task = toy()
    ranker, _ = trained(task, SHORT.model_copy(update={"weight_decay": 0.0}))
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
    train_ranker(ranker, runs, task, RankerConfig(reduction=reduction), SHORT, 0)
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
    ranker, course = trained(task, reduction=reduction)
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
    ranker, course = trained(paper, SHORT.model_copy(update={"epochs": 2, "patience": 2}))
    answers, label = (
        predict_logits(ranker, task.inputs, task.selection_rows)[0],
        task.label[task.selection_rows],
    )
    rate = float(np.mean(answers[~label] >= 0))
    assert 0 < rate < 1
    assert max(course["ranker"].score) == pytest.approx(-rate)


def test_training_stops_when_patience_ends() -> None:
    task = toy()
    training = SHORT.model_copy(update={"epochs": 80, "patience": 3, "learning_rate": 0.05})
    _, course = trained(task, training)
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
