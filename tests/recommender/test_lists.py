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


@pytest.mark.parametrize("factors", [0, 4])
@pytest.mark.parametrize(("linear", "inactive"), [(False, ()), (True, ()), (True, (0, 2)), (True, (0, 1, 2))])
def test_lists_agree_with_the_ranker(linear, inactive, factors):
    features = toy_features(200, np.random.default_rng(1), factors=factors)
    model = random_model(features, linear=linear, inactive=inactive)
    scorer = ListScorer(model, features)
    for user in (0, 7, features.user.unknown_index):
        expected = probabilities(model, features, user)
        assert np.ptp(expected) > 0.05
        codes, probability = scorer.top_items(user, ITEMS)
        assert sorted(codes.tolist()) == list(range(ITEMS))
        assert probability == pytest.approx(np.sort(expected)[::-1], abs=1e-6)
        assert expected[codes] == pytest.approx(probability, abs=1e-6)


def test_a_list_has_only_likely_candidates_that_are_not_excluded(features):
    scorer = ListScorer(random_model(features), features)
    best, probability = scorer.top_items(3, 10)
    assert best.tolist() == scorer.top_items(3, ITEMS)[0][:10].tolist()
    assert scorer.top_items(3, 9, excluded=best[:1])[0].tolist() == best[1:].tolist()
    likely = scorer.top_items(3, 10, min_probability=probability[4])
    assert likely[0].tolist() == best[:5].tolist()
    assert likely[1].tolist() == probability[:5].tolist()
    candidates = np.array([5, 9, 11])
    codes, probability = scorer.top_items(0, 10, candidates=candidates, excluded=[9])
    assert sorted(codes) == [5, 11]
    assert probability == pytest.approx(scorer.score_pairs((np.zeros(2, dtype=np.int64), codes)), abs=1e-6)
    assert [len(part) for part in scorer.top_items(0, 0)] == [0, 0]
    assert [len(part) for part in scorer.top_items(0, 10, candidates=candidates[:0])] == [0, 0]


@pytest.mark.parametrize(("stored", "inactive"), [(20_000, ()), (20_000, (0, 1, 2)), (20, (0,))])
def test_changed_and_added_items_are_scored_anew(features, stored, inactive, monkeypatch):
    monkeypatch.setattr("mmrec.recommender.lists._MAX_STORED_ITEMS", stored)
    model = random_model(features, inactive=inactive)
    scorer = ListScorer(model, features)
    ranked = scorer.top_items(5, ITEMS)[0]
    best, worst = ranked[0], ranked[-1]
    for array in (features.item.dense, features.item.vectors["gist"], features.item.factors):
        array[worst] = array[best]
    features.item.categories[worst] = features.item.categories[best]
    scorer.update_item(features, int(worst))
    assert {best, worst} == set(scorer.top_items(5, 2)[0].tolist())
    larger = replace(features, item=features.item.with_capacity(2))
    larger.item.replace_view(ITEMS, features.item)
    scorer.update_item(larger, ITEMS)
    codes, probability = scorer.top_items(5, ITEMS + 1)
    assert ITEMS in codes
    expected = probabilities(model, larger, 5)[ITEMS]
    assert probability[codes == ITEMS] == pytest.approx([expected], abs=1e-6)


def test_pairs_are_scored_in_chunks_of_any_size(features, monkeypatch):
    scorer = ListScorer(random_model(features), features)
    views = (np.arange(30), np.arange(30) % 20)
    together, ranked = scorer.score_pairs(views), scorer.top_items(4, ITEMS)[0].tolist()
    monkeypatch.setattr("mmrec.recommender.lists._CHUNK_ROWS", 7)
    monkeypatch.setattr("mmrec.recommender.lists._MAX_STORED_ITEMS", 10)
    assert scorer.score_pairs(views) == pytest.approx(together, abs=1e-6)
    assert scorer.top_items(4, ITEMS)[0].tolist() == ranked
    assert ListScorer(random_model(features), features).top_items(4, ITEMS)[0].tolist() == ranked
    assert scorer.score_pairs((views[0][:0], views[1][:0])).shape == (0,)
