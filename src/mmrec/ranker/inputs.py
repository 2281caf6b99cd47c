"""Features as tensors: stored once per view, gathered per batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmrec.features.tables import RATING_COLUMNS, EntityFeatures, Features
from mmrec.ranker.layers import Shard

__all__ = ["Batch", "ColdStartDropout", "InputMoments", "RankerInputs", "category_bag"]

_CHUNK_ROWS = 1 << 14  # whose vectors are in memory at once


@dataclass(frozen=True)
class Batch:
    """Inputs of a ranker for B pairs of a user and an item.

    Attributes:
        dense: (B, p) columns of the user, then of the item, then of the pair.
        vectors: block -> (B, d); zero where missing. Blocks are named with their entity: `user gist`.
        present: block -> (B, 1) weight of the block, from 0 (missing) to 1.
        categories: (B, k) codes of the item's categories, padded with the size of the vocabulary.
    """

    dense: Tensor
    vectors: dict[str, Tensor]
    present: dict[str, Tensor]
    categories: Tensor


class InputMoments(NamedTuple):
    """Mean and standard deviation of the dense columns, and of each vector block where present."""

    dense_mean: Tensor
    dense_deviation: Tensor
    block_mean: dict[str, Tensor]
    block_deviation: dict[str, Tensor]


def category_bag(codes: Tensor, size: int) -> Tensor:
    """(B, size) indicators of `size` categories from (B, k) codes; the padding code sets none."""
    return torch.zeros(len(codes), size + 1).scatter_(1, codes, 1.0)[:, :size]


class EntityTensors:
    """Features of all users, or of all items, as tensors with one row per view."""

    def __init__(self, features: EntityFeatures, prefix: str) -> None:
        self.unknown_index = features.unknown_index
        self.dense = torch.from_numpy(features.dense)
        # (p,) bool: whether a column is made from text, not from ratings.
        self.from_text = torch.from_numpy(~np.isin(features.names, [*RATING_COLUMNS]))
        self.vectors: dict[str, Tensor] = {}
        self.present: dict[str, Tensor] = {}
        for name, block in features.vectors.items():
            self.vectors[f"{prefix} {name}"] = torch.from_numpy(block)
            self.present[f"{prefix} {name}"] = torch.from_numpy(features.present[name])[:, None]
        self.categories = torch.from_numpy(features.categories)
        self.factors = torch.from_numpy(features.factors)

    def gather_dense(self, view: Tensor, text_view: Tensor) -> Tensor:
        """(B, p) dense columns; those made from text are taken from `text_view`."""
        if view is text_view:
            return self.dense[view]
        return torch.where(self.from_text, self.dense[text_view], self.dense[view])

    def gather_block(self, name: str, view: Tensor) -> tuple[Tensor, Tensor]:
        """(B, d) vectors of a block, and (B, 1) its weights."""
        return self.vectors[name][view].float(), self.present[name][view]


class RankerInputs:
    """Features of users and items, gathered by view; rows are never stored side by side."""

    def __init__(self, features: Features) -> None:
        self.user = EntityTensors(features.user, "user")
        self.item = EntityTensors(features.item, "item")
        self.user_view = torch.from_numpy(features.user_view)
        self.item_view = torch.from_numpy(features.item_view)

    @property
    def has_factors(self) -> bool:
        """Whether the factor score of user and item is a dense column."""
        return self.user.factors.shape[1] > 0

    @property
    def block_sizes(self) -> dict[str, int]:
        """Width of every vector block."""
        blocks = {**self.user.vectors, **self.item.vectors}
        return {name: block.shape[1] for name, block in blocks.items()}

    @property
    def dense_size(self) -> int:
        """Number of dense columns."""
        return self.user.dense.shape[1] + self.item.dense.shape[1] + self.has_factors

    def row_batch(self, rows: Tensor, *, with_vectors: bool = True) -> Batch:
        """The batch of (B,) rows of the table."""
        user_view, item_view = self.user_view[rows], self.item_view[rows]
        return self.view_batch(user_view, item_view, with_vectors=with_vectors)

    def view_batch(
        self,
        user_view: Tensor,
        item_view: Tensor,
        user_text_view: Tensor | None = None,
        item_text_view: Tensor | None = None,
        *,
        with_vectors: bool = True,
    ) -> Batch:
        """Gather (B,) views of users and items.

        Args:
            user_view, item_view: views that numbers made from ratings are taken from.
            user_text_view, item_text_view: views that all else (vectors, prices, categories, item
                factors) is taken from; by default the same.
            with_vectors: whether to gather vectors, which take by far the most memory.
        """
        user_text_view = user_view if user_text_view is None else user_text_view
        item_text_view = item_view if item_text_view is None else item_text_view
        dense = [
            self.user.gather_dense(user_view, user_text_view),
            self.item.gather_dense(item_view, item_text_view),
        ]
        if self.has_factors:  # (B, 1) dot products of the factors of users and items
            user_factors = self.user.factors[user_view].float()
            products = user_factors * self.item.factors[item_text_view].float()
            dense.append(products.sum(1, keepdim=True))
        vectors: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        if with_vectors:
            for entity, view in ((self.user, user_text_view), (self.item, item_text_view)):
                for name in entity.vectors:
                    vectors[name], present[name] = entity.gather_block(name, view)
        categories = self.item.categories[item_text_view]
        return Batch(torch.cat(dense, dim=1), vectors, present, categories)

    def moments(self, rows: np.ndarray) -> InputMoments:
        """Moments over some rows; those of blocks over the views of these rows, each counted once."""
        row_tensor = torch.from_numpy(rows)

        def dense_rows(chunk: Tensor) -> tuple[Tensor, Tensor]:
            return self.row_batch(chunk, with_vectors=False).dense, torch.ones(len(chunk), 1)

        dense_mean, dense_deviation = _weighted_moments(row_tensor, dense_rows)
        block_mean: dict[str, Tensor] = {}
        block_deviation: dict[str, Tensor] = {}
        for entity, views in ((self.user, self.user_view), (self.item, self.item_view)):
            unique_views = torch.unique(views[row_tensor])
            for name in entity.vectors:
                gather = partial(entity.gather_block, name)
                block_mean[name], block_deviation[name] = _weighted_moments(unique_views, gather)
        return InputMoments(dense_mean, dense_deviation, block_mean, block_deviation)


def _weighted_moments(
    rows: Tensor, gather: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Weighted mean and deviation of d columns over (n,) rows, in two passes over chunks of them.

    `gather` makes (B, d) values and (B, 1) weights of B rows.
    """
    chunks = torch.split(rows, _CHUNK_ROWS)
    total = torch.zeros(1, dtype=torch.float64)
    total_weight = torch.zeros(1, dtype=torch.float64)
    for values, weight in map(gather, chunks):
        total = total + (weight * values).double().sum(0)
        total_weight = total_weight + weight.double().sum()
    mean = (total / total_weight.clamp(min=1e-6)).float()
    squares, count = torch.zeros_like(total), 0
    for values, weight in map(gather, chunks):
        squares = squares + (weight * (values - mean)).square().double().sum(0)
        count += int((weight > 0).sum())
    return mean, (squares / max(count, 1)).sqrt().float()


