"""Topics that sentences praise or blame, and which of them are unusual."""

import json
from collections import Counter
from importlib import resources

import pytest

from mmrec.llm.topics import TopicCounts, TopicReader
from mmrec.llm.types import Note


@pytest.mark.parametrize(
    ("kind", "sentence", "polarity", "topics"),
    [
        ("restaurant", "So quiet, we could hear each other!", "praise", {"quiet"}),
        ("restaurant", "No loud music.", "praise", {"quiet"}),
        ("restaurant", "The noise was unbearable.", "blame", {"loud"}),
        ("restaurant", "Our waiter was slow and rude.", "blame", {"poor service", "slow", "unfriendly"}),
        ("restaurant", "Not too spicy, thank you.", "praise", {"mild"}),
        ("restaurant", "Loved the tacos and the taco salad.", "praise", {"taco", "salad"}),
        ("restaurant", "The hummus!", "praise", {"hummus"}),
        ("restaurant", "The tacos were there.", "blame", set()),
        ("film", "The cast is superb and the jokes land.", "praise", {"good acting", "funny"}),
        ("film", "Predictable and overlong.", "blame", {"predictable", "too long"}),
        ("lawn mower", "Easy to start, and it arrived early.", "praise", {"easy to use", "fast delivery"}),
        ("lawn mower", "", "praise", set()),
    ],
)
def test_topics_are_found_by_phrases_of_the_kind_of_item(kind, sentence, polarity, topics):
    assert TopicReader(kind).topics(sentence, polarity) == topics


def test_a_phrase_has_one_topic():
    content = json.loads(resources.files("mmrec.llm").joinpath("topics.json").read_bytes())
    for kind in content.values():
        for polarity in ("praise", "blame"):
            phrases = Counter(phrase for phrases in kind[polarity].values() for phrase in phrases)
            assert max(phrases.values()) == 1


def test_a_review_counts_once_and_rare_topics_surprise_more():
    fresh = Note(likes=["Fresh fish.", "Very fresh."], dislikes=["Loud.", "So noisy."])
    view = Note(likes=["What a view!", "Fresh bread."])
    counts = TopicReader("film noir").count([fresh, view])  # generic
    assert (counts.reviews, counts.blame) == (2, {"loud": 1})
    counts = TopicReader("restaurant").count([fresh, view])
    assert (counts.praise["fresh"], counts.praise["good view"]) == (2, 1)
    usual = TopicCounts(100, praise=Counter({"fresh": 50, "good view": 2}))
    assert counts.surprise("praise", "good view", usual) > counts.surprise("praise", "fresh", usual) > 0
    # Half of the reviews name it, as usual.
    half = TopicReader("restaurant").count([fresh, Note()])
    assert half.surprise("praise", "fresh", usual) == pytest.approx(0, abs=0.01)
    assert half.surprise("praise", "quiet", usual) == 0
