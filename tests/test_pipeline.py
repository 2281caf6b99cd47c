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
from mmrec.evidence.policies import Evidence
from mmrec.experiments.baselines import BaselineTask, simple_baseline_probabilities
from mmrec.features.dataset import Dataset
from mmrec.pipeline import PreparedData, open_models, train_model
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
    peers = simple_baseline_probabilities(BaselineTask(board.dataset.data, split, label))
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
