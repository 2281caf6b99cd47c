"""Features as tensors: stored once per view, gathered per batch, standardised."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.features.tables import RATING_COLUMNS, Features

_CHUNK_ROWS = 1 << 14  # whose vectors are in memory at once


class Shard:
    """The shard of a process that trains alone; `mmrec.distributed.training` has the other one."""

    def local_rows(self, rows: Tensor) -> Tensor:
        """(b,) neighbouring rows of a (B,) batch that this process computes."""
        return rows

    def position(self, count: int) -> tuple[int, int]:
        """Where `count` local rows begin in the last batch, and the size of that batch."""
        return 0, count

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place."""


@dataclass(frozen=True)
class Batch:
    """Inputs of a ranker for B pairs of a user and an item; blocks are named as in `user gist`."""

    dense: Tensor  # (B, p) columns of the user, then of the item, then of the pair
    vectors: dict[str, Tensor]  # block -> (B, d); zero where missing
    present: dict[str, Tensor]  # block -> (B, 1) weight, from 0 (missing) to 1
    categories: Tensor  # (B, k) codes, padded with the size of the vocabulary


@dataclass(frozen=True)
class ColdStartDropout:
    """Puts unknown users and items in the place of random ones, so that these can be scored."""

    rate: float
    generator: torch.Generator
    shard: Shard = field(default_factory=Shard)

    def __call__(self, views: Tensor, unknown_index: int) -> tuple[Tensor, Tensor]:
        """(B,) views of ratings, and of texts, each replaced by the unknown one at the rate: both in half
        of the cases, as of a new item; or ratings alone, as of one that is described; or texts."""
        # Drawn for the whole batch: a shard sees the same as a process that trains alone.
        start, batch_size = self.shard.position(len(views))
        draws = torch.rand(batch_size, generator=self.generator)[start : start + len(views)]
        no_ratings, texts_alone = draws < self.rate, (draws >= self.rate / 2) & (draws < self.rate)
        no_texts = (draws < 1.5 * self.rate) & ~texts_alone
        return torch.where(no_ratings, unknown_index, views), torch.where(
            no_texts, unknown_index, views
        )


class RankerInputs:
    """Features of users and items, gathered by view; rows are never stored side by side."""

    def __init__(self, features: Features) -> None:
        self.user, self.item = features.user, features.item
        self.user_view = torch.from_numpy(features.user_view)
        self.item_view = torch.from_numpy(features.item_view)
        self.has_factors = self.user.factors.shape[1] > 0
        self.dense_size = int(self.has_factors)
        self._dense: list[tuple[Tensor, Tensor]] = []
        self._blocks: dict[str, tuple[Tensor, Tensor]] = {}
        for kind, entity in (("user", self.user), ("item", self.item)):
            # (p,) bool: whether a column is made from text, not from ratings.
            from_text = torch.from_numpy(~np.isin(entity.names, [*RATING_COLUMNS]))
            self._dense.append((torch.from_numpy(entity.dense), from_text))
            self.dense_size += len(entity.names)
            for name, vectors in entity.vectors.items():
                weight = torch.from_numpy(entity.present[name])[:, None]
                self._blocks[f"{kind} {name}"] = torch.from_numpy(vectors), weight

    @property
    def is_indicator(self) -> Tensor:
        """(dense_size,) bool: dense columns that say that something is missing."""
        names = [*self.user.names, *self.item.names, *["factor score"] * self.has_factors]
        return torch.tensor([name.startswith("no ") for name in names], dtype=torch.bool)

    @property
    def block_sizes(self) -> dict[str, int]:
        """Width of every vector block."""
        return {name: vectors.shape[1] for name, (vectors, _) in self._blocks.items()}

    def gather_block(self, name: str, view: Tensor) -> tuple[Tensor, Tensor]:
        """(B, d) vectors of a block, and (B, 1) its weights."""
        vectors, weight = self._blocks[name]
        return vectors[view].float(), weight[view]

    def row_batch(
        self, rows: Tensor, drop: ColdStartDropout | None = None, *, with_vectors: bool = True
    ) -> Batch:
        """The batch of (B,) rows, where `drop` replaces some views, of ratings and texts separately."""
        user, item = self.user_view[rows], self.item_view[rows]
        texts: list[Tensor] = []
        if drop is not None:
            user, user_text = drop(user, self.user.unknown_index)
            item, item_text = drop(item, self.item.unknown_index)
            texts = [user_text, item_text]
        return self.view_batch(user, item, *texts, with_vectors=with_vectors)

    def view_batch(
        self, user: Tensor, item: Tensor, *texts: Tensor, with_vectors: bool = True
    ) -> Batch:
        """Gather (B,) views, with or without vectors, which take most of the memory.

        Numbers made from ratings are of the views `user` and `item`; all else (vectors, prices,
        categories, item factors) is of two views of their `texts`, by default the same.
        """
        user_text, item_text = texts or (user, item)
        dense: list[Tensor] = []
        views = (user, user_text), (item, item_text)
        for (columns, from_text), (view, text_view) in zip(self._dense, views, strict=True):
            gathered = columns[view]
            if view is not text_view:
                gathered = torch.where(from_text, columns[text_view], gathered)
            dense.append(gathered)
        if self.has_factors:  # (B, 1) dot products of the factors of users and items
            user_factors = torch.from_numpy(self.user.factors)[user].float()
            item_factors = torch.from_numpy(self.item.factors)[item_text].float()
            dense.append((user_factors * item_factors).sum(1, keepdim=True))
        vectors: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        for name in self._blocks if with_vectors else ():
            view = user_text if name.startswith("user ") else item_text
            vectors[name], present[name] = self.gather_block(name, view)
        categories = torch.from_numpy(self.item.categories)[item_text]
        return Batch(torch.cat(dense, dim=1), vectors, present, categories)


