"""Probabilities of pairs, and the best items of a user."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from mmrec.features.tables import Features
from mmrec.pipeline import TrainedModel
from mmrec.ranker.inputs import RankerInputs

_CHUNK_ROWS = 2048


class ListScorer:
    """A trained model with the features of every user and every item.

    The linear model is additive in user and item, so the share of the items is computed once:

        linear(u, i) = linear(u, unknown) + linear(unknown, i) - linear(unknown, unknown)
                       + weight of the factor score * factor score of u and i

    Without a correction by DLRM, a list of 2,000 items so takes a sixtieth of the time of plain
    batches. The correction is computed for each list, by those runs alone in which it is not zero.
    """

    @torch.inference_mode()
    def __init__(self, model: TrainedModel, features: Features) -> None:
        ranker = model.ranker
        self._model, self._features = model, features
        self.inputs = RankerInputs(features)
        self.size = self.inputs.item.unknown_index  # number of items
        self._linear = deepcopy(ranker.linear)
        self._correction = deepcopy(ranker).eval()
        self._item_scores = torch.zeros(self.size)
        # A run whose correction was not proven has zeros in its last layer.
        active = torch.full([ranker.shape.runs], self._linear is None)
        for parameter in ranker.top[-1].parameters():
            active |= parameter.abs().flatten(1).sum(1) > 0
        if self._linear is not None:
            for parameter in self._linear.parameters():
                parameter.data = parameter.mean(0, keepdim=True)  # of R linear models
            self._correction.linear = None
            for chunk in torch.split(torch.arange(self.size), _CHUNK_ROWS):
                self._item_scores[chunk] = self._score_linear(self.inputs, None, chunk)
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
            self._item_scores[item] = self._score_linear(self.inputs, None, torch.tensor([item]))

    @torch.inference_mode()
    def score_pairs(
        self, views: Sequence[np.ndarray], inputs: RankerInputs | None = None
    ) -> np.ndarray:
        """(n,) probabilities for (n,) `views` of users and of items, then of their text."""
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
        inputs: RankerInputs | None = None,
        candidates: np.ndarray | None = None,
        excluded: Sequence[int] | np.ndarray = (),
        min_probability: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes of up to n items that a user likes most likely, and probabilities.

        The user is named by its view in `inputs`, by default the model's. Items are chosen from
        `candidates`, sorted codes of items, by default from all, without those `excluded`.
        """
        codes = np.arange(self.size) if candidates is None else candidates
        codes = codes[~np.isin(codes, np.asarray(excluded, dtype=np.int64))]
        items = torch.from_numpy(codes)
        logit = self._list_logits(inputs or self.inputs, user, items).numpy()
        best = np.argsort(-logit, kind="stable")[:n]
        probability = self._model.probability(logit[None, best])
        likely = probability >= min_probability
        return codes[best[likely]], probability[likely]

    def _list_logits(self, inputs: RankerInputs, user: int, items: Tensor) -> Tensor:
        """(n,) logits, averaged over runs, of a user and n items."""
        logit = torch.zeros(len(items))
        if self._linear is not None:
            # (1,) scores; see the formula above.
            user_score = self._score_linear(inputs, user, None)
            constant = self._score_linear(inputs, None, None)
            logit += self._item_scores[items] + user_score - constant
            if inputs.has_factors:  # the factor score is the last dense column
                ranker = self._model.ranker
                weight = self._linear.weight[0, ranker.shape.dense - 1]
                weight = weight * ranker.standardiser.dense_scale[-1]
                user_factors = torch.from_numpy(inputs.user.factors)[user].float() * weight
                item_factors = torch.from_numpy(inputs.item.factors)[items].float()
                logit += item_factors @ user_factors
        if self._active_share:  # inactive runs add nothing to the mean over all runs
            for rows in torch.split(torch.arange(len(items)), _CHUNK_ROWS):
                batch = inputs.view_batch(torch.full_like(rows, user), items[rows])
                logit[rows] += self._correction(batch).mean(0) * self._active_share
        return logit

    def _score_linear(self, inputs: RankerInputs, user: int | None, items: Tensor | None) -> Tensor:
        """(n,) scores of the linear model alone; None is the unknown user, or item."""
        assert self._linear is not None
        user = inputs.user.unknown_index if user is None else user
        items = torch.tensor([inputs.item.unknown_index]) if items is None else items
        columns = self._model.ranker.linear_columns(
            inputs.view_batch(torch.full_like(items, user), items)
        )
        return self._linear(columns)[0, :, 0]
