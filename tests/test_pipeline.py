"""Models learn from words what ratings cannot tell, reproducibly and without test labels."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from checkerboard import ITEM_TEXTS, USER_TEXTS
from mmrec.cache.store import Store
from mmrec.config import Config, EvidenceConfig, RankerConfig, TrainingConfig
from mmrec.data.schema import Split
from mmrec.evidence.policies import Evidence
from mmrec.experiments.baselines import simple_baseline_probabilities
from mmrec.features.dataset import Dataset
from mmrec.pipeline import PreparedData, open_models, train_model
from review_tables import interactions, reviews_of

# A checkerboard of tastes: two kinds of users and of items, a like exactly where they match. Everyone's mean
# is the same, so ratings tell nothing; but the words reveal the kinds.
SIDE = 24
TASTE = Config(
    seed=3,
    evidence=EvidenceConfig(folds=4),
    ranker=RankerConfig(reduction="joint", embedding_size=8, hidden_size=32, dropout=0.1),
    training=TrainingConfig(
        loss="basic", learning_rate=0.003, batch_size=128, epochs=40, patience=40, cold_start_dropout=0.05
    ),
)


@pytest.fixture(scope="module")
def board(encoder):
    """Reviews of everything by everyone; some diagonals are held out, each with both kinds of a row."""
    user, item = np.divmod(np.arange(SIDE * SIDE), SIDE)
    match = user % 2 == item % 2
    data = interactions(user.tolist(), item.tolist(), np.where(match, 5, 2).tolist())
    texts = [
        f"{USER_TEXTS[u % 2][(u + i) % 3]} {ITEM_TEXTS[i % 2][(u + 2 * i) % 3]}"
        for u, i in zip(user, item, strict=True)
    ]
    models = open_models(Config(), store=Store(None))
    corpus = Dataset(reviews_of(data, texts), models, Config())
    diagonal = (item - user) % SIDE
    split = Split(
        *(np.flatnonzero(rows) for rows in (diagonal > 7, (diagonal > 3) & (diagonal < 8), diagonal < 4))
    )
    evidence = Evidence.derive(data, split, "fold", 4, np.random.default_rng(0))
    nothing: Any = None
    return PreparedData(nothing, corpus, split, evidence, data.rating >= 4, TASTE)


@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_tastes_are_learned_from_words_where_means_tell_nothing(board, features):
    label, split = board.label, board.split
    config = TASTE.model_copy(update={"ranker": TASTE.ranker.model_copy(update={"features": features})})
    probability = train_model(replace(board, config=config)).probability
    assert roc_auc_score(label[split.test], probability[split.test]) > 0.95
    peers = simple_baseline_probabilities(board.dataset.data, split, label)
    assert roc_auc_score(label[split.test], peers["bias model"][split.test]) < 0.65


def test_one_seed_gives_one_model_another_seed_another_and_global_randomness_is_left_alone(board):
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


def test_learning_reads_no_label_of_a_test_row(board):
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
    turned = Dataset(reviews_of(data, texts), corpus.models, Config())
    after = train_model(replace(board, dataset=turned, config=config))
    assert np.array_equal(before.probability, after.probability)
