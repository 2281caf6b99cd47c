"""Reasons that people understand: items that they liked, topics of reviews, shares of likes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Literal

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import EntityKind
from mmrec.features.dataset import Dataset
from mmrec.llm.topics import Polarity, TopicCounts, TopicReader
from mmrec.llm.types import Note, Wish
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.online import OnlineState
from mmrec.recommender.quotes import Quote


@dataclass(frozen=True)
class Reason:
    """One reason for or against an item, in plain words and as data."""

    kind: Literal["liked", "topic", "reviewers", "wish"]
    text: str  # as in "Quiet, 12 mentions"
    favourable: bool
    # Of `count` reviewers or reviews of `total`: who liked it too, who mention the topic, who liked
    # the item; both are 0 where nothing is counted.
    count: int = 0
    total: int = 0
    items: list[str] = field(default_factory=list)  # ids of items that the user liked
    topic: str = ""


@dataclass(frozen=True)
class Tastes:
    """What reasons know of a user."""

    user: int | None  # None for a new user
    liked: np.ndarray  # (k,) codes of items
    topics: TopicCounts  # of the user's reviews, or words


class ReasonFinder:
    """Finds reasons for items, which have codes, from all reviews with live ones."""

    def __init__(
        self, config: Config, dataset: Dataset, online: OnlineState, catalog: Catalog
    ) -> None:
        self._dataset, self._online, self._catalog = dataset, online, catalog
        self._live = online.live
        self._like_rating = config.like_rating
        self._reader = TopicReader(config.annotation.item_kind)
        # By code and number of changes, which a live review increases.
        self._topic_counts = lru_cache(maxsize=20_000)(self._count_topics)

    def tastes(self, user: int | None, wish: Wish | None, liked: Sequence[int]) -> Tastes:
        """The tastes of a user by code, or of a new user by a wish or liked items."""
        if user is not None:
            items, ratings = self._live.ratings("user", user)
            topics = self._topics("user", user)
            return Tastes(user, np.unique(items[ratings >= self._like_rating]), topics)
        note, codes = Note(), [*liked]
        if wish is not None:
            note = Note(likes=[*wish.wanted, *wish.prices], dislikes=wish.unwanted)
            for name in wish.similar_to:
                codes += self._catalog.items_called(name)
        return Tastes(None, np.array(codes, dtype=np.int64), self._reader.count([note]))

    def reasons(self, tastes: Tastes, item: int) -> list[Reason]:
        """Reasons for an item, the most personal ones first, and then against it."""
        reasons = self._liked_items(tastes, item)
        reasons += self._topic_reasons(tastes, item, "praise", 3)
        reasons.append(self._reviewers(item))
        return reasons + self._topic_reasons(tastes, item, "blame", 1)

    def quotes_of_topics(self, quotes: Sequence[Quote], topics: Sequence[str]) -> list[Quote]:
        """For each topic that is named, in their order, the first quote that names it."""
        first: dict[str, Quote] = {}
        for quote in quotes:
            for topic in self._reader.topics(quote.text, "praise" if quote.liked else "blame"):
                first.setdefault(topic, quote)
        return [first[topic] for topic in topics if topic in first]

    def _similar(self, items: np.ndarray, item: int) -> np.ndarray:
        """(k,) cosines of the texts about items, by code, to those about one item."""
        space = self._catalog.space("gist")
        return np.asarray(space.directions(items) @ space.directions(np.array([item]))[0])

    def _likers(self, item: int) -> np.ndarray:
        users, ratings = self._live.ratings("item", item)
        return np.unique(users[ratings >= self._like_rating])

    def _liked_items(self, tastes: Tastes, item: int) -> list[Reason]:
        """One reason: up to two similar liked items that others liked together with this one, or
        else the liked item with the nearest texts."""
        liked = tastes.liked[tastes.liked != item]
        if not len(liked):
            return []
        similarity = self._similar(liked, item)
        order = np.argsort(-similarity, kind="stable")
        nearest = liked[order][: min(5, (similarity > 0).sum())]
        likers = np.setdiff1d(self._likers(item), [-1 if tastes.user is None else tastes.user])
        together = {code: np.intersect1d(self._likers(code), likers) for code in nearest.tolist()}
        # A single user who liked both may be chance.
        chosen = [code for code, users in together.items() if len(users) > 1][:2]
        count = 0
        if chosen:
            count = len(np.unique(np.concatenate([together[code] for code in chosen])))
            pronoun = "either" if len(chosen) > 1 else "it"
            end = f": {count} others who liked {pronoun} liked this too"
        else:
            # Of restaurants 6 in 100 pairs are nearer; below, a likeness would not be seen.
            if similarity.max() < 0.3:
                return []
            chosen, end = [int(liked[similarity.argmax()])], ", which is similar"
        names = " and ".join(map(self._catalog.item_name, chosen))
        ids = [self._online.ids["item"][code] for code in chosen]
        text = f"Because you liked {names}{end}"
        return [Reason("liked", text, favourable=True, count=count, items=ids)]

    def _topic_reasons(
        self, tastes: Tastes, item: int, polarity: Polarity, limit: int
    ) -> list[Reason]:
        """Topics that two reviews or more name, those first that the user names unusually often."""
        counts, usual = self._topics("item", item), self.usual_topics
        weights: dict[str, tuple[bool, float]] = {}
        for topic, count in counts.of(polarity).items():
            if count > 1:
                is_mine = tastes.topics.surprise(polarity, topic, usual) > 0
                weights[topic] = is_mine, counts.surprise(polarity, topic, usual)
        reasons: list[Reason] = []
        ordered = sorted(weights, key=lambda topic: (weights[topic], topic), reverse=True)
        for topic in ordered[:limit]:
            count = counts.of(polarity)[topic]
            text = f"{topic[0].upper()}{topic[1:]}, {count} mentions"
            if counts.reviews < len(self._live.ratings("item", item)[0]):
                text += f" in {counts.reviews} reviews"  # the latest ones
            if weights[topic][0]:
                text += "; you mention it too"
            reason = Reason("topic", text, polarity == "praise", count, counts.reviews, topic=topic)
            reasons.append(reason)
        return reasons

    def _reviewers(self, item: int) -> Reason:
        users, _ = self._live.ratings("item", item)
        total, count = len(np.unique(users)), len(self._likers(item))
        if not total:
            return Reason("reviewers", "No reviews yet", favourable=False)
        if total == 1:
            text = f"{'Liked' if count else 'Not liked'} by its only reviewer"
        elif count == total:
            text = f"Liked by all {total} reviewers"
        elif total < 10:
            text = f"Liked by {count} of {total} reviewers"
        else:
            text = f"Liked by {count / total:.0%} of {total} reviewers"
        return Reason("reviewers", text, 2 * count >= total, count, total)

    def _topics(self, kind: EntityKind, code: int) -> TopicCounts:
        return self._topic_counts(kind, code, self._live.changes(kind, code))

    def _count_topics(self, kind: EntityKind, code: int, changes: int) -> TopicCounts:
        notes = map(attrgetter("note"), self._catalog.source.notes(kind, code))
        return self._reader.count(notes)

    @cached_property
    def usual_topics(self) -> TopicCounts:
        """The topics of 500 reviews or fewer, evenly spaced in the table."""
        size = len(self._dataset)
        rows = np.linspace(0, size, min(size, 500), endpoint=False).astype(np.int64)
        return self._reader.count(self._dataset.quotable_notes(rows))
