"""Inputs and training: what a run learns, selects and stops at, as alone so in a stack; the linear model."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from mmrec.config import TrainingConfig
from mmrec.evaluation.metrics import reweighted
from mmrec.features.tables import FEATURE_GROUPS, EntityFeatures, Features, dense_columns, group_of
from mmrec.ranker import inputs as inputs_module
from mmrec.ranker.inputs import ColdStartDropout, RankerInputs, Standardiser, TrainingRun
from mmrec.ranker.linear import _match_share, fit_linear, logistic_curve
from mmrec.ranker.training import (
    StackTrainer,
    class_weights,
    predict_logits,
    remove_class_weights,
    weighted_loss,
)
from toys import DENSE, NUMBERS, ranker_of, toy, toy_features

EQUAL = (0.5, 0.5)
TEXT = ["user gist"] * 5 + ["item gist"] * 5 + ["user gist", "item gist"]
COLUMNS = DENSE + TEXT + ["categories"] * 4
NO_CATEGORIES = np.zeros((2, 0), dtype=np.int64)
TOY_GROUPS = ("ratings", "user text", "item text", "categories", "counts")
SINGLE = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=6, patience=6, cold_start_dropout=0.1)
LONG = SINGLE.model_copy(update={"learning_rate": 0.02, "weight_decay": 0.1, "epochs": 40, "patience": 3})
SHORT = LONG.model_copy(update={"epochs": 3})


@pytest.fixture
def exact():
    """Double precision: a stack adds up in another order, and Adam amplifies small differences."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def grid(task, masked=False):
    """Two losses by three rates of dropout, each with a seed, and masked groups if asked for."""
    runs, settings = [], product(["plain", "basic"], [0.0, 0.2, 0.5])
    for group, (loss, rate) in zip((*TOY_GROUPS, "price"), settings, strict=True):
        weights, hidden = class_weights(task.label, loss), frozenset({group} if masked else ())
        runs.append(TrainingRun(5 + len(runs), rate, weights, hidden))
    return runs


def trained(task, runs, reduction, training, *, linear=False, seed=4):
    ranker = ranker_of(task, runs, linear=linear)
    ranker.mask_inputs(DENSE, [run.masked_groups for run in runs])
    if linear:
        for index, run in enumerate(runs):
            generator = torch.Generator().manual_seed(run.seed)
            ranker.linear.weight.data[index].normal_(std=0.3, generator=generator)
    return ranker, StackTrainer(ranker, runs, task, training, seed).train(reduction)


def equal(ranker, run, other, other_run, within=1e-9):
    """Whether a run of one stack has the weights of a run of another, but for rounding."""
    pairs = zip(ranker.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a[run], b[other_run], rtol=0, atol=within) for a, b in pairs)


def one_run(task):
    return [TrainingRun(0, 0.2, class_weights(task.label, "basic"))]


def selection_logits(ranker, task):
    return predict_logits(ranker, task.inputs, task.selection_rows)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("reduction", "cold_start", "linear", "by_fpr", "masked"),
    [
        ("staged", 0.0, False, False, False),
        ("staged", 0.1, False, False, True),
        ("staged", 0.0, True, True, False),
        ("joint", 0.0, False, False, False),
        ("joint", 0.1, False, True, False),
        ("joint", 0.1, True, False, True),
    ],
)
def test_each_run_of_a_stack_is_the_run_alone(reduction, cold_start, linear, by_fpr, masked):
    task = toy(dtype=np.float64)
    task = replace(task, test_rows=task.valid_rows if by_fpr else None)
    training = LONG.model_copy(update={"cold_start_dropout": cold_start})
    runs = grid(task, masked)
    stack, steps = trained(task, runs, reduction, training, linear=linear)
    assert sorted(steps) == ["ranker", "reducer text"][: 1 + (reduction == "staged")]
    for histories in steps.values():
        lengths = {len(history.score) for history in histories}
        assert len(lengths) > 2, "runs are to leave the stack at different times"
        assert max(lengths) < LONG.epochs
        for history in histories:
            assert len(history.loss) == len(history.score) == history.best + LONG.patience + 1
            assert history.score[history.best] == max(history.score)
    assert not stack.training
    logits = selection_logits(stack, task)
    if not (by_fpr or linear):
        label = torch.from_numpy(task.label[task.selection_rows]).double()
        weights = torch.tensor([run.class_weights for run in runs])
        losses = weighted_loss(torch.from_numpy(logits), label, weights)
        best = [max(history.score) for history in steps["ranker"]]
        assert (-losses).tolist() == pytest.approx(best, abs=1e-9)
    for index, run in enumerate(runs):
        alone, own_steps = trained(task, [run], reduction, training, linear=linear)
        assert own_steps.keys() == steps.keys()
        for step, (history,) in own_steps.items():
            assert steps[step][index].loss == pytest.approx(history.loss, abs=1e-9)
            assert steps[step][index].score == pytest.approx(history.score, abs=1e-9)
        assert equal(stack, index, alone, 0)
        assert logits[index] == pytest.approx(selection_logits(alone, task)[0], abs=1e-9)


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
    masked = [frozenset(), *(frozenset({group}) for group in TOY_GROUPS), frozenset(FEATURE_GROUPS)]
    runs = [TrainingRun(1, 0.1, (0.5, 0.5), groups) for groups in masked]
    training = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=4, patience=4)
    ranker, _ = trained(task, runs, reduction, training, linear=linear, seed=0)
    before = predict_logits(ranker, task.inputs, task.valid_rows)
    assert np.ptp(before[-1]) == 0
    rng = np.random.default_rng(0)
    for run, group in enumerate(TOY_GROUPS, start=1):
        sides = [with_noise(getattr(task.inputs, kind), kind, group, rng) for kind in ("user", "item")]
        views = task.inputs.user_view.numpy(), task.inputs.item_view.numpy()
        after = predict_logits(ranker, RankerInputs(Features(*sides, *views)), task.valid_rows)
        assert np.array_equal(after[run], before[run]), group
        # The toy's count never changes, and so has no influence anyway.
        assert (group == "counts") == np.allclose(after[0], before[0]), group


