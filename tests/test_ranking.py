"""The ranker by hand, its training, and a task that only words can solve."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from conftest import interactions
from mmrec.cache.store import Store
from mmrec.config import Config, EvidenceConfig, RankerConfig, TrainingConfig
from mmrec.data.split import Split
from mmrec.encoder.text_encoder import Encoder
from mmrec.evaluation.metrics import reweighted
from mmrec.evidence.policies import Evidence
from mmrec.experiments.baselines import baseline_probabilities
from mmrec.features.dataset import Dataset
from mmrec.features.tables import EntityFeatures, Features
from mmrec.pipeline import PreparedData, TrainedModel, open_models, train_model
from mmrec.ranker.dlrm import Ranker, RankerShape, TrainingRun, interact
from mmrec.ranker.inputs import Batch, ColdStartDropout, InputMoments, RankerInputs, category_bag
from mmrec.ranker.layers import StackedLinear
from mmrec.ranker.loss import class_weights
from mmrec.ranker.training import TrainingHistory, TrainingTask, predict_logits, train_ranker, weighted_loss
from toys import ranker_of, toy

pytestmark = pytest.mark.usefixtures("one_thread")

EQUAL = (0.5, 0.5)
SHORT = TrainingConfig(learning_rate=0.01, batch_size=64, epochs=6, patience=6, cold_start_dropout=0.1)


def fill(layer: torch.nn.Module, weight: list[list[float]], bias: list[float] | None) -> None:
    """Give the second run its weights, a row an output."""
    assert isinstance(layer, StackedLinear)
    with torch.no_grad():
        layer.weight[1] = torch.tensor(weight).T
        if bias is not None:
            assert layer.bias is not None
            layer.bias[1] = torch.tensor(bias)


def hand_made() -> Ranker:
    """A ranker of two runs; the second is of round numbers."""
    ranker = Ranker(
        RankerShape(
            dense=2,
            groups={"text": {"user a": 1, "item b": 1}},
            categories=3,
            embedding_size=2,
            hidden_size=2,
            runs=2,
        ),
        [TrainingRun(seed, 0.5, EQUAL) for seed in range(2)],
    )
    reducer = ranker.reducers["text"]
    identity = [[1.0, 0.0], [0.0, 1.0]]
    fill(ranker.bottom[0], identity, [0, -1])
    fill(ranker.bottom[3], [[1, 1], [0, 2]], [0, 1])
    # Without an item's words, 8 stands for them.
    fill(reducer.layers[0], [[1, 0, 0, 0], [0, 1, 0, 8]], [0, 0])
    fill(reducer.layers[3], [[0.5, 0], [0, 0.25]], [0, 0])
    fill(reducer.head[1], [[1, -3]], [0.5])
    fill(ranker.top[0], [[1, 1, 1, 0, 0], [0, 0, 0, -1, 4]], [-10, 3])
    fill(ranker.top[3], [[0.5, 3]], [-1])
    fill(ranker.categories, [[1, 0, 2], [0, 1, 2]], None)
    ranker.dense_mean.copy_(torch.tensor([1.0, 2.0]))
    ranker.dense_scale.copy_(torch.tensor([0.5, 1.0]))
    mean = {"user a": torch.tensor([1.0]), "item b": torch.tensor([0.0])}
    deviation = {"user a": torch.tensor([0.5]), "item b": torch.tensor([1.0])}
    ranker.blocks["text"].standardise(InputMoments(mean["item b"], mean["item b"], mean, deviation))
    return ranker.eval()


def reduced(ranker: Ranker, batch: Batch) -> torch.Tensor:
    """The second run's reduced words."""
    return ranker.reduce(ranker.block_columns(batch))[0][1]


def hand_batch() -> Batch:
    return Batch(
        dense=torch.tensor([[5.0, 5.0], [1.0, 2.0]]),
        vectors={"user a": torch.tensor([[2.0], [4.0]]), "item b": torch.tensor([[4.0], [-99.0]])},
        present={"user a": torch.ones(2, 1), "item b": torch.tensor([[1.0], [0.0]])},
        categories=torch.tensor([[0, 2, 3], [3, 3, 3]]),
    )


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


def test_interactions_are_dot_products_of_all_pairs_in_row_order() -> None:
    a, b, c = (torch.tensor([one, one[::-1]]) for one in ([1.0, 2.0], [3.0, 5.0], [-1.0, 4.0]))
    assert interact([a, b, c]).tolist() == [[13, 7, 17], [13, 7, 17]]
    assert interact([a, b]).tolist() == [[13], [13]]
    d = torch.tensor([[10.0, 0.0], [0.0, 10.0]])
    # ab, ac, ad, bc, bd, cd
    assert interact([a, b, c, d])[0].tolist() == [13, 7, 10, 17, 30, -10]


