"""One user against all items; what a ranker makes of the items is computed beforehand.

The first layer of every part of a ranker is linear in what it reads, so it comes apart into what the user,
the item and the pair bring, and the item's share is the same for everybody. What is left for a pair are the
small layers behind. Runs whose last layer is zero (a correction that was not proven) cost nothing.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.ranking.dlrm import Ranker, interact
from mmrec.ranking.inputs import Inputs
from mmrec.ranking.layers import Linear

__all__ = ["Catalogue"]

_ITEMS_AT_ONCE = 4096


class _Share(NamedTuple):
    """What n users, or n items, bring to the first layers of R runs.

    `linear` (n, 1) to the logit; `taste` (n, t); `bottom` (R, n, h) to the layer over numbers; `words`, by
    reducer, (R, n, h); `categories`, of items where there are any, (R, n, e).
    """

    linear: Tensor
    taste: Tensor
    bottom: Tensor
    words: tuple[Tensor, ...]
    categories: tuple[Tensor, ...]

    def at(self, rows: slice | Tensor) -> _Share:
        runs = (tuple(one[:, rows] for one in own) for own in (self.words, self.categories))
        return _Share(self.linear[rows], self.taste[rows], self.bottom[:, rows], *runs)

    @classmethod
    def joined(cls, shares: list[_Share]) -> _Share:
        linear, taste, bottom, words, categories = zip(*shares, strict=True)
        runs = (tuple(torch.cat(one, 1) for one in zip(*own, strict=True)) for own in (words, categories))
        return cls(torch.cat(linear), torch.cat(taste), torch.cat(bottom, 1), *runs)


class Catalogue:
    """Scores users against all items.

    Args:
        ranker: trained.
        inputs: features of users and of m items.
    """

    @torch.inference_mode()
    def __init__(self, ranker: Ranker, inputs: Inputs) -> None:
        last = cast(Linear, ranker.top[-1])
        speaks = torch.cat([one.abs().flatten(1) for one in last.parameters()], dim=1).sum(1) > 0
        runs = torch.nonzero(speaks | (ranker.linear is None))[:, 0]
        self._part = len(runs) / ranker.shape.runs
        self._weight, self._bias = torch.zeros(ranker.linear_size, 1), torch.zeros(1)
        if ranker.linear is not None:
            self._weight = ranker.linear.weight.mean(0)
            self._bias = cast(Tensor, ranker.linear.bias).mean(0)[0]
        self._ranker = deepcopy(ranker)
        self._ranker.keep(runs)
        self._users = inputs.user.dense.shape[1]
        rows = torch.split(torch.arange(inputs.item.nothing), _ITEMS_AT_ONCE)
        self._items = _Share.joined([self._share("item", inputs, part) for part in rows])

    @torch.inference_mode()
    def put(self, inputs: Inputs, item: int) -> None:
        """Take in an item whose features have changed, or one more behind the last."""
        share = self._share("item", inputs, torch.tensor([item]))
        if item == len(self._items.linear):
            self._items = _Share.joined([self._items, share])
            return
        for mine, new in zip(self._items[:2], share[:2], strict=True):
            mine[item] = new[0]
        for own, others in zip(self._items[2:], share[2:], strict=True):
            for mine, new in zip(*((x,) if isinstance(x, Tensor) else x for x in (own, others)), strict=True):
                mine[:, item] = new[:, 0]

    @torch.inference_mode()
    def logits(self, inputs: Inputs, user: int, items: Tensor | None = None) -> np.ndarray:
        """(m,) logits of a user, averaged over runs; or of some items alone.

        Args:
            inputs: with the user's features; those of items are not looked at.
            user: the user's view.
            items: their codes.
        """
        share = self._share("user", inputs, torch.tensor([user]))
        known = self._items if items is None else self._items.at(items)
        parts = range(0, len(known.linear), _ITEMS_AT_ONCE)
        scored = [self._pairs(share, known.at(slice(at, at + _ITEMS_AT_ONCE))) for at in parts]
        return torch.cat([*scored, torch.zeros(0)]).numpy()

    def _share(self, side: Literal["user", "item"], inputs: Inputs, views: Tensor) -> _Share:
        """What (n,) views of one side bring; the item's has all constants, as for an affinity of zero."""
        ranker, constant = self._ranker, side == "item"
        other = torch.full_like(views, inputs.user.nothing if constant else inputs.item.nothing)
        batch = inputs.batch(other, views) if constant else inputs.batch(views, other)
        taste = (inputs.item if constant else inputs.user).taste
        dense = ranker.dense(batch)
        dense[:, self._users :] *= constant
        dense[:, : self._users] *= not constant
        words = []
        for name, read in ranker.read(batch).items():
            blocks = self._ranker.shape.groups[name]
            own = [block.startswith(side) for block in blocks]
            sizes = torch.tensor([*blocks.values(), *[1] * len(blocks)])
            words.append(read * torch.tensor([*own, *own]).repeat_interleave(sizes))
        bag = [one * constant for one in ranker.bag(batch)]
        linear = torch.cat([dense, *words, *bag], dim=1) @ self._weight + self._bias * constant
        first = [cast(Linear, reducer.get_submodule("layers.0")) for reducer in ranker.reducers.values()]
        return _Share(
            linear,
            taste[views].float() if taste.shape[1] else dense[:, :0],
            _affine(cast(Linear, ranker.bottom[0]), dense, constant),
            tuple(_affine(layer, read, constant) for layer, read in zip(first, words, strict=True)),
            tuple(ranker.categories(one) for one in bag if ranker.categories is not None and constant),
        )

    def _pairs(self, user: _Share, item: _Share) -> Tensor:
        """(n,) logits of a user and n items."""
        ranker, logit = self._ranker, item.linear + user.linear
        bottom = item.bottom + user.bottom
        if item.taste.shape[1]:
            affinity = (item.taste @ user.taste.T) * ranker.dense_scale[-1]
            pair = ranker.shape.dense - 1
            logit = logit + affinity * self._weight[pair]
            bottom = bottom + affinity * cast(Linear, ranker.bottom[0]).weight[:, pair : pair + 1]
        if self._part:
            vectors = [ranker.bottom[1:](bottom)]
            for reducer, one, other in zip(ranker.reducers.values(), item.words, user.words, strict=True):
                vectors.append(cast(nn.Sequential, reducer.get_submodule("layers"))[1:](one + other))
            vectors += item.categories
            crossed = torch.cat([vectors[0], interact(vectors)], dim=-1) if len(vectors) > 1 else vectors[0]
            logit = logit + ranker.top(crossed).mean(0) * self._part
        return logit[:, 0]


def _affine(layer: Linear, x: Tensor, constant: bool) -> Tensor:
    """(R, n, outputs) of (n, inputs), with the layer's constant or without."""
    out = torch.matmul(x, layer.weight)
    return out + layer.bias if constant and layer.bias is not None else out
