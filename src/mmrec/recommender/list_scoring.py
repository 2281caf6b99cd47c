"""Probabilities of single pairs, and the items that one user most likely likes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from mmrec.features.tables import Features
from mmrec.pipeline import TrainedModel
from mmrec.ranker.inputs import RankerInputs

__all__ = ["ListScorer"]

_CHUNK_ROWS = 2048


class ListScorer:
    """A trained model with the features of every user and every item.

    The linear model is additive in user and item, so the share of the items is computed once:

        linear(u, i) = linear(u, unknown) + linear(unknown, i) - linear(unknown, unknown)
                       + weight of the factor score * factor score of u and i

    DLRM's correction is computed for each list, by those runs alone in which it is not zero.

    Args:
        model: trained.
        features: of all users and items.

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
        chunks = zip(
            *(torch.split(torch.from_numpy(view), _CHUNK_ROWS) for view in views), strict=True
        )
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
        """The items that a user most likely likes.

        Args:
            user: the user's view.
            n: number of items.
            inputs: features of users, where other than the model's.
            candidates: sorted codes of the items to choose from; all by default.
            excluded: codes of items to leave out.

        Returns:
            Up to n codes, best first, and their probabilities.
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
            if inputs.has_factors:
                weight = self._linear.weight[0, self._model.ranker.shape.dense - 1]
                weight = weight * self._model.ranker.dense_scale[-1]
                logit += inputs.item.factors[items].float() @ (
                    inputs.user.factors[user].float() * weight
                )
        if self._active_share:  # inactive runs add nothing to the mean over all runs
            for positions in torch.split(torch.arange(len(items)), _CHUNK_ROWS):
                part = items[positions]
                batch = inputs.view_batch(torch.full_like(part, user), part)
                logit[positions] += self._correction(batch).mean(0) * self._active_share
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
