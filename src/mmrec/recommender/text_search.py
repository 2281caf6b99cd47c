"""Users and items by their texts: search in words, and neighbors."""

from __future__ import annotations

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.sentences import split_query
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.online import OnlineState
from mmrec.retrieval.text_neighbors import TextSpace, query_similarity

__all__ = ["TextSearch"]


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
        labels = self._catalog.labels()
        # Likes, not gists: a query names what a user wants.
        similarity = query_similarity(
            split_query(query), self.space("likes"), labels, self._encoder
        )
        return np.argsort(-similarity, kind="stable")

    def search(self, text: str, n: int) -> list[str]:
        """Ids of items with the text in their name, then of those with reviews nearest to it."""
        items, lowered = self._catalog.items, text.casefold()
        codes = [
            code
            for code in range(len(items))
            if lowered in (self._catalog.name(code) or "").casefold()
        ]
        if len(codes) < n:
            codes += self.rank_items(text)[:n].tolist()
        return [items[code] for code in dict.fromkeys(codes)][:n]

    def similar_items(self, item: int, n: int) -> list[tuple[str, float]]:
        """Ids of items with similar texts, and cosines."""
        return [
            (self._catalog.items[code], cosine)
            for code, cosine in self.space("gist").neighbors(item, n)
        ]

    def similar_users(self, user: int, n: int) -> list[tuple[str, float]]:
        """Ids of users with similar texts, and cosines."""
        users = [*self._online.codes["user"]]
        return [(users[code], cosine) for code, cosine in self.space("users").neighbors(user, n)]
