"""What can be said of items to people: names, prices, categories, photos, and who said what about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from mmrec.data.schema import Reviews
from mmrec.features.dataset import Dataset
from mmrec.llm.types import PRICE_TAGS, Note
from mmrec.recommender.explain import Quote
from mmrec.recommender.online import OnlineState
from mmrec.retrieval.text_neighbors import ItemLabels

__all__ = ["Catalog"]

_QUOTED_REVIEWS = 100


class Catalog:
    """Items by code, as they stand with live reviews.

    Args:
        reviews: all that were there when the model was made.
        corpus: the same, with what was read out of them.
        vocabulary: categories by code.
        live: features of items as they stand.
        colours: whether captions tell colours alone, which nobody goes anywhere for.
    """

    def __init__(
        self,
        reviews: Reviews,
        corpus: Dataset,
        vocabulary: Sequence[str],
        live: OnlineState,
        *,
        colours: bool,
    ) -> None:
        self._corpus, self._vocabulary, self._live = corpus, [*vocabulary], live
        self._colours = colours
        self._ids = reviews.table["review_id"]
        self._names = dict(zip(reviews.items["item"], reviews.items["name"], strict=True))
        self.items = [*corpus.data.items]
        self._said: dict[int, list[Quote]] = {}
        self._gists: dict[int, list[Quote]] = {}
        self._reviewed: dict[int, set[int]] = {}

    def add_review(self, user: int, item: int, name: str, review_id: str, quoted: Note) -> None:
        """Remember a live review: who wrote it, and its sentences, word for word."""
        self.update_item(item, name)
        self._reviewed.setdefault(user, set()).add(item)
        self._said.setdefault(item, []).extend(_quotes(quoted, review_id))
        self._gists.setdefault(item, []).extend(_gist(quoted, review_id))

    def update_item(
        self, item: int, item_id: str, name: str | None = None, captions: Sequence[str] = ()
    ) -> None:
        """Remember an item, what it is called, and what its photos show."""
        if item == len(self.items):
            self.items.append(item_id)
        if name:
            self._names[item_id] = name
        if not self._colours:
            self._said.setdefault(item, []).extend(
                Quote(said, "", True, photo=True) for said in captions
            )

    def name(self, item: int) -> str | None:
        """The item's name, where the data have one."""
        return self._names.get(self.items[item])

    def price(self, item: int) -> str | None:
        """The price tag with most votes; None where nobody spoke of the price."""
        code = int(self._prices(slice(item, item + 1))[0])
        return PRICE_TAGS[code] if code >= 0 else None

    def categories(self, item: int) -> list[str]:
        """Most voted first."""
        codes = self._live.features.item.categories[item]
        return [self._vocabulary[code] for code in codes if code < len(self._vocabulary)]

    def common_categories(self, limit: int) -> list[str]:
        """Categories of most items, sorted by name."""
        codes = self._live.features.item.categories[: len(self.items)]
        counts = Counter(dict(enumerate(np.bincount(codes.ravel(), minlength=1).tolist())))
        common = [
            code for code, count in counts.most_common() if count and code < len(self._vocabulary)
        ]
        return sorted(self._vocabulary[code] for code in common[:limit])

    def matching_items(self, categories: Sequence[str], prices: Sequence[str]) -> np.ndarray:
        """Codes of the items that have one of the categories and one of the prices, where any are named."""
        size = len(self.items)
        fits = np.ones(size, dtype=bool)
        if categories:
            wanted = [code for code, name in enumerate(self._vocabulary) if name in categories]
            fits &= np.isin(self._live.features.item.categories[:size], wanted).any(1)
        if prices:
            wanted = [code for code, tag in enumerate(PRICE_TAGS) if tag in prices]
            fits &= np.isin(self._prices(slice(0, size)), wanted)
        return np.flatnonzero(fits)

    def labels(self) -> ItemLabels:
        """Every item's categories and price."""
        size, known = len(self.items), len(self._vocabulary)
        prices, none = self._prices(slice(0, size)), known + len(PRICE_TAGS) - 1
        codes = self._live.features.item.categories[:size]
        both = np.column_stack(
            [np.where(codes < known, codes, none), np.where(prices >= 0, known + prices, none)]
        )
        return ItemLabels([*self._vocabulary, *PRICE_TAGS[:-1]], both)

    def _prices(self, items: slice) -> np.ndarray:
        """(n,) places in `PRICE_TAGS`; -1 where nobody spoke of the price."""
        side = self._live.features.item
        told = [at for at, tag in enumerate(PRICE_TAGS) if tag in side.names]
        if not told:
            return np.full(len(side.dense[items]), -1)
        shares = side.dense[items][:, [side.names.index(PRICE_TAGS[at]) for at in told]]
        return np.where((shares > 0).any(1), np.array(told)[shares.argmax(1)], -1)

    def describe(self, items: Sequence[int]) -> pl.DataFrame:
        """`item`, `name`, `price`, `categories` of some items."""
        return pl.DataFrame(
            {
                "item": [self.items[code] for code in items],
                "name": [self.name(code) for code in items],
                "price": [self.price(code) for code in items],
                "categories": [self.categories(code) for code in items],
            },
            schema={
                "item": pl.String,
                "name": pl.String,
                "price": pl.String,
                "categories": pl.List(pl.String),
            },
        )

    def reviewed_items(self, user: int) -> np.ndarray:
        """Codes of what a user has reviewed."""
        data = self._corpus.data
        return np.append(data.item[data.user == user], [*self._reviewed.get(user, ())]).astype(
            np.int64
        )

    def photos(self, item: int, most: int = 12) -> list[tuple[str, str]]:
        """Path and caption ("" where there is none) of its photos: its own, then those of its reviews."""
        if item >= len(self._corpus.data.items):
            return []
        rows = np.flatnonzero(self._corpus.data.item == item).tolist()
        of_reviews = (path for row in rows for path in self._corpus.photos[row])
        paths = [*self._corpus.item_photos[item], *of_reviews]
        there = [path for path in dict.fromkeys(paths) if Path(path).is_file()][:most]
        captions = self._captions if there else {}
        return [(path, captions.get(path, "")) for path in there]

    @cached_property
    def _captions(self) -> dict[str, str]:
        """By path; nobody is asked for captions while a page waits."""
        return {} if self._corpus.captions_missing else self._corpus.captions.texts

    def load_captions(self) -> None:
        """Look for captions now."""
        _ = self._captions

    def quotes(self, item: int) -> list[Quote]:
        """Sentences of its latest reviews, and captions of its photos."""
        rows = np.flatnonzero(self._corpus.data.item == item)[-_QUOTED_REVIEWS:]
        notes = zip(rows.tolist(), self._corpus.quotable_notes(rows), strict=True)
        old = [quote for row, note in notes for quote in _quotes(note, self._ids[row])]
        return [*old, *self._shown(item, rows.tolist()), *self._said.get(item, [])]

    def gists(self, item: int) -> list[Quote]:
        """The most telling sentence of each of its latest reviews."""
        rows = np.flatnonzero(self._corpus.data.item == item)[-_QUOTED_REVIEWS:]
        notes = zip(rows.tolist(), self._corpus.quotable_notes(rows), strict=True)
        old = [quote for row, note in notes for quote in _gist(note, self._ids[row])]
        return [*old, *self._gists.get(item, [])]

    def _shown(self, item: int, rows: list[int]) -> list[Quote]:
        """What photos show, under the id of their review where they have one."""
        if self._colours or item >= len(self._corpus.data.items):
            return []
        corpus, captions = self._corpus, self._captions
        own = corpus.item_captions[item] or [
            captions.get(path, "") for path in corpus.item_photos[item]
        ]
        said = [(caption, "") for caption in own]
        for row in rows:
            given = corpus.review_captions[row] or [
                captions.get(path, "") for path in corpus.photos[row]
            ]
            said += [(caption, self._ids[row]) for caption in given]
        return [
            Quote(caption, review_id, True, photo=True) for caption, review_id in said if caption
        ]


def _gist(note: Note, review_id: str) -> list[Quote]:
    return [Quote(note.gist, review_id, True)] if note.gist else []


def _quotes(note: Note, review_id: str) -> list[Quote]:
    said = ((note.likes, True), (note.dislikes, False))
    return [Quote(text, review_id, liked) for texts, liked in said for text in texts]