@dataclass(frozen=True)
class TrainingTask:
    """Features of n rows, their (n,) bool labels (likes), and the rows to use."""

    inputs: RankerInputs
    label: np.ndarray
    train_rows: np.ndarray
    valid_rows: np.ndarray  # select the epoch, by the loss
    test_rows: np.ndarray | None = None  # select it instead, by the false positive rate

    @property
    def selection_rows(self) -> np.ndarray:
        """Rows that select the epoch; those of test in the paper."""
        return self.valid_rows if self.test_rows is None else self.test_rows


@dataclass(frozen=True)
class TrainingRun:
    """Settings in which the runs of a stack differ."""

    seed: int  # of the initial weights and of dropout
    dropout: float  # share of cells that every MLP drops
    class_weights: tuple[float, float]  # of (dislike, like) in the loss
    masked_groups: frozenset[str] = frozenset()  # of features hidden from it (ablation)


class Standardiser(nn.Module):
    """Mean and scale of every input of a ranker, learned from training rows.

    Dense columns get mean zero and variance one (or zero, if constant), a vector block mean zero and
    length one on average: its hundreds of coordinates must not dominate the few dense columns.

    Where training has seen little, nothing follows. Columns of users and items are limited to their
    range in training rows: if all items have 60 reviews, nobody knows what none would mean. And
    indicators ("no rating") are scaled by 2 at most: a weight that a few rows suggest stays small.
    """

    dense_mean: Tensor
    dense_scale: Tensor
    dense_low: Tensor
    dense_high: Tensor

    def __init__(self, dense: int, blocks: Mapping[str, int]) -> None:
        super().__init__()
        self.register_buffer("dense_mean", torch.zeros(dense))
        self.register_buffer("dense_scale", torch.ones(dense))
        self.register_buffer("dense_low", torch.full([dense], -torch.inf))
        self.register_buffer("dense_high", torch.full([dense], torch.inf))
        for name, width in blocks.items():
            self.register_buffer(f"mean of {name}", torch.zeros(width))
            self.register_buffer(f"scale of {name}", torch.ones(()))

    def fit(self, inputs: RankerInputs, rows: np.ndarray) -> None:
        """Learn from some rows; of blocks, from the views of these rows, each counted once."""
        row_tensor = torch.from_numpy(rows)

        def dense_rows(chunk: Tensor) -> tuple[Tensor, Tensor]:
            return inputs.row_batch(chunk, with_vectors=False).dense, torch.ones(len(chunk), 1)

        # Lists add the factor score, the last column, to a sum (`ListScorer`): it has no limits.
        limited = slice(-1 if inputs.has_factors else None)
        chunks = [dense_rows(chunk)[0] for chunk in torch.split(row_tensor, _CHUNK_ROWS)]
        self.dense_low[limited] = torch.stack([x.amin(0) for x in chunks]).amin(0)[limited]
        self.dense_high[limited] = torch.stack([x.amax(0) for x in chunks]).amax(0)[limited]
        mean, deviation = _weighted_moments(row_tensor, dense_rows)
        self.dense_mean.copy_(mean)
        scale = torch.where(deviation > 1e-4, 1 / deviation.clamp(min=1e-4), 0.0)
        most = torch.where(inputs.is_indicator, 2.0, torch.inf)
        self.dense_scale.copy_(torch.minimum(scale, most))
        for name in inputs.block_sizes:
            views = inputs.user_view if name.startswith("user ") else inputs.item_view
            gather = partial(inputs.gather_block, name)
            mean, deviation = _weighted_moments(torch.unique(views[row_tensor]), gather)
            self.get_buffer(f"mean of {name}").copy_(mean)
            length = float(deviation.square().sum().sqrt())
            self.get_buffer(f"scale of {name}").fill_(1 / max(length, 1e-4))

    def dense_columns(self, batch: Batch) -> Tensor:
        """(B, p) dense columns."""
        dense = batch.dense.clamp(self.dense_low, self.dense_high)
        return (dense - self.dense_mean) * self.dense_scale

    def block_columns(self, batch: Batch, names: Iterable[str]) -> Tensor:
        """(B, widths + blocks): vector blocks, zero where missing, then indicators of missing ones."""
        columns, missing = [], []
        for name in names:
            weight = self.get_buffer(f"scale of {name}") * batch.present[name]  # (B, 1)
            columns.append((batch.vectors[name] - self.get_buffer(f"mean of {name}")) * weight)
            missing.append(1 - batch.present[name])
        return torch.cat([*columns, *missing], dim=1)


def _weighted_moments(
    rows: Tensor, gather: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """(d,) weighted mean and deviation of (B, d) values, with (B, 1) weights, of chunks of (n,) rows."""
    chunks = torch.split(rows, _CHUNK_ROWS)
    total, total_weight = torch.zeros(2, 1, dtype=torch.float64)
    for values, weight in map(gather, chunks):
        total = total + (weight * values).double().sum(0)
        total_weight = total_weight + weight.double().sum()
    mean = (total / total_weight.clamp(min=1e-6)).float()
    squares, count = torch.zeros_like(total), 0
    for values, weight in map(gather, chunks):
        squares = squares + (weight * (values - mean)).square().double().sum(0)
        count += int((weight > 0).sum())
    return mean, (squares / max(count, 1)).sqrt().float()