def test_runs_differ_by_settings_and_seeds_alone():
    task = toy()
    run = TrainingRun(5, 0.2, EQUAL)
    others = [replace(run, dropout=0.5), replace(run, seed=6), replace(run, class_weights=(0.8, 0.2))]
    untrained = ranker_of(task, [run, run, *others])
    assert equal(untrained, 0, untrained, 2)
    assert not equal(untrained, 0, untrained, 3)
    ranker, steps = trained(task, [run, *others, run], "joint", SHORT)
    assert equal(ranker, 0, ranker, 4, within=1e-6)
    assert steps["ranker"][0].score == pytest.approx(steps["ranker"][4].score, abs=1e-6)
    assert not any(equal(ranker, 0, ranker, index, within=1e-3) for index in (1, 2, 3))


@pytest.mark.parametrize("by_fpr", [False, True])
def test_an_epoch_that_diverged_is_never_kept(by_fpr):
    """The run returns to its last finite epoch, and the others go on."""
    task = toy()
    task = replace(task, test_rows=task.valid_rows if by_fpr else None)
    runs = [TrainingRun(1, 0.0, EQUAL), TrainingRun(2, 0.0, EQUAL)]
    ranker = ranker_of(task, runs)
    start = ranker.top[-1].weight.detach().clone()
    score = ranker.score

    def diverge(*inputs):
        logit = score(*inputs)
        return torch.stack([logit[0] * torch.nan, logit[1]]) if len(logit) == 2 else logit

    ranker.score = diverge
    histories = StackTrainer(ranker, runs, task, SHORT, 3).train("joint")["ranker"]
    assert histories[0].score == [-np.inf] * 3
    assert np.isfinite(histories[1].score).all()
    assert torch.equal(ranker.top[-1].weight[0], start[0])
    assert not torch.equal(ranker.top[-1].weight[1], start[1])


@pytest.mark.parametrize("proven", [True, False])
def test_a_correction_and_linear_scores_stay_only_where_validation_rows_prove_them(proven):
    task = toy()
    task.label[task.valid_rows] ^= not proven
    runs = [*one_run(task), TrainingRun(1, 0.0, EQUAL)]
    ranker = ranker_of(task, runs, linear=True)
    StackTrainer(ranker, runs, task, SINGLE, 0).train("joint")
    assert ranker.top[-1].weight.flatten(1).any(1).tolist() == [proven] * 2
    fit_linear(ranker, runs, task, np.zeros(6, dtype=bool))
    with torch.inference_mode():
        rows = torch.from_numpy(task.train_rows)
        logit = ranker.linear(ranker.linear_columns(task.inputs.row_batch(rows)))[1, :, 0].numpy()
    # Where valid contradicts the regression, its order stays, near the share of likes.
    assert roc_auc_score(task.label[task.train_rows], logit) > 0.7
    share = task.label[task.train_rows].mean()
    near_share = pytest.approx(np.log(share / (1 - share)), abs=0.1)
    assert (logit == near_share) != proven


