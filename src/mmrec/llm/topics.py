"""Topics of sentences that praise or blame, such as "quiet" or "slow", by phrases of `topics.json`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from mmrec.llm.lexicon import Lexicon, Phrases, Words, split_words
from mmrec.llm.types import Note

Polarity = Literal["praise", "blame"]


@dataclass
class TopicCounts:
    """In how many of some reviews each topic is praised, or blamed."""

    reviews: int = 0
    praise: Counter[str] = field(default_factory=Counter)
    blame: Counter[str] = field(default_factory=Counter)

    def of(self, polarity: Polarity) -> Counter[str]:
        """The counts of one polarity."""
        return self.praise if polarity == "praise" else self.blame

    def surprise(self, polarity: Polarity, topic: str, usual: TopicCounts) -> float:
        """How much more often reviews name a topic than `usual` ones do, weighed by their number.

        With k of n reviews and a usual share p it is k log(k / (n p)): the part of the
        log-likelihood ratio (Dunning, 1993) that is due to the topic.
        """
        count = self.of(polarity)[topic]
        # As if one more review in two had named it: a topic that no usual review names is rare.
        share = (usual.of(polarity)[topic] + 0.5) / (usual.reviews + 1)
        return count * math.log(count / (self.reviews * share)) if count else 0.0


class TopicReader:
    """Counts the topics of notes; those of restaurants include dishes and cuisines that are praised.

    Topics and their phrases are those of `restaurant`, of `film`, or of any other kind of item.
    """

    def __init__(self, item_kind: str) -> None:
        content = json.loads(resources.files("mmrec.llm").joinpath("topics.json").read_bytes())
        kind = content.get(item_kind.strip().lower(), content["generic"])
        self._phrases: dict[Polarity, Phrases[str]] = {}
        polarities: tuple[Polarity, Polarity] = ("praise", "blame")
        for polarity in polarities:
            self._phrases[polarity] = Phrases.by_meaning(kind[polarity])
        has_dishes = kind["categories_are_topics"]
        self._dishes = Lexicon(item_kind).keywords if has_dishes else Phrases({})

    def topics(self, sentence: str, polarity: Polarity) -> set[str]:
        """The topics that a sentence praises, or blames."""
        words = split_words(sentence)
        topics = {topic for _, _, topic in self._phrases[polarity].find(words)}
        return topics | self._find_dishes(words) if polarity == "praise" else topics

    def count(self, notes: Iterable[Note]) -> TopicCounts:
        """Count the reviews whose likes, or dislikes, name each topic."""
        counts = TopicCounts()
        for note in notes:
            counts.reviews += 1
            counts.praise.update(set().union(*(self.topics(like, "praise") for like in note.likes)))
            blamed = (self.topics(dislike, "blame") for dislike in note.dislikes)
            counts.blame.update(set().union(*blamed))
        return counts

    def _find_dishes(self, words: Words) -> set[str]:
        """Dishes and cuisines by their own names, each in the singular where that is known."""
        dishes: set[str] = set()
        for _, dish, _ in self._dishes.find(words):
            if self._phrases["praise"].find(dish.split()):
                continue  # a word such as "kid friendly" is a topic already
            singular = dish.removesuffix("s").split()
            dishes.add(" ".join(singular) if self._dishes.find(singular) else dish)
        return dishes
