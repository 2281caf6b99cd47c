"""Lists of recommendations: probabilities of pairs, the best items of a user, lists of many users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mmrec.console import track
from mmrec.features.tables import Features
from mmrec.pipeline import TrainedModel
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.catalog import Catalog, TextSearch
from mmrec.recommender.new_users import UserView
from mmrec.retrieval.text_neighbors import diversify

__all__ = ["ListMaker", "ListOptions", "ListScorer"]
T = TypeVar("T")

_CHUNK_ROWS = 2048


class ListScorer:
    """A trained model with the features of every user and every item.

    The linear model is additive in user and item, so the share of the items is computed once:

        linear(u, i) = linear(u, unknown) + linear(unknown, i) - linear(unknown, unknown)
                       + weight of the factor score * factor score of u and i

    DLRM's correction is computed for each list, by those runs alone in which it is not zero.

    Attributes:
        inputs: the features as tensors.
        size: number of items.
    """

    @torch.inference_mode()
    def __init__(self, model: TrainedModel, features: Features) -> None:
        ranker = model.ranker
        self._model, self._features = model, features
        self.inputs = RankerInputs(features)
        self.size = self.inputs.item.unknown_index
        self._linear = deepcopy(ranker.linear)
        self._correction = deepcopy(ranker).eval()
        self._item_scores = torch.zeros(self.size)
        # A run whose correction was not proven has zeros in its last layer (`train_ranker`).
        last_layer = torch.cat([x.abs().flatten(1) for x in ranker.top[-1].parameters()], dim=1)
        active = last_layer.sum(1) > 0
        if self._linear is not None:
            for parameter in self._linear.parameters():
                parameter.data = parameter.mean(0, keepdim=True)  # the mean of R linear models
            self._correction.linear = None
            self._item_scores = self._score_items(torch.arange(self.size))
        else:
            active[:] = True
        self._correction.keep_runs(torch.nonzero(active)[:, 0])
        self._active_share = float(active.float().mean())

    @torch.inference_mode()
    def update_item(self, features: Features, item: int) -> None:
        """Use changed features of an item, or of one more behind the last."""
        if features is not self._features:  # its arrays have grown
            self.inputs, self._features = RankerInputs(features), features
        if item == self.size:
            self._item_scores = torch.cat([self._item_scores, torch.zeros(1)])
            self.size += 1
        if self._linear is not None:
            self._item_scores[item] = self._score_items(torch.tensor([item]))

    @torch.inference_mode()
    def score_pairs(
        self, views: Sequence[np.ndarray], inputs: RankerInputs | None = None
    ) -> np.ndarray:
        """(n,) probabilities of a like.

        Args:
            views: (n,) views of users and of items; then of their text, where others.
            inputs: features of users, where other than the model's.
        """
        inputs = inputs or self.inputs
        # (2 or 4, n) views in chunks of pairs.
        chunks = torch.split(torch.from_numpy(np.stack(views)), _CHUNK_ROWS, dim=1)
        logits = [self._model.ranker(inputs.view_batch(*chunk)) for chunk in chunks]
        return self._model.probability(torch.cat(logits, dim=1).numpy())

    @torch.inference_mode()
    def top_items(
        self,
        user: int,
        n: int,
        *,
        inputs: RankerInputs | None = None,
        candidates: np.ndarray | None = None,
        excluded: Sequence[int] | np.ndarray = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes of up to n items that a user most likely likes, best first, and their probabilities.

        Args:
            user: the user's view.
            n: number of items.
            inputs: features of users, where other than the model's.
            candidates: sorted codes of the items to choose from; all by default.
            excluded: codes of items to leave out.
        """
        codes = np.arange(self.size) if candidates is None else candidates
        codes = codes[~np.isin(codes, np.asarray(excluded, dtype=np.int64))]
        logit = self._logits(inputs or self.inputs, user, torch.from_numpy(codes)).numpy()
        best = np.argsort(-logit, kind="stable")[:n]
        return codes[best], self._model.probability(logit[None, best])

    def _logits(self, inputs: RankerInputs, user: int, items: Tensor) -> Tensor:
        """(n,) logits, averaged over runs, of a user and n items."""
        logit = torch.zeros(len(items))
        if self._linear is not None:
            # (1,) scores; see the formula above.
            unknown = torch.tensor([inputs.item.unknown_index])
            unknown_user = torch.tensor([inputs.user.unknown_index])
            user_score = self._score_linear(inputs, torch.tensor([user]), unknown)
            constant = self._score_linear(inputs, unknown_user, unknown)
            logit += self._item_scores[items] + user_score - constant
            if inputs.has_factors:  # the factor score is the last dense column
                ranker = self._model.ranker
                weight = self._linear.weight[0, ranker.shape.dense - 1] * ranker.dense_scale[-1]
                factors = inputs.user.factors[user].float() * weight
                logit += inputs.item.factors[items].float() @ factors
        if self._active_share:  # inactive runs add nothing to the mean over all runs
            chunks = zip(
                torch.split(items, _CHUNK_ROWS), torch.split(logit, _CHUNK_ROWS), strict=True
            )
            for part, part_logit in chunks:
                batch = inputs.view_batch(torch.full_like(part, user), part)
                part_logit += self._correction(batch).mean(0) * self._active_share  # in place
        return logit

    def _score_items(self, items: Tensor) -> Tensor:
        """(n,) linear scores of n items with the unknown user."""
        scores = []
        for part in torch.split(items, _CHUNK_ROWS):
            unknown = torch.full_like(part, self.inputs.user.unknown_index)
            scores.append(self._score_linear(self.inputs, unknown, part))
        return torch.cat(scores)

    def _score_linear(self, inputs: RankerInputs, users: Tensor, items: Tensor) -> Tensor:
        """(n,) scores of n pairs by the linear model alone."""
        assert self._linear is not None
        columns = self._model.ranker.linear_columns(inputs.view_batch(users, items))
        return self._linear(columns)[0, :, 0]


@dataclass(frozen=True)
class ListOptions:
    """Which items a list may have; see `Recommender.recommend`."""

    categories: Sequence[str]
    prices: Sequence[str]
    min_probability: float
    diversity: float


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
        """See `Recommender.recommend`.

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
        self, users: Sequence[str], views: Sequence[int], n: int, min_probability: float, seen: bool
    ) -> pl.DataFrame:
        """Lists of users, named by ids and by views; see `Recommender.recommend_all`."""

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