def test_a_logistic_curve_always_rises():
    score, rng = np.arange(50.0), np.random.default_rng(0)
    label = rng.random(50) < 1 / (1 + np.exp((score - 25) / 5))
    rising, falling = logistic_curve(score, ~label), logistic_curve(score, label)
    curve = LogisticRegression(C=1e6).fit(score[:, None], ~label)
    assert rising == pytest.approx((curve.coef_[0, 0], curve.intercept_[0]))
    assert 0 < falling[0] < 0.001
    assert 1 / (1 + np.exp(-falling[0] * score - falling[1])) == pytest.approx(label.mean(), abs=0.01)
    assert logistic_curve(np.ones(4), np.array([True, False, True, True]))[0] >= 0


@pytest.mark.parametrize("reduction", ["staged", "joint"])
@pytest.mark.parametrize("cold_start", [0.0, 0.1])
def test_reducers_are_frozen_while_the_ranker_trains_only_when_staged(reduction, cold_start):
    task, runs = toy(), one_run(toy())
    ranker = ranker_of(task, runs)
    reducer = ranker.reducers["text"]
    start = [parameter.detach().clone() for parameter in reducer.layers.parameters()]
    dropout, seen = [], []
    reducer.layers.register_forward_hook(lambda module, inputs, output: dropout.append(inputs[1]))

    def record(*_):  # in the ranker's own training alone
        weights = [parameter.detach().clone() for parameter in reducer.parameters()]
        seen.append((dropout[-1] is not None and dropout[-1].training, weights))

    ranker.top.register_forward_hook(record)
    training = SINGLE.model_copy(update={"cold_start_dropout": cold_start})
    StackTrainer(ranker, runs, task, training, 0).train(reduction)
    assert not all(map(torch.equal, start, reducer.layers.parameters()))
    seen.append((False, reducer.parameters()))
    frozen, first = reduction == "staged", seen[0][1]
    assert all(all(map(torch.equal, first, weights)) for _, weights in seen) == frozen
    assert any(training for training, _ in seen) != frozen


def test_a_reducer_alone_predicts_a_like_through_its_head():
    task = toy()
    stack = StackTrainer(ranker_of(task, one_run(task)).eval(), one_run(task), task, SINGLE, 0)
    reducer, rows = stack.ranker.reducers["text"], torch.arange(20)
    x = stack.ranker.columns(task.inputs.row_batch(rows))["text"]
    for layer in reducer.layers:
        x = (x @ layer.weight[0] + layer.bias[0]).relu()
    expected = (x @ reducer.head.weight[0] + reducer.head.bias[0])[:, 0]
    assert torch.allclose(stack.predict_outcome("text", rows)[0], expected, atol=1e-5)


def test_the_paper_selects_the_epoch_by_the_false_positive_rate():
    task = toy()
    paper = replace(task, valid_rows=task.train_rows, test_rows=task.valid_rows)
    training = SINGLE.model_copy(update={"epochs": 2})
    ranker, steps = trained(paper, one_run(paper), "joint", training, seed=0)
    logits, label = selection_logits(ranker, paper)[0], task.label[paper.test_rows]
    rate = float(np.mean(logits[~label] >= 0))
    assert 0 < rate < 1
    assert max(steps["ranker"][0].score) == pytest.approx(-rate)


def test_the_weighted_loss_by_hand_and_of_shards():
    logit, label = torch.tensor([0.0, np.log(3.0), -np.log(4.0)]), torch.tensor([1.0, 0.0, 0.0])
    # Entropies log 2, log 4, log 5/4 at weights .2, .8, .8: a sum of logs is the log of a product.
    expected = (0.2 * np.log(2) + 0.8 * np.log(4 * 1.25)) / 1.8
    plain = np.log(2 * 4 * 1.25) / 3
    logits, weights = logit.float().expand(2, 3), torch.tensor([[0.8, 0.2], EQUAL])
    assert weighted_loss(logits, label, weights).tolist() == pytest.approx([expected, plain])
    shards = [weighted_loss(logits[:, rows], label[rows], weights, label) for rows in ([0], [1, 2])]
    assert sum(shards).tolist() == pytest.approx([expected, plain])


