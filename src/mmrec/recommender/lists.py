"""Probabilities of pairs, and the best items of a user."""

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mmrec.features.tables import Features
from mmrec.pipeline import TrainedModel
from mmrec.ranker.dlrm import StackedLinear
from mmrec.ranker.inputs import RankerInputs

_CHUNK_ROWS = 2048
_MAX_STORED_ITEMS = 20_000  # some 1.7 kB for each and each active run


class ListScorer:
    """A trained model with the features of every user and every item.

    The layers that see the inputs are affine: the linear model, the embedding of categories, and the
    first layers of the bottom MLP and the reducers. The inputs of a user u and an item i stand side
    by side, so the share of the items is computed once:

        layer(u, i) = layer(u, unknown) + layer(unknown, i) - layer(unknown, unknown)
                      + weights of the factor score * factor score of u and i
    """

    @torch.inference_mode()
    def __init__(self, model: TrainedModel, features: Features) -> None:
        ranker = model.ranker
        self._model = model
        self._features: Features | None = None
        # A run whose correction by DLRM was not proven has zeros in its last layer.
        active = torch.full([ranker.shape.runs], ranker.linear is None)
        for parameter in ranker.top[-1].parameters():
            active |= parameter.abs().flatten(1).sum(1) > 0
        self._active_share = float(active.float().mean())
        # DLRM is computed for each list, by its active runs alone, after the linear model.
        self._dlrm, self._linear = deepcopy(ranker).eval(), deepcopy(ranker.linear)
        self._dlrm.keep_runs(torch.nonzero(active)[:, 0])
        self._dlrm.linear = None
        if self._linear is not None:
            for parameter in self._linear.parameters():
                parameter.data = parameter.mean(0, keepdim=True)  # of R linear models
        self._use_features(features)

    def _use_features(self, features: Features) -> None:
        inputs = RankerInputs(features)
        if self._features is None or features.item is not self._features.item:
            # Of the items in memory, (R, v, ...) outputs of each layer beside the unknown user.
            views = torch.arange(min(features.item.unknown_index, _MAX_STORED_ITEMS))
            user = torch.tensor([features.user.unknown_index])
            parts: dict[str, list[Tensor]] = defaultdict(list)
            for chunk in torch.split(views, _CHUNK_ROWS):
                for name, output in self._first_layers(inputs, user, chunk).items():
                    parts[name].append(output)
            self._stored = {name: torch.cat(outputs, dim=1) for name, outputs in parts.items()}
        self._features, self.inputs = features, inputs

    @torch.inference_mode()
    def update_items(self, features: Features, items: np.ndarray) -> None:
        """Use changed features of (n,) items, which may stand behind the last."""
        if features is not self._features:  # arrays of users or items have grown
            self._use_features(features)
        stored = torch.from_numpy(items[items < _MAX_STORED_ITEMS])
        user = torch.tensor([features.user.unknown_index])
        for chunk in torch.split(stored, _CHUNK_ROWS) if len(stored) else ():
            for name, values in self._first_layers(self.inputs, user, chunk).items():
                self._stored[name][:, chunk] = values

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
    def probabilities(
        self, users: np.ndarray | int, items: np.ndarray, inputs: RankerInputs | None = None
    ) -> np.ndarray:
        """(n,) probabilities that (n,) users, or one user, like (n,) items; users are views of
        `inputs`, by default the model's, and items are codes."""
        distinct, position = np.unique(np.broadcast_to(users, items.shape), return_inverse=True)
        rows = torch.from_numpy(position), torch.from_numpy(items)
        logit = self._list_logits(inputs or self.inputs, torch.from_numpy(distinct), *rows)
        return self._model.probability(logit.numpy()[None])

    def _list_logits(
        self, inputs: RankerInputs, users: Tensor, position: Tensor, items: Tensor
    ) -> Tensor:
        """(n,) logits, averaged over runs, of items and the user at a position of `users`; see the
        formula above."""
        logit = torch.zeros(len(items))
        # Unknown users, and unknown items, are alike in all inputs.
        unknown_user = torch.tensor([inputs.user.unknown_index])
        unknown_item = torch.tensor([inputs.item.unknown_index])
        user_outputs = self._first_layers(inputs, torch.cat([users, unknown_user]), unknown_item)
        changes = {name: values[:, :-1] - values[:, -1:] for name, values in user_outputs.items()}
        for rows in torch.split(torch.arange(len(items)), _CHUNK_ROWS):
            chunk, user = items[rows], position[rows]
            if (chunk < _MAX_STORED_ITEMS).all():
                outputs = {name: x.index_select(1, chunk) for name, x in self._stored.items()}
            else:
                outputs = self._first_layers(inputs, unknown_user, chunk)
            for name, values in changes.items():
                outputs[name] += values.index_select(1, user)
            self._add_factor_score(outputs, inputs, users[user], chunk)
            if self._linear is not None:
                logit[rows] += outputs["linear"][0, :, 0]
            if self._active_share:  # inactive runs add nothing to the mean over all runs
                logit[rows] += self._score_outputs(outputs) * self._active_share
        return logit

    def _first_layers(self, inputs: RankerInputs, user: Tensor, item: Tensor) -> dict[str, Tensor]:
        """(R, n, ...) outputs, by layer, for views of users and items, (n,) or a single one."""
        ranker, outputs = self._dlrm, dict[str, Tensor]()
        size = max(len(user), len(item))
        columns = ranker.columns(inputs.view_batch(user.expand(size), item.expand(size)))
        if self._active_share:
            outputs["dense"] = ranker.bottom[0](columns["dense"])
            for name, reducer in ranker.reducers.items():
                outputs[name] = reducer.layers[0](columns[name])
            if ranker.categories is not None:
                outputs["categories"] = ranker.categories(columns["categories"])
        if self._linear is not None:
            outputs["linear"] = self._linear(torch.cat([*columns.values()], dim=1))
        return outputs

    def _add_factor_score(
        self, outputs: dict[str, Tensor], inputs: RankerInputs, users: Tensor, items: Tensor
    ) -> None:
        if not inputs.has_factors:
            return
        user_factors = torch.from_numpy(inputs.user.factors)[users].float()
        item_factors = torch.from_numpy(inputs.item.factors)[items].float()
        last = self._dlrm.shape.dense - 1  # the column of the factor score
        score = (item_factors * user_factors).sum(1, keepdim=True)
        score *= self._dlrm.standardiser.dense_scale[last]
        if self._active_share:
            bottom = cast(StackedLinear, self._dlrm.bottom[0])
            outputs["dense"].addcmul_(score, bottom.weight[:, last : last + 1])
        if self._linear is not None:
            outputs["linear"].addcmul_(score, self._linear.weight[:, last : last + 1])

    def _score_outputs(self, outputs: dict[str, Tensor]) -> Tensor:
        """(n,) mean corrections by DLRM, from the outputs of its first layers, which are spent."""
        vectors = [self._dlrm.bottom.after_first(outputs["dense"])]
        for name, reducer in self._dlrm.reducers.items():
            vectors.append(reducer.layers.after_first(outputs[name]))
        if self._dlrm.categories is not None:
            vectors.append(outputs["categories"])
        return self._dlrm.interact(vectors).mean(0)
