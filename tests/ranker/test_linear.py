"""Inputs of the ranker and its linear part, against scikit-learn and slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mmrec.features.tables import EntityFeatures, Features, dense_columns, visible_columns
from mmrec.ranker import inputs as inputs_module
from mmrec.ranker.dlrm import TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.linear import RegressionMoments, fit_linear
from toys import ranker_of, toy


def test_the_ridge_regression_equals_scikit_learn_s_and_leaves_out_masked_columns() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(1, 2, (200, 5)), rng.random(200) < 0.6
    moments = RegressionMoments(200, float(y.sum()), x.sum(0), x.T @ x, x.T @ y)
    weights, constant = moments.solve(np.full(5, 30.0), np.ones(5, dtype=bool))
    reference = Ridge(alpha=30.0).fit(x, y)
    assert weights == pytest.approx(reference.coef_)
    assert constant == pytest.approx(reference.intercept_)
    visible = np.array([True, False, True, True, False])
    weights, constant = moments.solve(np.full(5, 30.0), visible)
    reference = Ridge(alpha=30.0).fit(x[:, visible], y)
    assert weights[~visible].tolist() == [0, 0]
    assert weights[visible] == pytest.approx(reference.coef_)
    assert constant == pytest.approx(reference.intercept_)


@pytest.mark.parametrize("rows_at_once", [7, 1 << 14])
def test_moments_are_weighted_by_the_presence_of_blocks(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(inputs_module, "_CHUNK_ROWS", rows_at_once)
    inputs, rows = toy(tastes=2).inputs, np.arange(0, 200, 2)
    rng = torch.Generator().manual_seed(1)
    for side in (inputs.user, inputs.item):
        side.present = {
            name: present * torch.rand(present.shape, generator=rng) for name, present in side.present.items()
        }
    mean, deviation, means, deviations = inputs.moments(rows)
    dense = inputs.row_batch(torch.from_numpy(rows)).dense.double().numpy()
    assert mean.numpy() == pytest.approx(dense.mean(0), abs=1e-5)
    assert deviation.numpy() == pytest.approx(dense.std(0), abs=1e-5)
    for kind, side, view in (
        ("user", inputs.user, inputs.user_view),
        ("item", inputs.item, inputs.item_view),
    ):
        seen = np.unique(view.numpy()[rows])
        weight = side.present[f"{kind} gist"].double().numpy()[seen]
        x = side.vectors[f"{kind} gist"].double().numpy()[seen][weight[:, 0] > 0]
        weight = weight[weight[:, 0] > 0]
        slow = (weight * x).sum(0) / weight.sum()
        assert means[f"{kind} gist"].numpy() == pytest.approx(slow, abs=1e-5)
        spread = np.sqrt(np.square(weight * (x - slow)).mean(0))
        assert deviations[f"{kind} gist"].numpy() == pytest.approx(spread, abs=1e-5)


def test_the_linear_part_is_a_calibrated_logit_with_class_weights() -> None:
    task = toy(600)
    runs = [TrainingRun(1, 0.0, (0.5, 0.5)), TrainingRun(2, 0.0, (0.8, 0.2))]
    ranker = ranker_of(task, runs, linear=True)
    valid = np.arange(400, 600)
    free = np.zeros(task.inputs.dense_size, dtype=bool)
    fit_linear(ranker, runs, task.inputs, task.label, task.train_rows, valid, free)
    assert ranker.linear is not None
    with torch.inference_mode():
        logit = ranker.linear(ranker.linear_columns(task.inputs.row_batch(torch.from_numpy(valid))))[
            :, :, 0
        ].numpy()
    for run_logit, run in zip(logit, runs, strict=True):
        curve = LogisticRegression(C=1e6).fit(run_logit[:, None], task.label[valid])
        assert curve.coef_[0, 0] == pytest.approx(1, abs=1e-2)
        assert curve.intercept_[0] == pytest.approx(
            np.log(run.class_weights[0] / run.class_weights[1]), abs=1e-2
        )


def test_the_factor_score_is_a_column_of_the_pair_and_zero_for_unknown_users() -> None:
    def side(rows: list[list[float]]) -> EntityFeatures:
        factors = np.array(rows, dtype=np.float16)
        dense, no_categories = (
            np.zeros((len(factors), 1), dtype=np.float32),
            np.zeros((len(factors), 0), dtype=np.int64),
        )
        return EntityFeatures(("mean rating",), dense, {}, {}, no_categories, factors)

    features = Features(
        side([[1, 2], [3, 0], [0, 0]]), side([[5, 1], [0, 0]]), np.array([0, 1]), np.array([0, 0])
    )
    inputs = RankerInputs(features)
    assert inputs.dense_size == 3
    assert inputs.row_batch(torch.arange(2)).dense[:, 2].tolist() == [7, 15]
    assert inputs.view_batch(torch.tensor([2, 0]), torch.tensor([0, 1])).dense[:, 2].tolist() == [0, 0]
    assert inputs.moments(np.arange(2))[0].tolist() == [0, 0, 11]
    assert dense_columns(features) == ["user mean rating", "item mean rating", "factor score"]
    masked = [frozenset[str](), frozenset({"ratings"}), frozenset({"item text"}), frozenset({"user text"})]
    assert visible_columns(["factor score"], masked)[:, 0].tolist() == [True, False, False, True]