@pytest.mark.parametrize("loss", ["plain", "basic", "sqrt"])
@pytest.mark.parametrize("p", [0.02, 0.5, 0.85])
def test_probabilities_undo_the_class_weights(loss, p):
    weights = class_weights(np.arange(100) < 83, loss)
    # The logit at which the derivative of p w_like log(1 + e^-x) + (1 - p) w_dislike log(1 + e^x) is zero.
    best = np.log(weights[1] * p) - np.log(weights[0] * (1 - p))
    gradient = (1 - p) * weights[0] / (1 + np.exp(-best)) - p * weights[1] / (1 + np.exp(best))
    assert gradient == pytest.approx(0)
    assert remove_class_weights(best, weights) == pytest.approx(p)
    assert 1 / (1 + np.exp(-best)) == pytest.approx(reweighted(np.array([p]), weights)[0])


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
        slope = LogisticRegression(C=1e6).fit(score[valid], task.label[valid]).coef_[0, 0]
        shift = np.log(run.class_weights[1] / run.class_weights[0])
        # The intercept gives train rows as many likes as they have.
        assert np.ptp(logit - slope * score[:, 0]) < 4e-3
        assert (1 / (1 + np.exp(shift - logit[train]))).mean() == pytest.approx(task.label[train].mean())


@pytest.mark.parametrize("later", [False, True])
def test_the_share_of_likes_is_that_of_train_rows_unless_validation_rows_prove_another(later):
    task = toy(3000)
    if later:
        task.label[task.valid_rows[::4]] = True
    share = [float(task.label[rows].mean()) for rows in (task.train_rows, task.valid_rows)]
    ranker = ranker_of(task, [TrainingRun(1, 0.0, EQUAL)], linear=True)
    fit_linear(ranker, [TrainingRun(1, 0.0, EQUAL)], task, np.arange(6) == 0)
    for rows, other in ((task.train_rows, 0), (task.valid_rows, 1)):
        probability = remove_class_weights(predict_logits(ranker, task.inputs, rows)[0], EQUAL)
        assert (probability.mean() == pytest.approx(share[other], abs=1e-4)) == (other == later)


def test_inputs_beyond_those_of_train_rows_and_rare_indicators_are_limited():
    rng = np.random.default_rng(0)
    features = toy_features(400, rng, factors=3)
    item, rows = features.item, np.flatnonzero(features.item_view > 0)
    item.dense[:, 1] = np.arange(len(item.dense)) == 1  # one item in thirty has no rating
    item.dense[:, 2] = 50 + np.arange(len(item.dense))
    item.dense[0, 2], item.dense[-1, 2] = 1e9, 0  # an item that no train row has; the unknown one
    inputs = RankerInputs(features)
    standardiser = Standardiser(inputs.dense_size, inputs.block_sizes)
    standardiser.fit(inputs, rows)
    views = torch.tensor([0, len(item.dense) - 1, 1, 29])
    batch = inputs.view_batch(torch.zeros(4, dtype=torch.int64), views)
    columns = standardiser.dense_columns(batch)
    assert columns[[1, 0], 5].tolist() == columns[[2, 3], 5].tolist()
    assert float(columns[2, 4] - columns[3, 4]) == pytest.approx(2)
    assert standardiser.dense_high[-1] == torch.inf  # the factor score


def test_rows_are_gathered_from_their_views():
    features = toy_features(300, np.random.default_rng(0))
    user, item = features.user, features.item
    batch = RankerInputs(features).row_batch(torch.tensor([5, 0]))
    user_views, item_views = features.user_view[[5, 0]], features.item_view[[5, 0]]
    assert np.array_equal(batch.dense, np.hstack([user.dense[user_views], item.dense[item_views]]))
    for name, entity, views in (("user gist", user, user_views), ("item gist", item, item_views)):
        assert np.array_equal(batch.vectors[name], entity.vectors["gist"][views])
        assert np.array_equal(batch.present[name][:, 0], entity.present["gist"][views])
    assert np.array_equal(batch.categories, item.categories[item_views])


def test_cold_start_dropout_hides_ratings_or_texts_or_both_at_its_rate():
    inputs, rows = toy(rows=4000).inputs, torch.arange(4000)
    whole = inputs.row_batch(rows)
    dropped = inputs.row_batch(rows, ColdStartDropout(0.3, torch.Generator().manual_seed(0)))
    had_gist = {name: (whole.present[name] == 1)[:, 0] for name in ("user gist", "item gist")}
    hidden = {
        "user": (dropped.dense[:, :3] == 0).all(1),
        "item": (dropped.dense[:, 3:] == 0).all(1),
        "categories": (dropped.categories == 4).all(1),
        "user gist": (dropped.present["user gist"] == 0)[:, 0] & had_gist["user gist"],
    }
    shares = [float(hidden[name].float().mean()) for name in ("user", "item", "categories")]
    assert shares == pytest.approx([0.3] * 3, abs=0.03)
    together = (hidden["user"] & hidden["user gist"]).float().mean()
    assert float(together) == pytest.approx(0.5 * float(hidden["user gist"].float().mean()), abs=0.02)
    missing = (dropped.present["item gist"] == 0)[:, 0]
    assert torch.equal(hidden["categories"][had_gist["item gist"]], missing[had_gist["item gist"]])
    visible = ~hidden["user"] & ~hidden["item"]
    assert torch.equal(dropped.dense[visible], whole.dense[visible])


