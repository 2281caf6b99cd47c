"""Lists of items are those that scoring every pair alone would give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmrec.pipeline import TrainedModel
from mmrec.ranker.inputs import RankerInputs, TrainingRun, TrainingTask
from mmrec.recommender.lists import ListScorer
from toys import ranker_of, toy_features

ITEMS = 30
EQUAL = (0.5, 0.5)


@pytest.fixture
def features():
    return toy_features(200, np.random.default_rng(1), factors=4)


def random_model(features, *, linear=True, inactive=()):
    """A model of three runs in which every weight matters, but for the corrections of inactive runs."""
    task = TrainingTask(RankerInputs(features), None, np.arange(200), None)
    ranker = ranker_of(task, [TrainingRun(seed, 0.3, EQUAL) for seed in range(3)], linear=linear)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.normal_(std=0.5, generator=generator)
        for parameter in ranker.top[-1].parameters():
            parameter[list(inactive)] = 0
    return TrainedModel(None, ranker.eval(), EQUAL, {})


def probabilities(model, features, user):
    """Of all items, by the ranker itself."""
    items = torch.arange(features.item.unknown_index)
    with torch.inference_mode():
        batch = RankerInputs(features).view_batch(torch.full_like(items, user), items)
        return model.probability(model.ranker(batch).numpy())


def ranked(scorer, user, items=ITEMS):
    """Codes of all items, the likeliest first, and their probabilities."""
    probability = scorer.probabilities(user, np.arange(items))
    codes = np.argsort(-probability, kind="stable")
    return codes, probability[codes]


@pytest.mark.parametrize("factors", [0, 4])
@pytest.mark.parametrize(("linear", "inactive"), [(False, ()), (True, ()), (True, (0, 2)), (True, (0, 1, 2))])
def test_lists_agree_with_the_ranker(linear, inactive, factors):
    features = toy_features(200, np.random.default_rng(1), factors=factors)
    model = random_model(features, linear=linear, inactive=inactive)
    scorer = ListScorer(model, features)
    for user in (0, 7, features.user.unknown_index):
        expected = probabilities(model, features, user)
        assert np.ptp(expected) > 0.05
        codes, probability = ranked(scorer, user)
        assert sorted(codes.tolist()) == list(range(ITEMS))
        assert probability == pytest.approx(np.sort(expected)[::-1], abs=1e-6)
        assert expected[codes] == pytest.approx(probability, abs=1e-6)


def test_probabilities_of_a_list_are_those_of_its_pairs(features):
    scorer, codes = ListScorer(random_model(features), features), np.array([5, 29, 11])
    pairs = np.full(3, 7), codes
    assert scorer.probabilities(7, codes) == pytest.approx(scorer.score_pairs(pairs), abs=1e-6)
    assert scorer.probabilities(7, codes[:0]).shape == (0,)


@pytest.mark.parametrize(("stored", "inactive"), [(20_000, ()), (20_000, (0, 1, 2)), (20, (0,))])
def test_changed_and_added_items_are_scored_anew(features, stored, inactive, monkeypatch):
    monkeypatch.setattr("mmrec.recommender.lists._MAX_STORED_ITEMS", stored)
    model = random_model(features, inactive=inactive)
    scorer = ListScorer(model, features)
    order = ranked(scorer, 5)[0]
    best, worst = order[0], order[-1]
    for array in (features.item.dense, features.item.vectors["gist"], features.item.factors):
        array[worst] = array[best]
    features.item.categories[worst] = features.item.categories[best]
    scorer.update_items(features, np.array([worst]))
    assert {best, worst} == set(ranked(scorer, 5)[0][:2].tolist())
    larger = replace(features, item=features.item.with_capacity(2))
    larger.item.replace_views(np.array([ITEMS]), features.item)
    scorer.update_items(larger, np.array([ITEMS]))
    codes, probability = ranked(scorer, 5, ITEMS + 1)
    assert ITEMS in codes
    expected = probabilities(model, larger, 5)[ITEMS]
    assert probability[codes == ITEMS] == pytest.approx([expected], abs=1e-6)


def test_pairs_are_scored_in_chunks_of_any_size(features, monkeypatch):
    scorer = ListScorer(random_model(features), features)
    views = (np.arange(30), np.arange(30) % 20)
    together, order = scorer.score_pairs(views), ranked(scorer, 4)[0].tolist()
    monkeypatch.setattr("mmrec.recommender.lists._CHUNK_ROWS", 7)
    monkeypatch.setattr("mmrec.recommender.lists._MAX_STORED_ITEMS", 10)
    assert scorer.score_pairs(views) == pytest.approx(together, abs=1e-6)
    assert ranked(scorer, 4)[0].tolist() == order
    assert ranked(ListScorer(random_model(features), features), 4)[0].tolist() == order
    assert scorer.score_pairs((views[0][:0], views[1][:0])).shape == (0,)
