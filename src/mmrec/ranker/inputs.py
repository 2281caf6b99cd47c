"""Features as tensors: kept per view, gathered per batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmrec.features.tables import RATING_COLUMNS, EntityFeatures, Features
from mmrec.ranker.shard import Shard

__all__ = ["Batch", "ColdStartDropout", "RankerInputs", "category_bag"]

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Batch:
    """What a ranker sees of B pairs.

    Attributes:
        dense: (B, p) columns of the user, then of the item, then of the pair.
        vectors: block -> (B, d); zero where missing. Blocks are named by side, as in `user gist`.
        present: block -> (B, 1) of 0 to 1, by which a block is weighed.
        categories: (B, k) codes.
    """

    dense: Tensor
    vectors: dict[str, Tensor]
    present: dict[str, Tensor]
    categories: Tensor


def category_bag(codes: Tensor, size: int) -> Tensor:
    """(B, size) which of `size` categories there are, by (B, k) codes; the padding code is none."""
    return torch.zeros(len(codes), size + 1).scatter_(1, codes, 1.0)[:, :size]


class EntityTensors:
    def __init__(self, features: EntityFeatures, prefix: str) -> None:
        self.unknown_index = features.unknown_index
        self.dense = torch.from_numpy(features.dense)
        self.from_text = torch.tensor([name not in RATING_COLUMNS for name in features.names])
        self.vectors = {
            f"{prefix} {name}": torch.from_numpy(x) for name, x in features.vectors.items()
        }
        self.present = {
            f"{prefix} {name}": torch.from_numpy(x)[:, None] for name, x in features.present.items()
        }
        self.categories = torch.from_numpy(features.categories)
        self.factors = torch.from_numpy(features.factors)

    def numbers(self, view: Tensor, words: Tensor) -> Tensor:
        """(B, p) dense columns; those that come out of words follow the words' view."""
        if view is words:
            return self.dense[view]
        return torch.where(self.from_text, self.dense[words], self.dense[view])


class RankerInputs:
    """Both sides' features as tensors that are sliced by view; no row is ever materialised."""

    def __init__(self, features: Features) -> None:
        self.user, self.item = (
            EntityTensors(features.user, "user"),
            EntityTensors(features.item, "item"),
        )
        self.user_view = torch.from_numpy(features.user_view)
        self.item_view = torch.from_numpy(features.item_view)

    @property
    def block_sizes(self) -> dict[str, int]:
        """Size of every vector block."""
        both = {**self.user.vectors, **self.item.vectors}
        return {name: values.shape[1] for name, values in both.items()}

    def view_batch(
        self,
        user_view: Tensor,
        item_view: Tensor,
        user_text_view: Tensor | None = None,
        item_text_view: Tensor | None = None,
        *,
        vectors: bool = True,
    ) -> Batch:
        """Gather (B,) views of users and items; words (vectors, prices, categories) may have others.

        Vectors, by far the most of it, are left out where they are not wanted.
        """
        user_text_view = user_view if user_text_view is None else user_text_view
        item_text_view = item_view if item_text_view is None else item_text_view
        words = ((self.user, user_text_view), (self.item, item_text_view)) if vectors else ()
        numbers = ((self.user, user_view, user_text_view), (self.item, item_view, item_text_view))
        dense = [side.numbers(view, told) for side, view, told in numbers]
        return Batch(
            torch.cat([*dense, *self._affinity(user_view, item_text_view)], dim=1),
            {
                name: values[view].float()
                for side, view in words
                for name, values in side.vectors.items()
            },
            {name: there[view] for side, view in words for name, there in side.present.items()},
            self.item.categories[item_text_view],
        )

    def _affinity(self, user_view: Tensor, item_view: Tensor) -> list[Tensor]:
        """(B, 1) what the user's ratings of other items say of this one's words, where that is used."""
        if not self.user.factors.shape[1]:
            return []
        pairs = self.user.factors[user_view].float() * self.item.factors[item_view].float()
        return [pairs.sum(1, keepdim=True)]

    @property
    def dense_size(self) -> int:
        """Number of dense columns."""
        return (
            self.user.dense.shape[1] + self.item.dense.shape[1] + bool(self.user.factors.shape[1])
        )

    def row_batch(self, rows: Tensor, *, vectors: bool = True) -> Batch:
        """The batch of some rows of the table."""
        return self.view_batch(self.user_view[rows], self.item_view[rows], vectors=vectors)

    def moments(
        self, rows: np.ndarray
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Mean and deviation of the dense columns and of every block where present, over some rows."""
        at = torch.from_numpy(rows)

        def dense(rows: Tensor) -> tuple[Tensor, Tensor]:
            user, item = self.user_view[rows], self.item_view[rows]
            numbers = [self.user.dense[user], self.item.dense[item], *self._affinity(user, item)]
            return torch.cat(numbers, dim=1), torch.ones(len(rows), 1)

        means, deviations = {}, {}
        for side, views in ((self.user, self.user_view), (self.item, self.item_view)):
            seen = torch.unique(views[at])
            for name, values in side.vectors.items():
                gather = partial(_said, values, side.present[name])
                means[name], deviations[name] = _moments(seen, gather)
        return *_moments(at, dense), means, deviations


def _moments(
    rows: Tensor, gather: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Weighted mean and deviation of columns; `gather` brings (B, d) values and (B, 1) weights of B rows."""
    parts = torch.split(rows, _ROWS_AT_ONCE)
    total, weight = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for x, own in map(gather, parts):
        total, weight = total + (own * x).double().sum(0), weight + own.double().sum()
    mean = (total / weight.clamp(min=1e-6)).float()
    spread, count = torch.zeros_like(total), 0
    for x, own in map(gather, parts):
        spread, count = (
            spread + (own * (x - mean)).square().double().sum(0),
            count + int((own > 0).sum()),
        )
    return mean, (spread / max(count, 1)).sqrt().float()


def _said(values: Tensor, present: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    return values[views].float(), present[views]


class ColdStartDropout:
    """Hides a part of what is known, so that a ranker learns to do without it (cold start).

    Ratings and words of a user or an item are hidden apart, by the views of which nothing is known.
    """

    def __init__(
        self,
        inputs: RankerInputs,
        rate: float,
        generator: torch.Generator,
        shard: Shard | None = None,
    ) -> None:
        self._inputs = inputs
        self._part = rate
        self._generator = generator
        self._share = shard or Shard()

    def row_batch(self, rows: Tensor) -> Batch:
        """The batch of some rows of the table, some of it hidden."""
        user, item = self._inputs.user_view[rows], self._inputs.item_view[rows]
        no_user, no_item = self._inputs.user.unknown_index, self._inputs.item.unknown_index
        views = ((user, no_user), (item, no_item), (user, no_user), (item, no_item))
        return self._inputs.view_batch(*(self._hide(view, nothing) for view, nothing in views))

    def _hide(self, view: Tensor, nothing: int) -> Tensor:
        start, whole = self._share.position(len(view))
        drawn = torch.rand(whole, generator=self._generator)[start : start + len(view)]
        return torch.where(drawn < self._part, nothing, view)
