"""Who will like what: pairs, and one user against all items, exactly or in two stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mmrec.config import CatalogueConfig
from mmrec.features.tables import Features
from mmrec.pipeline import TrainedModel
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.item_scores import ItemScores
from mmrec.retrieval.candidates import Index, can_index

__all__ = ["ListScorer"]

_PAIRS_AT_ONCE = 8192


class ListScorer:
    """A trained model with the features of every user and item.

    Args:
        model: trained.
        features: of all users and items; what is put anew must be put here too.
        config: from how many items on only the best by the linear part are scored by the whole ranker.
    """

    def __init__(self, model: TrainedModel, features: Features, config: CatalogueConfig) -> None:
        self._model, self._config, self._features = model, config, features
        self.inputs = RankerInputs(features)
        self._catalogue = ItemScores(model.ranker, self.inputs, config.memory)
        self._index: Index | None = None
        self._moved: set[int] = set()
        if self.in_two_stages and self._catalogue.size > config.index_items and can_index():
            self._index = Index(self._catalogue.vectors)

    @property
    def in_two_stages(self) -> bool:
        """Whether all items are too many for the whole ranker."""
        return self._catalogue.size > self._config.exact_items and self._catalogue.has_linear

    @property
    def how(self) -> str:
        """Where candidates come from: `exact` (all are scored), `scan` or `index`."""
        return "exact" if not self.in_two_stages else "scan" if self._index is None else "index"

    @property
    def size(self) -> int:
        """Number of items."""
        return self._catalogue.size

    def update_item(self, features: Features, item: int) -> None:
        """Take in an item whose features have changed, or one more behind the last."""
        if features is not self._features:  # there are more views now
            self.inputs, self._features = RankerInputs(features), features
        self._catalogue.put(self.inputs, item)
        self._moved.add(item)

    @torch.inference_mode()
    def score_pairs(
        self, views: tuple[np.ndarray, ...], inputs: RankerInputs | None = None
    ) -> np.ndarray:
        """(n,) probability of a like, of (n,) views of users and of items, then of their words if others."""
        tensors = [torch.from_numpy(view) for view in views]
        logit = [
            self._model.ranker(
                (inputs or self.inputs).view_batch(
                    *(tensor[at : at + _PAIRS_AT_ONCE] for tensor in tensors)
                )
            )
            for at in range(0, len(views[0]), _PAIRS_AT_ONCE)
        ]
        nobody = torch.zeros(self._model.ranker.shape.runs, 0)
        return self._model.probability(torch.cat([*logit, nobody], dim=1).numpy())

    def top_items(
        self,
        view: int,
        n: int,
        *,
        inputs: RankerInputs | None = None,
        candidates: np.ndarray | None = None,
        excluded: Sequence[int] | np.ndarray = (),
        exact: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items that a user most likely likes.

        Args:
            view: the user's.
            n: number of items.
            inputs: features of users, where the user is in none of the model's.
            candidates: codes of items, where not all may come up.
            excluded: codes that may not.
            exact: score all by the whole ranker, however many there are.

        Returns:
            Up to n codes, best first, and their probabilities.
        """
        inputs = inputs or self.inputs
        left_out = np.asarray(excluded, dtype=np.int64)
        count = self._catalogue.size if candidates is None else len(candidates)
        if not exact and self.in_two_stages and count > self._config.exact_items:
            candidates = self._candidates(
                inputs, view, max(self._config.candidates, n) + len(left_out), candidates
            )
        rows = None if candidates is None else torch.from_numpy(candidates)
        logit = self._catalogue.logits(inputs, view, rows)
        codes = np.arange(len(logit)) if candidates is None else candidates
        if candidates is None:
            logit[left_out] = -np.inf
        else:
            logit[np.isin(candidates, left_out)] = -np.inf
        best = _largest(logit, n)
        best = best[np.isfinite(logit[best])]
        return codes[best], self._model.probability(logit[None, best])

    def _candidates(
        self, inputs: RankerInputs, view: int, most: int, among: np.ndarray | None
    ) -> np.ndarray:
        """Codes of the items that are best by the linear part."""
        if among is None and self._index is not None:
            moved = np.fromiter(self._moved, dtype=np.int64, count=len(self._moved))
            if len(moved) > most:
                logit = self._catalogue.linear(inputs, view, torch.from_numpy(moved)).numpy()
                moved = moved[_largest(logit, most)]
            found = self._index.best(self._catalogue.query(inputs, view), most)
            return np.union1d(found, moved)
        rows = None if among is None else torch.from_numpy(among)
        found = _largest(self._catalogue.linear(inputs, view, rows).numpy(), most)
        return np.sort(found if among is None else among[found])


def _largest(values: np.ndarray, most: int) -> np.ndarray:
    """Places of the largest, largest first; of equal ones the first."""
    if most < 1:
        return np.zeros(0, dtype=np.int64)
    if most < len(values) // 8:
        # All that reach the last one that is wanted, so that ties are broken the same way.
        least = np.partition(values, len(values) - most)[len(values) - most]
        some = np.flatnonzero(values >= least)
        return some[np.argsort(-values[some], kind="stable")][:most]
    return np.argsort(-values, kind="stable")[:most]