class ColdStartDropout:
    """Replaces random views by those of unknown users and items, so that these can be scored.

    Ratings and text of a user or an item are dropped independently of each other, at the same rate.
    """

    def __init__(
        self,
        inputs: RankerInputs,
        rate: float,
        generator: torch.Generator,
        shard: Shard | None = None,
    ) -> None:
        self._inputs, self._rate, self._generator = inputs, rate, generator
        self._shard = shard or Shard()

    def row_batch(self, rows: Tensor) -> Batch:
        """The batch of (B,) rows of the table, with some views replaced."""
        inputs = self._inputs
        user, item = inputs.user_view[rows], inputs.item_view[rows]
        unknown_user, unknown_item = inputs.user.unknown_index, inputs.item.unknown_index
        user_view, item_view = self._drop(user, unknown_user), self._drop(item, unknown_item)
        user_text_view = self._drop(user, unknown_user)
        return inputs.view_batch(
            user_view, item_view, user_text_view, self._drop(item, unknown_item)
        )

    def _drop(self, views: Tensor, unknown_index: int) -> Tensor:
        # Drawn for the whole batch, so that a shard sees the same as a process that trains alone.
        start, batch_size = self._shard.position(len(views))
        draws = torch.rand(batch_size, generator=self._generator)[start : start + len(views)]
        return torch.where(draws < self._rate, unknown_index, views)
