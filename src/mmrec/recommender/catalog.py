"""Items as people see them: names, prices, categories, quotes; and search in words."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import compress
from operator import attrgetter

import numpy as np
import polars as pl

from mmrec.encoder.text_encoder import Encoder
from mmrec.errors import DataError
from mmrec.features.builder import PRIOR_PRICE_VOTES
from mmrec.features.dataset import Dataset
from mmrec.llm.lexicon import Lexicon, split_sentences, split_words
from mmrec.llm.name_index import NameIndex
from mmrec.llm.types import PRICE_TAGS, Note, Wish
from mmrec.llm.wishes import WishParser
from mmrec.recommender.online import OnlineState, ReviewChanges
from mmrec.recommender.persistence import SavedRecommender
from mmrec.recommender.quotes import Quote, QuoteSource
from mmrec.retrieval.review_texts import GrowingTexts, ReviewTexts, plain_words
from mmrec.retrieval.text_neighbors import TextSpace
from mmrec.retrieval.wish_match import WishItems, WishMatch, WishMatcher

_NO_PRICE = PRICE_TAGS.index("none")


@dataclass(frozen=True)
class _NameLookup:
    """Names of m items, to look items up by."""

    plain: pl.Series  # (m,) as `plain_words` makes them; "" without a name
    codes: dict[str, list[int]]  # of the items with each plain name
    index: NameIndex
    parser: WishParser  # which finds these names


class Catalog:
    """Items by code, with live reviews, and searches in the texts about items and by users."""

    def __init__(
        self, saved: SavedRecommender, dataset: Dataset, online: OnlineState, encoder: Encoder
    ) -> None:
        self._online, self._encoder = online, encoder
        self._spaces: dict[str, TextSpace] = {}
        self._vocabulary = [*saved.model.builder.vocabulary]
        self.source = QuoteSource(dataset, online.live, saved.config)
        table = saved.reviews.items
        self._names = dict(zip(table["item"], table["name"], strict=True))
        self._lexicon = Lexicon(saved.config.annotation.item_kind)
        self._last_lookup: _NameLookup | None = None
        # The share of all tags that one vote has, which may be rounded; a summary has a single vote.
        single_vote = 1 / (1 + PRIOR_PRICE_VOTES)
        self._fewest_votes = 1.01 * single_vote * (saved.config.annotation.strategy == "notes")
        has_notes = bool(saved.notes)

        def read_fitted() -> ReviewTexts:
            notes = dataset.notes if has_notes else []
            if not has_notes:  # every sentence counts as a like
                notes = [Note(likes=split_sentences(text)) for text in dataset.texts]
            return ReviewTexts(dataset.data.item, dataset.texts, notes, encoder)

        self._texts = GrowingTexts(read_fitted, encoder)
        self._matcher = WishMatcher(self._texts, self._lexicon, encoder)
        self._items = online.ids["item"]

    def add_name(self, item: int, name: str) -> None:
        """Name an item."""
        self._names[self._items[item]] = name
        self._last_lookup = None

    def item_name(self, item: int) -> str:
        """The name of an item, or else its id."""
        return self._names.get(self._items[item]) or self._items[item]

    def common_categories(self, limit: int) -> list[str]:
        """The categories of most items, in alphabetical order."""
        codes = self._online.features.item.categories[: len(self._items)].ravel()
        # The last code pads items with few categories, so it is not counted.
        counts = np.bincount(codes, minlength=len(self._vocabulary) + 1)[:-1]
        most_frequent = np.argsort(-counts, kind="stable")[:limit]
        return sorted(self._vocabulary[code] for code in most_frequent if counts[code])

    def _price_votes(self, items: np.ndarray) -> np.ndarray:
        """(n, 4) shares of the votes for each of `PRICE_TAGS`; zeros where none are known."""
        features = self._online.features.item
        # Shares of votes are dense columns of the item; the paper's baseline has none.
        votes = np.zeros((len(items), len(PRICE_TAGS)))
        for position, tag in enumerate(PRICE_TAGS):
            if tag in features.names:
                votes[:, position] = features.dense[items, features.names.index(tag)]
        return votes

    def _prices(self, items: np.ndarray) -> np.ndarray:
        """(n,) positions in `PRICE_TAGS` of the tag with most votes; a single vote sets none."""
        votes = self._price_votes(items)
        return np.where(votes.sum(1) > self._fewest_votes, votes.argmax(1), _NO_PRICE)

    def describe(self, items: np.ndarray) -> pl.DataFrame:
        """`item`, `name`, `price` and `categories`, that with most votes first, of items."""
        prices, vocabulary = self._prices(items).tolist(), self._vocabulary
        codes = self._online.features.item.categories[items].tolist()
        rows: list[tuple[str, str | None, str | None, list[str]]] = []
        for item, price, labels in zip(items.tolist(), prices, codes, strict=True):
            name, tag = self._items[item], None if price == _NO_PRICE else PRICE_TAGS[price]
            # The code behind the vocabulary pads the lists.
            categories = [vocabulary[label] for label in labels if label < len(vocabulary)]
            rows.append((name, self._names.get(name), tag, categories))
        text = pl.String()
        schema = {"item": text, "name": text, "price": text, "categories": pl.List(text)}
        return pl.DataFrame(rows, schema, orient="row")

    def items_called(self, name: str) -> list[int]:
        """Codes of the items with a name; there may be several, or none."""
        return self._lookup.codes.get(plain_words(name), [])

    def quotes(self, item: int) -> list[Quote]:
        """Sentences of the latest reviews of an item, and captions of its photos.

        Those that name another item are left out: what they praise may be the other.
        """
        own_name, parser = self._lookup.plain[item], self._lookup.parser
        quotes = []
        for quote in self.source.quotes(item):
            if all(plain_words(name) in own_name for name in parser.find_names(quote.text)):
                quotes.append(quote)
        return quotes

    def supporting(self, wish: Wish, quotes: Sequence[Quote]) -> tuple[list[Quote], list[str]]:
        """The quotes, with those first that speak for a wish; and its parts that none speaks for."""
        texts = [quote.text for quote in quotes]
        first, missing = list[Quote](), list[str]()
        support = {phrase: self._matcher.speaks_of(phrase, texts) for phrase in wish.wanted}
        for tag in wish.prices:
            holds = [tag in self._lexicon.price_tags(split_words(text)) for text in texts]
            support[str(Wish(prices=[tag]))] = np.array(holds, dtype=bool)
        for phrase, speaks in support.items():
            likes = list(filter(attrgetter("liked"), compress(quotes, speaks)))
            first += likes[:2]
            if quotes and not likes:
                missing.append(phrase)
        return list(dict.fromkeys([*first, *quotes])), missing

    def space(self, name: str) -> TextSpace:
        """Texts about items (`gist`, `likes`), or by `users`; built on first use."""
        if name not in self._spaces:
            features, ids = self._online.features, self._online.ids
            entities, names = features.item, ids["item"]
            if name == "users":
                entities, names = features.user, ids["user"]
            self._spaces[name] = TextSpace(entities, len(names), name)
        return self._spaces[name]

    def update_spaces(self, items: np.ndarray, users: np.ndarray) -> None:
        """Use changed features of items, and of users."""
        features = self._online.features
        for name, space in self._spaces.items():
            if name == "users":
                space.update(features.user, users)
            else:
                space.update(features.item, items)

    @property
    def _lookup(self) -> _NameLookup:
        """The names of all items, read anew after items were added."""
        if self._last_lookup is None or len(self._last_lookup.plain) != len(self._items):
            names = [self._names.get(item) or "" for item in self._items]
            plain, codes = [*map(plain_words, names)], defaultdict[str, list[int]](list)
            for code, name in enumerate(plain):
                if name:
                    codes[name].append(code)
            index = NameIndex(filter(None, names))
            parser = WishParser(self._lexicon, index, lambda text: self._matcher.is_phrase(text))
            series = pl.Series(plain, dtype=pl.String)
            self._last_lookup = _NameLookup(series, codes, index, parser)
        return self._last_lookup

    def add_description(self, item: int, text: str, note: Note) -> None:
        """Use a description in the next searches; an item may have several."""
        self._texts.add((item, text), item, text, note, self._encoder)

    def add_reviews(self, changes: ReviewChanges) -> None:
        """Use live reviews in the next searches, and those no more that they replace."""
        for row in changes.fitted.values():
            self._texts.withdraw_fitted(row)
        encoder = changes.dataset.models.encoder
        for pair, review in changes.outcome.items():
            self._texts.withdraw(pair)
            if review is not None:
                code = self._online.codes["item"][review.item]
                self._texts.add(pair, code, review.text, review.note, encoder)

    def parse_wish(self, text: str) -> Wish:
        """What a text says is wanted, read by rules."""
        return self._lookup.parser.parse(text)

    def resolve_names(self, wish: Wish) -> Wish:
        """A wish in which misspelt names are right; what no item is called becomes a phrase."""
        index, by_name = self._lookup.index, self._lookup.codes
        fields: dict[str, list[str]] = {"items": [], "similar_to": [], "wanted": [*wish.wanted]}
        for field, names in (("items", wish.items), ("similar_to", wish.similar_to)):
            for name in names:
                matches = [name] if plain_words(name) in by_name else index.near(name, 0.75)
                fields[field if matches else "wanted"].append(matches[0] if matches else name)
        return wish.model_copy(update=fields)

    def match(self, wish: Wish) -> WishMatch:
        """How all items match a wish, not a description, whose names are names of items."""
        codes: dict[str, list[int]] = {}
        for name in (*wish.items, *wish.similar_to, *wish.unwanted):
            if named_codes := self.items_called(name):
                codes[name] = named_codes
        votes, space = self._price_votes(np.arange(len(self._items))), self.space("gist")

        def gist_similarity(group: Sequence[int]) -> np.ndarray:
            return space.similarity(space.directions(np.array(group)).mean(0))

        items = WishItems(self._lookup.plain, codes, votes, gist_similarity)
        return self._matcher.match(wish, items)

    def rank_items(self, query: str) -> np.ndarray:
        """(m,) codes of all items, those that match the words of a query best first."""
        wish = self.parse_wish(query)
        if wish.description:
            (vector,) = self._encoder.encode([wish.description])
            space = self.space("gist")
            score = space.similarity(vector.astype(np.float32) - space.mean)
        else:
            score = self.match(wish).log_odds
        return np.argsort(-score, kind="stable")

    def search(self, text: str, n: int) -> list[str]:
        """Ids of items with the text in their name, then of those that match it best as a wish."""
        query, codes = text.casefold(), list[int]()
        for code, item in enumerate(self._items):
            if (name := self._names.get(item)) and query in name.casefold():
                codes.append(code)
        if len(codes) < n:
            codes += self.rank_items(text)[:n].tolist()
        return [self._items[code] for code in dict.fromkeys(codes)][:n]

    def find_item(self, text: str) -> int:
        """Code of the item with an id or else a name; a DataError, with others, if not just one."""
        if (code := self._online.codes["item"].get(text)) is not None:
            return code
        if len(codes := self.items_called(text)) == 1:
            return codes[0]
        if codes:
            ids = ", ".join(map(self._items.__getitem__, codes[:5]))
            problem = f"{len(codes)} items have the name {text!r}"
            raise DataError(f"{problem}: name one by its id, as in {ids}")
        names = self._lookup.index.near(text) or get_close_matches(text, self._items, 5)
        remedy = f"did you mean {', '.join(names)}?" if names else "check the id or the name"
        raise DataError(f"there is no review of item {text!r}; {remedy}")

    def allowed_items(self, categories: Sequence[str], prices: Sequence[str]) -> np.ndarray | None:
        """(m,) whether items have one of the categories and one of the prices; None if none are named.

        Categories may be written in any letters. Raises a DataError for a price that is none of the
        tags.
        """
        if unknown := sorted({*prices} - {*PRICE_TAGS}):
            raise DataError(f"price {unknown[0]!r}: choose from {', '.join(PRICE_TAGS[:-1])}")
        if not categories and not prices:
            return None
        items = np.arange(len(self._items))
        allowed = np.ones(len(items), dtype=bool)
        if categories:
            names = [*map(str.casefold, categories)]
            codes = np.flatnonzero(np.isin([*map(str.casefold, self._vocabulary)], names))
            allowed &= np.isin(self._online.features.item.categories[items], codes).any(1)
        if prices:
            codes = np.flatnonzero(np.isin(PRICE_TAGS, prices))
            allowed &= np.isin(self._prices(items), codes)
        return allowed

    def check_categories(self, categories: Sequence[str]) -> None:
        """Raise a DataError, which says what there is, where no item has one of the categories."""
        known = self.common_categories(10_000)
        if categories and {*map(str.casefold, known)}.isdisjoint(map(str.casefold, categories)):
            message = f"no item has it; categories are {', '.join(known[:40])}"
            raise DataError(f"category {categories[0]!r}: {message}")

    def neighbors(self, name: str, code: int, n: int) -> list[tuple[str, float]]:
        """Ids of items, or users, with similar texts in a space, and cosines."""
        ids = self._online.ids["user" if name == "users" else "item"]
        return [(ids[row], cosine) for row, cosine in self.space(name).neighbors(code, n)]