def test_columns_made_from_text_are_those_of_the_text_views():
    """An unknown user's ratings with a known user's text: prices are of the text, means are not."""
    dense = np.array([[5, 0.5], [3, 0.0]], dtype=np.float32)
    entity = EntityFeatures(("mean rating", "cheap price"), dense, {}, {}, NO_CATEGORIES)
    row = np.zeros(1, dtype=np.int64)
    known, unknown = torch.tensor([0]), torch.tensor([1])
    inputs = RankerInputs(Features(entity, entity, row, row))
    mixed = inputs.view_batch(known, unknown, unknown, known).dense
    assert mixed.tolist() == [[5, 0, 3, 0.5]]


def test_the_factor_score_is_a_column_of_the_pair_and_zero_for_unknown_users():
    def entity(rows):
        factors = np.array(rows, dtype=np.float16)
        dense = np.zeros((len(factors), 1), dtype=np.float32)
        return EntityFeatures(("mean rating",), dense, {}, {}, NO_CATEGORIES[:, :0], factors)

    user, item = entity([[1, 2], [3, 0], [0, 0]]), entity([[5, 1], [0, 0]])
    features = Features(user, item, np.array([0, 1]), np.array([0, 0]))
    inputs = RankerInputs(features)
    assert inputs.dense_size == 3
    assert inputs.row_batch(torch.arange(2)).dense[:, 2].tolist() == [7, 15]
    assert inputs.view_batch(torch.tensor([2, 0]), torch.tensor([0, 1])).dense[:, 2].tolist() == [0, 0]
    assert dense_columns(features) == ["user mean rating", "item mean rating", "factor score"]


@pytest.mark.parametrize("spread", [0.0, 1.0, 300.0, 1e6])
def test_the_share_of_likes_is_matched_without_warnings_however_sure_the_logits_are(spread):
    rng = np.random.default_rng(0)
    logit, label = 5 + spread * rng.normal(size=1000), rng.random(1000) < 0.8
    with np.errstate(all="raise"):
        intercept = _match_share(logit, label)
        probability = 1 / (1 + np.exp(-(logit + intercept).clip(-30, 30)))
    assert probability.mean() == pytest.approx(label.mean(), abs=1e-3)  # one row, where all are sure


@pytest.mark.parametrize("rows_at_once", [7, 1 << 14])
def test_inputs_are_standardised_on_the_given_rows(monkeypatch, rows_at_once):
    """Moments of blocks are weighted by presence, over the views of the rows, each counted once."""
    monkeypatch.setattr(inputs_module, "_CHUNK_ROWS", rows_at_once)
    rng, rows = np.random.default_rng(1), np.arange(0, 200, 2)
    features = toy_features(300, rng, factors=2)
    entities = {}
    for kind, entity in (("user", features.user), ("item", features.item)):
        weight = entity.present["gist"] * rng.random(len(entity.dense)).astype(np.float32)
        entities[kind] = replace(entity, present={"gist": weight})
    inputs = RankerInputs(replace(features, **entities))
    standardiser = Standardiser(inputs.dense_size, inputs.block_sizes)
    standardiser.fit(inputs, rows)
    batch = inputs.row_batch(torch.from_numpy(rows))
    dense = standardiser.dense_columns(batch).double().numpy()
    assert dense.mean(0) == pytest.approx(np.zeros(7), abs=1e-4)
    # The third column of either entity never changes, and so is left out.
    assert dense.std(0) == pytest.approx([1, 1, 0, 1, 1, 0, 1], abs=1e-4)
    columns = standardiser.block_columns(batch, ["user gist", "item gist"]).double().numpy()
    for position, (kind, view) in enumerate((("user", features.user_view), ("item", features.item_view))):
        seen, weight = np.unique(view[rows]), entities[kind].present["gist"][:, None].astype(float)
        vectors = entities[kind].vectors["gist"].astype(float)
        mean = (weight * vectors)[seen].sum(0) / weight[seen].sum()
        deviation = (weight * (vectors - mean))[seen][weight[seen, 0] > 0].std(0, mean=np.zeros((1, 5)))
        scaled = (weight * (vectors - mean) / np.sqrt(np.square(deviation).sum()))[view[rows]]
        assert columns[:, 5 * position : 5 * position + 5] == pytest.approx(scaled, abs=1e-5)
        assert columns[:, 10 + position] == pytest.approx(1 - weight[view[rows], 0], abs=1e-6)
