"""Items as people see them: names, prices, categories, photos and quotes; and search in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from mmrec.encoder.text_encoder import Encoder
from mmrec.features.dataset import Dataset
from mmrec.llm.sentences import split_query
from mmrec.llm.types import PRICE_TAGS, Note
from mmrec.recommender.online import OnlineState
from mmrec.recommender.persistence import SavedRecommender
from mmrec.retrieval.text_neighbors import ItemLabels, TextSpace, query_similarity

__all__ = ["Catalog", "Quote", "TextSearch"]

_NO_PRICE = PRICE_TAGS.index("none")
_QUOTED_REVIEWS = 100


@dataclass(frozen=True)
class Quote:
    """A sentence of a review, word for word, or the caption of a photo.

    Attributes:
        review_id: of the review; "" for a photo of the item itself.
        liked: whether it is a like or a dislike.
        photo: whether it is a caption.
    """

    text: str
    review_id: str
    liked: bool
    photo: bool = False


class Catalog:
    """Items by code, with live reviews; `dataset` has the reviews of the saved recommender."""

    def __init__(self, saved: SavedRecommender, dataset: Dataset, online: OnlineState) -> None:
        self._dataset, self._online = dataset, online
        self._vocabulary = [*saved.model.builder.vocabulary]
        # The builtin captioner names colours, which are not worth quoting.
        self._quote_captions = saved.config.vision.captioner != "builtin"
        table = saved.reviews.items
        self._names = dict(zip(table["item"], table["name"], strict=True))
        self.items = [*dataset.data.items]
        self._live_quotes: dict[int, list[Quote]] = defaultdict(list)
        self._live_gists: dict[int, list[Quote]] = defaultdict(list)
        self._live_items: dict[int, set[int]] = defaultdict(set)  # reviewed by each user

    def add_review(self, user: int, item: int, item_id: str, review_id: str, note: Note) -> None:
        """Add a live review; its note has sentences of the review, word for word."""
        self.update_item(item, item_id)
        self._live_items[user].add(item)
        self._live_quotes[item].extend(_sentences(note, review_id))
        self._live_gists[item].extend(_gist(note, review_id))

    def update_item(
        self, item: int, item_id: str, name: str | None = None, captions: Sequence[str] = ()
    ) -> None:
        """Add a new item, or add a name or captions to one."""
        if item == len(self.items):
            self.items.append(item_id)
        if name:
            self._names[item_id] = name
        if self._quote_captions:
            quotes = [Quote(caption, "", liked=True, photo=True) for caption in captions]
            self._live_quotes[item].extend(quotes)

    def name(self, item: int) -> str | None:
        """The item's name, if it has one."""
        return self._names.get(self.items[item])

    def price(self, item: int) -> str | None:
        """The price tag with most votes, if any."""
        price = int(self._prices(slice(item, item + 1))[0])
        return None if price == _NO_PRICE else PRICE_TAGS[price]

    def categories(self, item: int) -> list[str]:
        """The item's categories, that with most votes first."""
        codes = self._online.features.item.categories[item]
        return [self._vocabulary[code] for code in codes if code < len(self._vocabulary)]

    def common_categories(self, limit: int) -> list[str]:
        """The categories of most items, in alphabetical order."""
        codes = self._online.features.item.categories[: len(self.items)].ravel()
        counts = np.bincount(codes, minlength=len(self._vocabulary) + 1)[: len(self._vocabulary)]
        # The last code pads items with few categories, so it is not counted.
        by_count = Counter(dict(enumerate(counts.tolist()))).most_common(limit)
        return sorted(self._vocabulary[code] for code, count in by_count if count)

    def matching_items(self, categories: Sequence[str], prices: Sequence[str]) -> np.ndarray:
        """Codes of items with one of the categories and one of the prices, where any are given."""
        items = slice(0, len(self.items))
        matches = np.ones(len(self.items), dtype=bool)
        if categories:
            codes = np.flatnonzero(np.isin(self._vocabulary, categories))
            matches &= np.isin(self._online.features.item.categories[items], codes).any(1)
        if prices:
            codes = np.flatnonzero(np.isin(PRICE_TAGS, prices))
            matches &= np.isin(self._prices(items), codes)
        return np.flatnonzero(matches)

    def labels(self) -> ItemLabels:
        """The categories and the price of every item."""
        size, vocabulary_size = len(self.items), len(self._vocabulary)
        # Price tags have the codes behind the vocabulary; the last one, "none", is the padding.
        padding = vocabulary_size + _NO_PRICE
        categories = self._online.features.item.categories[:size]
        categories = np.where(categories < vocabulary_size, categories, padding)
        prices = vocabulary_size + self._prices(slice(0, size))
        codes = np.column_stack([categories, prices])
        return ItemLabels([*self._vocabulary, *PRICE_TAGS[:_NO_PRICE]], codes)

    def _prices(self, items: slice) -> np.ndarray:
        """(n,) positions in `PRICE_TAGS`."""
        features = self._online.features.item
        dense = features.dense[items]
        # Shares of votes are dense columns of the item; the paper's baseline has none.
        votes = np.zeros((len(dense), len(PRICE_TAGS)))
        for position, tag in enumerate(PRICE_TAGS):
            if tag in features.names:
                votes[:, position] = dense[:, features.names.index(tag)]
        return np.where((votes > 0).any(1), votes.argmax(1), _NO_PRICE)

    def describe(self, items: Sequence[int]) -> pl.DataFrame:
        """`item`, `name`, `price` and `categories` of some items."""
        rows = [
            (self.items[item], self.name(item), self.price(item), self.categories(item))
            for item in items
        ]
        text = pl.String()
        schema = {"item": text, "name": text, "price": text, "categories": pl.List(text)}
        return pl.DataFrame(rows, schema, orient="row")

    def reviewed_items(self, user: int) -> np.ndarray:
        """Codes of the items that a user has reviewed."""
        data, live_items = self._dataset.data, [*self._live_items.get(user, ())]
        return np.append(data.item[data.user == user], np.array(live_items, dtype=np.int64))

    def photos(self, item: int, limit: int = 12) -> list[tuple[str, str]]:
        """Path and caption, or "", of photos of the item itself, then of its reviews."""
        if item >= len(self._dataset.data.items):
            return []
        paths = [*self._dataset.item_photos[item]]
        for row in self._rows(item):
            paths += self._dataset.photos[row]
        paths = [path for path in dict.fromkeys(paths) if Path(path).is_file()][:limit]
        return [(path, self._captions.get(path, "")) for path in paths]

    @cached_property
    def _captions(self) -> dict[str, str]:
        """Path -> caption, for visitors; none are made while a page waits."""
        if not self._quote_captions or self._dataset.captions_missing:
            return {}
        return self._dataset.captions.texts

    def warm_up(self) -> None:
        """Load captions now, for which the first request would wait."""
        _ = self._captions

    def quotes(self, item: int) -> list[Quote]:
        """Sentences of the latest reviews of an item, and captions of its photos."""
        quotes = self._note_quotes(item, _sentences)
        if self._quote_captions and item < len(self._dataset.data.items):
            quotes += self._caption_quotes(item)
        return quotes + self._live_quotes.get(item, [])

    def gists(self, item: int) -> list[Quote]:
        """The gist of each of the latest reviews of an item."""
        return self._note_quotes(item, _gist) + self._live_gists.get(item, [])

    def _rows(self, item: int) -> np.ndarray:
        return np.flatnonzero(self._dataset.data.item == item)

    def _note_quotes(self, item: int, quote: Callable[[Note, str], list[Quote]]) -> list[Quote]:
        rows = self._rows(item)[-_QUOTED_REVIEWS:]
        quotes: list[Quote] = []
        for row, note in zip(rows, self._dataset.quotable_notes(rows), strict=True):
            quotes += quote(note, self._dataset.review_ids[row])
        return quotes

    def _caption_quotes(self, item: int) -> list[Quote]:
        """Captions of the item itself, then of its latest reviews."""
        dataset = self._dataset
        sources = [("", dataset.item_captions[item], dataset.item_photos[item])]
        for row in self._rows(item)[-_QUOTED_REVIEWS:]:
            sources.append(
                (dataset.review_ids[row], dataset.review_captions[row], dataset.photos[row])
            )
        quotes: list[Quote] = []
        for review_id, given, photos in sources:
            # Captions that came with the data, or else those of the photos.
            for text in [*given] or [self._captions.get(path, "") for path in photos]:
                if text:
                    quotes.append(Quote(text, review_id, liked=True, photo=True))
        return quotes


