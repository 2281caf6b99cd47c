"""Lists of recommendations, for one user or for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
import torch

from mmrec.console import track
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.list_scoring import ListScorer
from mmrec.recommender.new_users import UserView
from mmrec.recommender.text_search import TextSearch
from mmrec.retrieval.text_neighbors import diversify

__all__ = ["ListMaker", "ListOptions"]
T = TypeVar("T")


@dataclass(frozen=True)
class ListOptions:
    """Which items a list may have; see `Recommender.recommend`.

    Attributes:
        categories, prices: items must have one of them, where any are given.
        min_probability: of each item.
        diversity: from 0 to 1, how much items that differ from those above them are preferred.
    """

    categories: Sequence[str] = ()
    prices: Sequence[str] = ()
    min_probability: float = 0.0
    diversity: float = 0.0


class ListMaker:
    """Makes lists of the items that users most likely like."""

    def __init__(self, catalog: Catalog, scorer: ListScorer, search: TextSearch) -> None:
        self._catalog, self._scorer, self._search = catalog, scorer, search

    def recommend(
        self,
        user: UserView,
        n: int,
        options: ListOptions,
        *,
        query: str | None = None,
        excluded: Sequence[int] | np.ndarray = (),
    ) -> pl.DataFrame:
        """Up to n rows, best first: `item`, `name`, `probability`, `price`, `categories`.

        Args:
            user: the user's view.
            n: number of items.
            options: which items may be in the list.
            query: words of a new user; only items with reviews near to them are ranked.
            excluded: codes of items to leave out.
        """
        candidates = None
        if options.categories or options.prices:
            candidates = self._catalog.matching_items(options.categories, options.prices)
        if query:
            ranked = self._search.rank_items(query)
            if candidates is not None:
                ranked = ranked[np.isin(ranked, candidates)]
            # The nearest 5% of all items, but enough to choose from.
            candidates = np.sort(ranked[: max(2 * n, len(self._catalog.items) // 20)])
        # A diverse list is chosen from ten times as many items.
        pool_size = 10 * n if options.diversity else n
        items, probability = self._scorer.top_items(
            user.index, pool_size, inputs=user.inputs, candidates=candidates, excluded=excluded
        )
        likely = probability >= options.min_probability
        items, probability = items[likely], probability[likely]
        space = self._search.space("gist")
        chosen = diversify(probability, space, items, n, options.diversity)
        table = self._catalog.describe(items[chosen].tolist())
        return table.insert_column(2, pl.Series("probability", probability[chosen]))

    def recommend_all(
        self,
        users: Sequence[str],
        views: Sequence[int],
        n: int,
        min_probability: float,
        *,
        seen: bool,
    ) -> pl.DataFrame:
        """Lists of many users: `user`, `rank` from 1, `item`, `probability`.

        Args:
            users, views: ids of the users, and their views.
            n: number of items of a list.
            min_probability: of each item.
            seen: whether reviewed items may be in a list.
        """

        def top_items(view: int) -> tuple[np.ndarray, np.ndarray]:
            excluded = () if seen else self._catalog.reviewed_items(view)
            items, probability = self._scorer.top_items(view, n, excluded=excluded)
            likely = probability >= min_probability
            return items[likely], probability[likely]

        lists = _map_in_threads(top_items, views)
        sizes = np.array([len(items) for items, _ in lists], dtype=np.int64)
        positions = np.repeat(np.arange(len(users)), sizes)  # of each row's user
        first_row = np.repeat(np.cumsum(sizes) - sizes, sizes)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *(items for items, _ in lists)])
        columns = {
            "user": pl.Series(users, dtype=pl.String).gather(positions),
            "rank": (np.arange(len(items)) - first_row + 1).astype(np.uint32),
            "item": pl.Series(self._catalog.items, dtype=pl.String).gather(items),
            "probability": np.concatenate([np.zeros(0), *(chance for _, chance in lists)]),
        }
        return pl.DataFrame(columns)


def _map_in_threads(compute: Callable[[int], T], views: Sequence[int]) -> list[T]:
    """Results of all views in order; a thread for each list is faster than several for one."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    results: list[T] = []
    try:
        with pool, track("recommending", len(views)) as advance:
            for result in pool.map(compute, views):
                results.append(result)
                advance(1)
    finally:
        torch.set_num_threads(threads)  # new threads would inherit the setting of the pool's
    return results
