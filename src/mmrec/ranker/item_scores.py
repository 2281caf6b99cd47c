"""One user against all items; what a ranker makes of the items is computed beforehand.

The first layer of every part of a ranker is linear in what it reads, so it comes apart into what the user,
the item and the pair bring, and the item's share is the same for everybody. What is left for a pair are the
small layers behind. Runs whose last layer is zero (a correction that was not proven) cost nothing.
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.ranker.dlrm import Ranker, interact
from mmrec.ranker.inputs import RankerInputs, category_bag
from mmrec.ranker.layers import StackedLinear
from mmrec.ranker.reducer import VectorBlocks

__all__ = ["ItemScores"]

_ITEMS_AT_ONCE = 2048
_GIB = 2**30


class _Plain(NamedTuple):
    """What n users, or n items, bring to the linear part: (n,) to the logit, and (n, t) tastes."""

    logit: Tensor
    taste: Tensor


class _First(NamedTuple):
    """What they bring to the first layers of R runs.

    `bottom` (R, n, h) to the layer over numbers; `words`, by reducer, (R, n, h); `categories`, of items where
    there are any, (R, n, e).
    """

    bottom: Tensor
    words: list[Tensor]
    categories: list[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        return [self.bottom, *self.words, *self.categories]

    def at(self, rows: slice | Tensor) -> _First:
        words, categories = ([one[:, rows] for one in own] for own in (self.words, self.categories))
        return _First(self.bottom[:, rows], words, categories)

    @classmethod
    def joined(cls, parts: list[_First]) -> _First:
        together = [
            torch.cat(own, dim=1) for own in zip(*(part.tensors for part in parts), strict=True)
        ]
        words = 1 + len(parts[0].words)
        return cls(together[0], together[1:words], together[words:])


class ItemScores:
    """Scores users against all items.

    Args:
        ranker: trained.
        inputs: features of users and of m items.
        memory: GiB that the items' share of first layers may take; where it would take more, it is computed
            for the items that are asked for.

    Attributes:
        size: number of items.
    """

    @torch.inference_mode()
    def __init__(self, ranker: Ranker, inputs: RankerInputs, memory: float = float("inf")) -> None:
        last = cast(StackedLinear, ranker.top[-1])
        speaks = torch.cat([one.abs().flatten(1) for one in last.parameters()], dim=1).sum(1) > 0
        runs = torch.nonzero(speaks | (ranker.linear is None))[:, 0]
        self._part = len(runs) / ranker.shape.runs
        self._ranker = deepcopy(ranker).eval()
        self._ranker.keep_runs(runs)
        self._user, self._item = (
            _Half(self._ranker, ranker.linear, inputs, of) for of in ("user", "item")
        )
        self._pair = ranker.dense_scale[-1] * self._item.pair  # of the affinity in the logit
        every = torch.arange(inputs.item.unknown_index)
        self.size = len(every)
        self._plains = self._all_plain(inputs, every)
        held = (
            ranker.shape.hidden_size * (1 + len(ranker.shape.groups)) + ranker.shape.embedding_size
        )
        fits = len(every) * len(runs) * held * 4 <= memory * _GIB
        self._firsts = self._all_first(inputs, every) if fits and self._part else None

    @property
    def _plain(self) -> _Plain:
        return _Plain(*(one[: self.size] for one in self._plains))

    @property
    def has_linear(self) -> bool:
        """Whether there is a linear part, by which candidates can be chosen."""
        return self._ranker.linear is not None

    @torch.inference_mode()
    def put(self, inputs: RankerInputs, item: int) -> None:
        """Take in an item whose features have changed, or one more behind the last."""
        room = len(self._plains.logit)
        if item >= room:  # then there are views for many more, of whom nothing is known yet
            more = torch.arange(room, inputs.item.unknown_index)
            self._plains = _Plain(
                *map(torch.cat, zip(self._plains, self._all_plain(inputs, more), strict=True))
            )
            if self._firsts is not None:
                self._firsts = _First.joined([self._firsts, self._all_first(inputs, more)])
        at = torch.tensor([item])
        for old, one in zip(self._plains, self._all_plain(inputs, at), strict=True):
            old[item] = one[0]
        if self._firsts is not None:
            for old, one in zip(
                self._firsts.tensors, self._all_first(inputs, at).tensors, strict=True
            ):
                old[:, item] = one[:, 0]
        self.size = max(self.size, item + 1)

    @torch.inference_mode()
    def linear(self, inputs: RankerInputs, user: int, items: Tensor | None = None) -> Tensor:
        """(m,) logits of a user by the linear part alone; or of some items."""
        plain = self._plain if items is None else _Plain(*(one[items] for one in self._plain))
        return self._linear(self._user.plain(inputs, torch.tensor([user])), plain)

    @property
    def vectors(self) -> np.ndarray:
        """(m, t + 1) of the items; times a user's `query` it is the linear part, but for a constant."""
        return torch.cat([self._plain.taste, self._plain.logit[:, None]], dim=1).numpy()

    @torch.inference_mode()
    def query(self, inputs: RankerInputs, user: int) -> np.ndarray:
        """(t + 1,) of a user; see `vectors`."""
        taste = self._user.plain(inputs, torch.tensor([user])).taste[0]
        return np.append((taste * self._pair).numpy(), 1.0)

    @torch.inference_mode()
    def logits(self, inputs: RankerInputs, user: int, items: Tensor | None = None) -> np.ndarray:
        """(m,) logits of a user, averaged over runs; or of some items alone.

        Args:
            inputs: features, the user's among them.
            user: the user's view.
            items: their codes.
        """
        at = torch.tensor([user])
        plain = self._plain if items is None else _Plain(*(one[items] for one in self._plain))
        logit = self._linear(self._user.plain(inputs, at), plain)
        if self._part:
            asking = self._user.first(inputs, at)
            codes = torch.arange(self.size) if items is None else items
            for start in range(0, len(codes), _ITEMS_AT_ONCE):
                # There may be room behind the last item; see `put`.
                rows = slice(start, min(start + _ITEMS_AT_ONCE, len(codes)))
                if self._firsts is None:
                    first = self._item.first(inputs, codes[rows])
                else:
                    first = self._firsts.at(rows if items is None else codes[rows])
                logit[rows] += self._corrections(
                    asking, first, self._affinity(inputs, user, plain.taste[rows])
                )
        return logit.numpy()

    def _linear(self, user: _Plain, item: _Plain) -> Tensor:
        logit = item.logit + user.logit
        return (
            torch.addmv(logit, item.taste, user.taste[0] * self._pair)
            if item.taste.shape[1]
            else logit
        )

    @staticmethod
    def _affinity(inputs: RankerInputs, user: int, taste: Tensor) -> Tensor | None:
        return taste @ inputs.user.factors[user].float()[:, None] if taste.shape[1] else None

    def _corrections(self, user: _First, item: _First, affinity: Tensor | None) -> Tensor:
        """(n,) what DLRM adds to the logit of a user and n items."""
        ranker = self._ranker
        pair = cast(StackedLinear, ranker.bottom[0]).weight[:, -1] * ranker.dense_scale[-1]
        reducers = [
            cast(nn.Sequential, one.get_submodule("layers")) for one in ranker.reducers.values()
        ]
        runs = len(pair)
        total = torch.zeros(item.bottom.shape[1])
        # Run by run, what lies between two layers stays in a core's own cache.
        for run in range(runs):
            bottom = item.bottom[run] + user.bottom[run]
            if affinity is not None:
                bottom.addcmul_(affinity, pair[run])
            vectors = [_behind(ranker.bottom, bottom, run)]
            for layers, one, other in zip(reducers, item.words, user.words, strict=True):
                vectors.append(_behind(layers, one[run] + other[run], run))
            vectors += [one[run] for one in item.categories]
            crossed = (
                torch.cat([vectors[0], interact(vectors)], dim=-1)
                if len(vectors) > 1
                else vectors[0]
            )
            first = cast(StackedLinear, ranker.top[0])
            assert first.bias is not None
            total += _behind(
                ranker.top, torch.addmm(first.bias[run], crossed, first.weight[run]), run
            )[:, 0]
        return total * (self._part / runs)

    def _all_plain(self, inputs: RankerInputs, items: Tensor) -> _Plain:
        parts = [self._item.plain(inputs, part) for part in torch.split(items, 2 * _ITEMS_AT_ONCE)]
        return _Plain(*(torch.cat(own) for own in zip(*parts, strict=True)))

    def _all_first(self, inputs: RankerInputs, items: Tensor) -> _First:
        parts = torch.split(items, 2 * _ITEMS_AT_ONCE)
        return _First.joined([self._item.first(inputs, part) for part in parts])