class TextSearch:
    """Finds items by words, and users and items with similar texts; spaces are built on first use."""

    def __init__(self, online: OnlineState, catalog: Catalog, encoder: Encoder) -> None:
        self._online, self._catalog, self._encoder = online, catalog, encoder
        self._spaces: dict[str, TextSpace] = {}

    def warm_up(self) -> None:
        """Build now what the first request would wait for."""
        for name in ("gist", "likes", "users"):
            self.space(name)
        self._encoder.encode(["ready"])

    def space(self, name: str) -> TextSpace:
        """Directions of the texts about items (`gist`, `likes`), or of the texts by `users`."""
        if name not in self._spaces:
            features, codes = self._online.features, self._online.codes
            if name == "users":
                self._spaces[name] = TextSpace(features.user, len(codes["user"]))
            else:
                self._spaces[name] = TextSpace(features.item, len(codes["item"]), name)
        return self._spaces[name]

    def update(self, item: int, user: int | None) -> None:
        """Use changed features of an item, and of a user if one is named."""
        features = self._online.features
        for name, space in self._spaces.items():
            if name != "users":
                space.update(features.item, item)
            elif user is not None:
                space.update(features.user, user)

    def rank_items(self, query: str) -> np.ndarray:
        """(m,) codes of all items, those first whose reviews are nearest to the words of a query."""
        phrases, labels = split_query(query), self._catalog.labels()
        # Likes, not gists: a query names what a user wants.
        similarity = query_similarity(phrases, self.space("likes"), labels, self._encoder)
        return np.argsort(-similarity, kind="stable")

    def search(self, text: str, n: int) -> list[str]:
        """Ids of items with the text in their name, then of those with reviews nearest to it."""
        items, lowered = self._catalog.items, text.casefold()
        codes: list[int] = []
        for code in range(len(items)):
            if lowered in (self._catalog.name(code) or "").casefold():
                codes.append(code)
        if len(codes) < n:
            codes += self.rank_items(text)[:n].tolist()
        return [items[code] for code in dict.fromkeys(codes)][:n]

    def neighbors(self, name: str, code: int, n: int) -> list[tuple[str, float]]:
        """Ids of items, or users, with similar texts in a space, and cosines."""
        ids = [*self._online.codes["user" if name == "users" else "item"]]
        return [(ids[row], cosine) for row, cosine in self.space(name).neighbors(code, n)]


def _gist(note: Note, review_id: str) -> list[Quote]:
    return [Quote(note.gist, review_id, liked=True)] if note.gist else []


def _sentences(note: Note, review_id: str) -> list[Quote]:
    likes = [Quote(text, review_id, liked=True) for text in note.likes]
    return likes + [Quote(text, review_id, liked=False) for text in note.dislikes]
