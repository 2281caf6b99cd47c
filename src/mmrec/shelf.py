"""What can be said of items to people: names, prices, categories, photos, and who said what about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmrec.corpus import Corpus
from mmrec.explain import Quote
from mmrec.language.base import PRICE_TAGS, Note
from mmrec.live import Live
from mmrec.reviews.table import Reviews

__all__ = ["Shelf"]

_QUOTED_REVIEWS = 100


class Shelf:
    """Items by code, as they stand with live reviews.

    Args:
        reviews: all that were there when the model was made.
        corpus: the same, with what was read out of them.
        vocabulary: categories by code.
        live: features of items as they stand.
    """

    def __init__(self, reviews: Reviews, corpus: Corpus, vocabulary: Sequence[str], live: Live) -> None:
        self._corpus, self._vocabulary, self._live = corpus, vocabulary, live
        self._ids = reviews.table["review_id"]
        self._names = dict(zip(reviews.items["item"], reviews.items["name"], strict=True))
        self.items = [*corpus.data.items]
        self._said: dict[int, list[Quote]] = {}
        self._reviewed: dict[int, set[int]] = {}

    def add(self, user: int, item: int, name: str, review_id: str, quoted: Note) -> None:
        """Remember a live review: who wrote it, and its sentences, word for word."""
        if item == len(self.items):
            self.items.append(name)
        self._reviewed.setdefault(user, set()).add(item)
        self._said.setdefault(item, []).extend(_quotes(quoted, review_id))

    def name(self, item: int) -> str | None:
        """The item's name, where the data have one."""
        return self._names.get(self.items[item])

    def price(self, item: int) -> str | None:
        """The price tag with most votes; None where nobody spoke of the price."""
        side = self._live.features.item
        tags = [tag for tag in PRICE_TAGS if tag in side.names]
        shares = [side.dense[item, side.names.index(tag)] for tag in tags]
        return tags[int(np.argmax(shares))] if any(shares) else None

    def categories(self, item: int) -> list[str]:
        """Most voted first."""
        codes = self._live.features.item.categories[item]
        return [self._vocabulary[code] for code in codes if code < len(self._vocabulary)]

    def has(self, item: int, categories: Sequence[str], prices: Sequence[str]) -> bool:
        """Whether an item has one of the categories and one of the prices, where any are named."""
        fits = not categories or not set(categories).isdisjoint(self.categories(item))
        return fits and (not prices or self.price(item) in prices)

    def reviewed(self, user: int) -> np.ndarray:
        """Codes of what a user has reviewed."""
        data = self._corpus.data
        return np.append(data.item[data.user == user], [*self._reviewed.get(user, ())]).astype(np.int64)

    def photos(self, item: int, most: int = 12) -> list[tuple[str, str]]:
        """Path and caption ("" where there is none) of its photos: its own, then those of its reviews."""
        if item >= len(self._corpus.data.items):
            return []
        rows = np.flatnonzero(self._corpus.data.item == item).tolist()
        of_reviews = (path for row in rows for path in self._corpus.photos[row])
        paths = [*self._corpus.item_photos[item], *of_reviews]
        there = [path for path in dict.fromkeys(paths) if Path(path).is_file()][:most]
        # Nobody is asked for captions while a page waits.
        said = self._corpus.captions.text if there and not self._corpus.captions_missing else {}
        return [(path, said.get(path, "")) for path in there]

    def quotes(self, item: int) -> list[Quote]:
        """Sentences of its latest reviews."""
        rows = np.flatnonzero(self._corpus.data.item == item)[-_QUOTED_REVIEWS:]
        notes = zip(rows, self._corpus.quotable(rows), strict=True)
        old = [quote for row, note in notes for quote in _quotes(note, self._ids[int(row)])]
        return [*old, *self._said.get(item, [])]


def _quotes(note: Note, review_id: str) -> list[Quote]:
    said = ((note.likes, True), (note.dislikes, False))
    return [Quote(text, review_id, liked) for texts, liked in said for text in texts]