def test_a_forward_pass_by_hand() -> None:
    ranker, batch = hand_made(), hand_batch()
    # Row 1: bottom (5 - 1) / 2 = 2, 5 - 2 = 3 -> hidden 2, 2 -> 4, 5. Words (2 - 1) / .5 = 2 and 4 -> 1, 1.
    # Categories (1, 0) + (2, 2) = 3, 2. Dots 9, 22, 5. Top 4 + 5 + 9 - 10 = 8, -22 + 20 + 3 = 1 -> 4 + 3 - 1.
    # Row 2: bottom 0, 0 -> 0, 0 -> 0, 1. Words (4 - 1) / .5 = 6 and the learned 8 -> 3, 2. No category.
    # Dots 2, 0, 0. Top 0 + 1 + 2 - 10 -> 0, 3 -> 9 - 1.
    assert reduced(ranker, batch).tolist() == [[1, 1], [3, 2]]
    assert ranker(batch)[1].tolist() == [6, 8]
    outcome = ranker.reducers["text"].predict_outcome(ranker.block_columns(batch)["text"])
    assert outcome[1].tolist() == [1 - 3 + 0.5, 3 - 6 + 0.5]


def test_a_missing_block_is_the_learned_vector_whatever_is_stored() -> None:
    ranker, batch = hand_made(), hand_batch()
    before = reduced(ranker, batch)[1]
    batch.vectors["item b"][1] = 1234.0
    assert torch.equal(reduced(ranker, batch)[1], before)
    fill(ranker.reducers["text"].layers[0], [[1, 0, 0, 0], [0, 1, 0, 12]], [0, 0])
    assert reduced(ranker, batch).tolist() == [[1, 1], [3, 3]]


def test_vectors_for_missing_blocks_are_learned() -> None:
    task = toy()
    ranker, _ = trained(task, SHORT.model_copy(update={"weight_decay": 0.0}))
    before, after = (
        one.reducers["text"].layers[0].weight[0, -2:] for one in (ranker_of(task, one_run(task)), ranker)
    )
    assert bool(((after - before).abs().amax(1) > 1e-3).all())


def test_the_padding_of_categories_is_no_category() -> None:
    assert category_bag(hand_batch().categories, 3).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_ranker_without_words_and_categories_ranks_by_dense_alone() -> None:
    shape = RankerShape(dense=2, groups={}, categories=0, embedding_size=4, hidden_size=3, runs=2)
    ranker = Ranker(shape, [TrainingRun(seed, 0.5, EQUAL) for seed in range(2)]).eval()
    batch = Batch(torch.ones(3, 2), {}, {}, torch.zeros(3, 0, dtype=torch.int64))
    assert torch.equal(ranker(batch), ranker.top(ranker.bottom(batch.dense))[:, :, 0])


def test_weighted_loss_by_hand() -> None:
    logit, label = torch.tensor([0.0, np.log(3.0), -np.log(4.0)]), torch.tensor([1.0, 0.0, 0.0])
    # Entropies log 2, log 4, log 5/4 at weights .2, .8, .8.
    expected = (0.2 * np.log(2) + 0.8 * np.log(4) + 0.8 * np.log(1.25)) / 1.8
    weights = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    plain = (np.log(2) + np.log(4) + np.log(1.25)) / 3
    loss = weighted_loss(logit.float().expand(2, 3), label, weights)
    assert loss.tolist() == pytest.approx([expected, plain])


def test_weighted_loss_is_the_weighted_cross_entropy_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    weights = torch.tensor([EQUAL, (0.83, 0.17), (0.3, 0.9)])
    logit = torch.randn(3, 50, generator=rng) * 4
    label = (torch.rand(50, generator=rng) < 0.7).float()
    two = torch.stack([torch.zeros(3, 50), logit], dim=2)
    theirs = [
        functional.cross_entropy(one, label.long(), weight=weight).item()
        for one, weight in zip(two, weights, strict=True)
    ]
    assert weighted_loss(logit, label, weights).tolist() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("loss", ["plain", "basic", "sqrt"])
