"""The linear model under our ranker, against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mmrec.ranker.inputs import TrainingRun
from mmrec.ranker.linear import fit_linear
from toys import DENSE, ranker_of, toy

TEXT = ["user gist"] * 5 + ["item gist"] * 5 + ["user gist", "item gist"]
COLUMNS = DENSE + TEXT + ["categories"] * 4


def test_the_linear_model_is_a_calibrated_ridge_regression_with_class_weights():
    task = toy(600)
    runs = [TrainingRun(1, 0.0, (0.5, 0.5)), TrainingRun(2, 0.0, (0.8, 0.2))]
    ranker = ranker_of(task, runs, linear=True)
    masks = [frozenset(), frozenset({"user text"})]
    ranker.mask_inputs(DENSE, masks)
    lightly_penalised = np.arange(6) == 3
    fit_linear(ranker, runs, task, lightly_penalised)
    with torch.inference_mode():
        columns = ranker.linear_columns(task.inputs.row_batch(torch.arange(600)))
        logits = ranker.linear(columns)[:, :, 0].numpy()
    names = np.array(COLUMNS)
    penalty = np.where(np.char.startswith(names, "user gist"), 1000.0, 300.0)
    penalty[16:18] = 300.0  # indicators of missing texts
    penalty[3] = 10.0
    train, valid = task.train_rows, task.valid_rows
    for logit, run, masked in zip(logits, runs, masks, strict=True):
        visible = names != "user gist" if masked else np.ones(len(names), dtype=bool)
        # A penalty of each column's own is a penalty of one on scaled columns.
        x = (columns.double().numpy() / np.sqrt(penalty))[:, visible]
        score = Ridge(alpha=1.0).fit(x[train], task.label[train]).predict(x)[:, None]
        curve = LogisticRegression(C=1e6).fit(score[valid], task.label[valid])
        shift = np.log(run.class_weights[1] / run.class_weights[0])
        assert logit == pytest.approx(curve.decision_function(score) + shift, abs=2e-3)


def test_scores_that_contradict_validation_rows_are_ignored():
    task = toy(600)
    label = task.label.copy()
    label[task.valid_rows] = ~label[task.valid_rows]
    runs = [TrainingRun(1, 0.0, (0.5, 0.5))]
    ranker = ranker_of(task, runs, linear=True)
    fit_linear(ranker, runs, replace(task, label=label), np.zeros(6, dtype=bool))
    share = label[task.valid_rows].mean()
    assert not ranker.linear.weight.any()
    assert ranker.linear.bias.item() == pytest.approx(np.log(share / (1 - share)), abs=1e-5)