class _Half:
    """One side of a ranker: the weights of what it reads of users, or of items and all constants."""

    def __init__(
        self, ranker: Ranker, linear: StackedLinear | None, inputs: RankerInputs, of: str
    ) -> None:
        users, self._ranker = inputs.user.dense.shape[1], ranker
        self._dense = slice(0, users) if of == "user" else slice(users, None)
        self._pairs = of == "item" and bool(inputs.user.factors.shape[1])
        self._of, self._constant = of, of == "item"
        weight, bias = torch.zeros(ranker.linear_size, 1), torch.zeros(1)
        if linear is not None:
            weight, bias = linear.weight.mean(0), cast(Tensor, linear.bias).mean(0)[0]
        self._logit = [weight[: ranker.shape.dense][self._dense]]
        self._blocks: list[list[str]] = []
        self._words: list[Tensor] = []
        at = ranker.shape.dense
        for (name, blocks), reducer in zip(
            ranker.shape.groups.items(), ranker.reducers.values(), strict=True
        ):
            own = torch.tensor([block.startswith(of) for block in blocks])
            sizes = torch.tensor([*blocks.values(), *[1] * len(blocks)])
            columns = torch.nonzero(own.repeat(2).repeat_interleave(sizes))[:, 0]
            self._blocks.append([block for block in blocks if block.startswith(of)])
            self._words.append(
                cast(StackedLinear, reducer.get_submodule("layers.0")).weight[:, columns]
            )
            self._logit.append(weight[at + columns])
            at += cast(VectorBlocks, ranker.blocks[name]).size
        self._logit.append(weight[at:] * self._constant)
        self._bias, self.pair = bias * self._constant, weight[ranker.shape.dense - 1]

    def plain(self, inputs: RankerInputs, views: Tensor) -> _Plain:
        """Their part of the logit."""
        dense, words, bag = self._read(inputs, views)
        parts = zip([dense, *words, *bag], self._logit, strict=False)
        side = inputs.item if self._constant else inputs.user
        taste = side.factors[views].float() if side.factors.shape[1] else dense[:, :0]
        return _Plain(sum((x @ weight for x, weight in parts), self._bias)[:, 0], taste)

    def first(self, inputs: RankerInputs, views: Tensor) -> _First:
        """Their part of the first layers."""
        dense, words, bag = self._read(inputs, views)
        layer = cast(StackedLinear, self._ranker.bottom[0])
        bottom = _affine(layer, layer.weight[:, self._dense], dense, self._constant)
        first = [
            cast(StackedLinear, one.get_submodule("layers.0"))
            for one in self._ranker.reducers.values()
        ]
        read = zip(first, self._words, words, strict=True)
        table = self._ranker.categories
        return _First(
            bottom,
            [_affine(layer, weight, x, self._constant) for layer, weight, x in read],
            [table(one) for one in bag] if table is not None else [],
        )

    def _read(
        self, inputs: RankerInputs, views: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Standardised numbers (an affinity of zero among them), words by reducer, categories."""
        side, ranker = inputs.item if self._constant else inputs.user, self._ranker
        dense = side.dense[views]
        if self._pairs:
            dense = torch.cat([dense, dense.new_zeros(len(dense), 1)], dim=1)
        dense = (dense - ranker.dense_mean[self._dense]) * ranker.dense_scale[self._dense]
        words = []
        for reader, blocks in zip(ranker.blocks.values(), self._blocks, strict=True):
            vectors = {name: side.vectors[name][views].float() for name in blocks}
            present = {name: side.present[name][views] for name in blocks}
            words.append(
                cast(VectorBlocks, reader).some(vectors, present) if blocks else dense[:, :0]
            )
        size = ranker.shape.categories if self._constant else 0
        return dense, words, [category_bag(side.categories[views], size)] if size else []


def _behind(layers: nn.Sequential, x: Tensor, run: int) -> Tensor:
    """(n, outputs) of one run's second layer, from what its first one gave, which is spent on it."""
    last = cast(StackedLinear, layers[-1])
    assert last.bias is not None
    return torch.addmm(last.bias[run], x.relu_(), last.weight[run])


def _affine(layer: StackedLinear, weight: Tensor, x: Tensor, constant: bool) -> Tensor:
    """(R, n, outputs) of (n, inputs), by part of a layer's weights, with its constant or without."""
    out = torch.matmul(x, weight)
    return out + layer.bias if constant and layer.bias is not None else out