@pytest.mark.parametrize("p", [0.02, 0.5, 0.85])
def test_probabilities_undo_the_class_weights(loss: str, p: float) -> None:
    weights = class_weights(np.arange(100) < 83, loss)
    logit = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([logit], max_iter=100, tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        entropy = (
            functional.softplus(-logit) * p * weights[1] + functional.softplus(logit) * (1 - p) * weights[0]
        )
        entropy.sum().backward()
        return entropy.sum()

    optimiser.step(closure)
    model = TrainedModel(builder=None, ranker=None, class_weights=weights, history={})  # type: ignore[arg-type]
    best = logit.detach().numpy()
    assert model.probability(best[None]) == pytest.approx([p], abs=2e-3)
    assert 1 / (1 + np.exp(-best)) == pytest.approx(reweighted(np.array([p]), weights), abs=2e-3)


def test_inputs_are_standardised_on_the_rows_of_train() -> None:
    task = toy()
    ranker = ranker_of(task, one_run(task))
    dense = task.inputs.row_batch(torch.from_numpy(task.train_rows)).dense
    scaled = (dense - ranker.dense_mean) * ranker.dense_scale
    assert scaled.mean(0).tolist() == pytest.approx([0] * 6, abs=1e-4)
    # The third column of either side never changes, and so says nothing.
    assert scaled.std(0, correction=0).tolist() == pytest.approx([1, 1, 0, 1, 1, 0], abs=1e-4)


def test_rows_are_gathered_from_their_views() -> None:
    task = toy()
    inputs = task.inputs
    batch = inputs.row_batch(torch.tensor([5, 0]))
    for at, row in enumerate((5, 0)):
        user, item = int(inputs.user_view[row]), int(inputs.item_view[row])
        assert batch.dense[at].tolist() == [
            *inputs.user.dense[user].tolist(),
            *inputs.item.dense[item].tolist(),
        ]
        assert torch.equal(batch.vectors["user gist"][at], inputs.user.vectors["user gist"][user].float())
        assert torch.equal(batch.vectors["item gist"][at], inputs.item.vectors["item gist"][item].float())
        assert torch.equal(batch.categories[at], inputs.item.categories[item])


def test_forgetting_hides_its_share_of_ratings_and_words_apart() -> None:
    inputs = toy(rows=4000).inputs
    rows = torch.arange(4000)
    whole = inputs.row_batch(rows)
    part = ColdStartDropout(inputs, 0.3, torch.Generator().manual_seed(0)).row_batch(rows)
    hidden = {
        "user": (part.dense[:, :3] == 0).all(1),
        "item": (part.dense[:, 3:] == 0).all(1),
        "categories": (part.categories == 4).all(1),
        "user gist": (part.present["user gist"] == 0)[:, 0] & (whole.present["user gist"] == 1)[:, 0],
    }
    assert [float(hidden[name].float().mean()) for name in ("user", "item", "categories")] == pytest.approx(
        [0.3] * 3, abs=0.03
    )
    both = (hidden["user"] & hidden["user gist"]).float().mean()
    assert float(both) == pytest.approx(0.3 * float(hidden["user gist"].float().mean()), abs=0.02)
    spoken = (whole.present["item gist"] == 1)[:, 0]
    assert torch.equal(hidden["categories"][spoken], (part.present["item gist"] == 0)[spoken, 0])
    kept = ~hidden["user"] & ~hidden["item"]
    assert torch.equal(part.dense[kept], whole.dense[kept])


def test_nothing_is_forgotten_at_a_share_of_zero() -> None:
    inputs, rows = toy().inputs, torch.arange(300)
    part, whole = (ColdStartDropout(inputs, 0.0, torch.Generator()).row_batch(rows), inputs.row_batch(rows))
    assert torch.equal(part.dense, whole.dense)
    assert torch.equal(part.categories, whole.categories)
    for name, values in whole.vectors.items():
        assert torch.equal(part.vectors[name], values)
        assert torch.equal(part.present[name], whole.present[name])


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


# A checkerboard of tastes: two kinds of users and of items, a like exactly where they match. Everyone's mean
# is the same, so ratings tell nothing; but the words reveal the kinds.
SIDE = 24
LOVES = (
    ("I adore spicy noodles.", "Give me hot chilli soup any day.", "I live for fiery curries."),
    ("I adore sweet cakes.", "Give me chocolate tarts any day.", "I live for sugary pastries."),
)
SERVES = (
    ("This noodle bar cooks spicy food.", "The kitchen makes hot chilli ramen.", "A curry house."),
    ("This bakery makes sweet cakes.", "The counter is full of chocolate tarts.", "A pastry shop."),
)
TASTE = Config(
    seed=3,
    evidence=EvidenceConfig(folds=4),
    ranker=RankerConfig(reduction="joint", embedding_size=8, hidden_size=32, dropout=0.1),
    training=TrainingConfig(
        loss="basic", learning_rate=0.003, batch_size=128, epochs=40, patience=40, cold_start_dropout=0.05
    ),
)


@pytest.fixture(scope="module")
def board(encoder: Encoder) -> PreparedData:
    """Reviews of everything by everyone; some diagonals are held out, each with both kinds of a row."""
    user, item = np.divmod(np.arange(SIDE * SIDE), SIDE)
    match = user % 2 == item % 2
    data = interactions(user.tolist(), item.tolist(), np.where(match, 5, 2).tolist())
    texts = [
        f"{LOVES[u % 2][(u + i) % 3]} {SERVES[i % 2][(u + 2 * i) % 3]}"
        for u, i in zip(user, item, strict=True)
    ]
    store = Store(None)
    models = open_models(Config(), store=store)
    empty: list[list[str]] = [[] for _ in texts]
    corpus = Dataset(data, texts, empty, empty[:SIDE], models, 0)
    diagonal = (item - user) % SIDE
    split = Split(
        *(np.flatnonzero(rows) for rows in (diagonal > 7, (diagonal > 3) & (diagonal < 8), diagonal < 4))
    )
    evidence = Evidence.derive(data, split, "fold", 4, np.random.default_rng(0))
    nothing: Any = None
    return PreparedData(nothing, corpus, split, evidence, data.rating >= 4, TASTE)


@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_tastes_are_learned_from_words_where_means_tell_nothing(board: PreparedData, features: str) -> None:
    label, split = board.label, board.split
    config = TASTE.model_copy(update={"ranker": TASTE.ranker.model_copy(update={"features": features})})
    probability = train_model(replace(board, config=config)).probability
    assert roc_auc_score(label[split.test], probability[split.test]) > 0.95
    peers = baseline_probabilities(board.dataset.data, split, label)
    assert roc_auc_score(label[split.test], peers["bias model"][split.test]) < 0.65


def test_one_seed_gives_one_model_another_seed_another_and_global_randomness_is_left_alone(
    board: PreparedData,
) -> None:
    short = TASTE.training.model_copy(update={"epochs": 2})
    ranker = TASTE.ranker.model_copy(update={"features": "baseline", "reduction": "staged"})
    config = TASTE.model_copy(update={"training": short, "ranker": ranker})
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    random.seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first = train_model(replace(board, config=config))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]
    torch.manual_seed(12)
    again = train_model(replace(board, config=config))
    other = train_model(replace(board, config=config.model_copy(update={"seed": 4})))
    assert np.array_equal(first.probability, again.probability)
    assert not np.allclose(first.probability, other.probability)
    for name, weights in first.model.ranker.state_dict().items():
        assert torch.equal(weights, again.model.ranker.state_dict()[name]), name


