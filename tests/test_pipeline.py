"""Models learn from words what ratings cannot tell, reproducibly and without test labels."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from checkerboard import ITEM_TEXTS, USER_TEXTS
from mmrec.cache.store import Store
from mmrec.config import Config, EvidenceConfig, RankerConfig, TrainingConfig
from mmrec.data.schema import Split
from mmrec.evaluation.simple_baselines import simple_baseline_probabilities
from mmrec.evidence.policies import Evidence
from mmrec.features.dataset import Dataset
from mmrec.pipeline import PreparedData, choose_model, open_models, train_model
from review_tables import interactions, reviews_of

# A checkerboard: two kinds of users and of items, a like exactly where they match. Everyone's mean is the
# same, so ratings predict nothing; but the words reveal the kinds.
SIDE = 24
CONFIG = Config(
    seed=3,
    evidence=EvidenceConfig(folds=4),
    ranker=RankerConfig(reduction="joint", embedding_size=8, hidden_size=32, dropout=0.1),
    training=TrainingConfig(
        loss="basic", learning_rate=0.003, batch_size=128, epochs=40, patience=40, cold_start_dropout=0.05
    ),
)


def checkerboard(*, changed=False):
    """Reviews of everything by everyone; some diagonals are held out, each with both kinds of a row.

    Ratings and texts of test rows can be `changed`.
    """
    user, item = np.divmod(np.arange(SIDE * SIDE), SIDE)
    diagonal = (item - user) % SIDE
    parts = (diagonal > 7, (diagonal > 3) & (diagonal < 8), diagonal < 4)
    split = Split(*map(np.flatnonzero, parts))
    data = interactions(user.tolist(), item.tolist(), np.where(user % 2 == item % 2, 5, 2).tolist())
    label, texts = data.rating >= 4, []
    for u, i in zip(user, item, strict=True):
        texts.append(f"{USER_TEXTS[u % 2][(u + i) % 3]} {ITEM_TEXTS[i % 2][(u + 2 * i) % 3]}")
    for row in split.test if changed else ():
        data.rating[row], texts[row] = 5, "No other row may use this text."
    models = open_models(Config(), store=Store(None))
    dataset = Dataset.from_reviews(reviews_of(data, texts), models, Config())
    evidence = Evidence.derive(data, split, "fold", 4, np.random.default_rng(0))
    return PreparedData(None, dataset, split, evidence, label, CONFIG)


@pytest.fixture(scope="module")
def board(minilm):
    return checkerboard()


def train(board, epochs=40, seed=3, **ranker):
    training = CONFIG.training.model_copy(update={"epochs": epochs})
    changes = {"training": training, "seed": seed, "ranker": CONFIG.ranker.model_copy(update=ranker)}
    return train_model(replace(board, config=CONFIG.model_copy(update=changes)))


@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_likes_are_learned_from_words_where_means_predict_nothing(board, features):
    label, split = board.label, board.split
    probability = train(board, features=features).probability
    assert roc_auc_score(label[split.test], probability[split.test]) > 0.95
    peers = simple_baseline_probabilities(board.baseline_task)
    assert roc_auc_score(label[split.test], peers["bias model"][split.test]) < 0.65


def test_one_seed_gives_one_model_another_seed_another_and_global_randomness_is_left_alone(board):
    def global_states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    torch.manual_seed(11)
    before = global_states()
    first = train(board, 2, features="baseline", reduction="staged")
    assert global_states() == before
    torch.manual_seed(12)
    again = train(board, 2, features="baseline", reduction="staged")
    other = train(board, 2, seed=4, features="baseline", reduction="staged")
    assert np.array_equal(first.probability, again.probability)
    assert not np.allclose(first.probability, other.probability)
    for name, weights in first.model.ranker.state_dict().items():
        assert torch.equal(weights, again.model.ranker.state_dict()[name]), name


def test_learning_reads_no_label_of_a_test_row(board):
    changed = checkerboard(changed=True)
    first, second = (train(data, 2, features="baseline").probability for data in (board, changed))
    assert np.array_equal(first, second)


def test_a_model_that_words_prove_is_used_and_one_without_use_is_replaced_by_the_bias_model(board):
    proven = choose_model(train(board, 2))
    assert proven.verdict.model == proven.name == "mmrec"
    assert proven.verdict.sentence.startswith("Use mmrec: ")
    # Ratings that users and items alone explain, and texts that say nothing.
    rng = np.random.default_rng(0)
    data = board.dataset.data
    rating = rng.normal(0, 1, SIDE)[data.user] + rng.normal(3.5, 1, SIDE)[data.item]
    rating += rng.normal(0, 0.5, len(data))
    data = replace(data, rating=np.clip(rating, 1, 5).astype(np.float32))
    texts = [f"word{number}" for number in rng.integers(9, size=len(data))]
    dataset = Dataset.from_reviews(reviews_of(data, texts), board.dataset.models, Config())
    plain = replace(board, dataset=dataset, label=data.rating >= 4)
    trained = train(plain, 2)
    result = choose_model(trained)
    assert result.name == result.verdict.model == "bias model"
    assert result.verdict.sentence.startswith("Use the simpler one: ")
    bias = simple_baseline_probabilities(plain.baseline_task)["bias model"]
    assert result.probability == pytest.approx(bias, abs=1e-3)
    assert not np.allclose(trained.probability, bias, atol=0.05)
    metrics, test = result.evaluate({"mmrec": {}}).metrics, plain.split.test
    assert list(metrics) == ["mmrec", "bias model"]
    assert metrics["bias model"]["auc"] == pytest.approx(roc_auc_score(plain.label[test], bias[test]))
    # Other models are kept, as they are asked for by name; so is ours without the setting.
    for options in ({"features": "baseline"}, {"fallback": False}):
        kept = choose_model(train(plain, 2, **options), bias)
        assert kept.verdict.model != "bias model"
        assert "takes the place" not in kept.verdict.sentence