def test_learning_reads_no_label_of_a_test_row(board: PreparedData) -> None:
    corpus, split = board.dataset, board.split
    short = TASTE.training.model_copy(update={"epochs": 2})
    ranker = TASTE.ranker.model_copy(update={"features": "baseline"})
    config = TASTE.model_copy(update={"training": short, "ranker": ranker})
    before = train_model(replace(board, config=config))
    data = interactions(corpus.data.user.tolist(), corpus.data.item.tolist(), corpus.data.rating.tolist())
    data.rating[split.test] = 5
    texts = list(corpus.texts)
    for row in split.test:
        texts[row] = "This text must not be heard."
    turned = Dataset(data, texts, corpus.photos, corpus.item_photos, corpus.models, 0)
    after = train_model(replace(board, dataset=turned, config=config))
    assert np.array_equal(before.probability, after.probability)


def test_columns_that_come_out_of_words_follow_the_words() -> None:
    """A stranger's ratings with an item's words: prices are words, averages are not."""
    names = ("mean rating", "cheap price")
    dense = np.array([[5, 0.5], [3, 0.0]], dtype=np.float32)
    none = np.zeros((2, 0), dtype=np.int64)
    side = EntityFeatures(names, dense, {}, {}, none)
    inputs = RankerInputs(Features(side, side, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)))
    known, nothing = torch.tensor([0]), torch.tensor([1])
    mixed = inputs.view_batch(known, nothing, user_text_view=nothing, item_text_view=known).dense
    assert mixed.tolist() == [[5, 0, 3, 0.5]]
