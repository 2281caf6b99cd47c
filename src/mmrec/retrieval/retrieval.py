"""Retrieval: the items that a user would choose, from what they have visited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_matrix

from mmrec.console import track
from mmrec.retrieval.blend import TEXT_INPUTS, fit_weights, input_names, propose
from mmrec.retrieval.histories import Histories, TopicAxes, Visits
from mmrec.retrieval.proposers import SIMILARITIES, Proposers

_ITEM_ARRAYS = ("item_factors", "topics", "visitor_topics", "visit_count", "like_count")
_MATRIX_PARTS = ("data", "indices", "indptr")
_FOLDS, _LISTS_PER_FOLD, _CANDIDATES_PER_LIST = 4, 2500, 150
_TEXT_LISTS_PER_FOLD = 1000  # of fewer weights
_BATCH_CELLS = 1 << 19  # users times items that are scored at once


@dataclass(frozen=True)
class Retrieval:
    """Proposers of candidates, and the weights by which they are blended."""

    axes: TopicAxes
    proposers: Proposers
    weights: np.ndarray  # (p,) of the inputs of the blend

    @classmethod
    def fit(cls, visits: Visits, axes: TopicAxes, seed: int) -> Retrieval:
        """Learn weights from out-of-fold visits: proposers see other folds than those they find.

        Visits that were disliked are no targets. The proposers are then fitted on all visits.
        """
        rng = np.random.default_rng(seed)
        fold = rng.integers(0, _FOLDS, len(visits.user))
        by_visits, by_texts = list[_TrainingList](), list[_TrainingList]()
        with track("learning lists", _FOLDS + 1) as advance:
            for number in range(_FOLDS):
                proposers = Proposers.fit(visits.rows(fold != number), seed)
                histories = Histories.from_visits(visits.rows(fold != number))
                targets = visits.rows((fold == number) & visits.liked)
                returning = targets.rows(np.diff(histories.visits.indptr)[targets.user] > 0)
                by_visits += _training_lists(proposers, histories, returning, rng)
                unknown = replace(histories, topics=np.zeros_like(histories.topics))
                for shown in (histories, unknown):
                    by_texts += _training_lists(proposers, shown, targets, rng, by_texts=True)
                advance(1)
            proposers = Proposers.fit(visits, seed)
            advance(1)
        # Inputs for users with visits are zero for those without, and the other way round.
        weights = _learn_weights(by_visits, proposers.names, proposers.names[:-1])
        weights += _learn_weights(by_texts, proposers.names, TEXT_INPUTS)
        return cls(axes, proposers, weights.numpy())

    def candidates(
        self,
        histories: Histories,
        limit: int,
        allowed: np.ndarray | None = None,
        *,
        visited_too: bool = False,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Up to `limit` items of each of b users, the likeliest choice first, and their scores.

        Only (m,) `allowed` items, and not those that the user has visited unless `visited_too`. Scores
        are logarithms of odds within a list.
        """
        lists: list[tuple[np.ndarray, np.ndarray]] = []
        batch = max(1, _BATCH_CELLS // max(self.proposers.items, 1))
        for start in range(0, len(histories), batch):
            rows = histories.rows(np.arange(start, min(start + batch, len(histories))))
            pairs, inputs = propose(self.proposers, rows, limit, allowed, visited_too=visited_too)
            score = inputs @ torch.from_numpy(self.weights)
            user, item = pairs.T.numpy()  # sorted by user
            ends = np.cumsum(np.bincount(user, minlength=len(rows)))[:-1]
            by_user = zip(np.split(item, ends), np.split(score.numpy(), ends), strict=True)
            for items, scores in by_user:
                best = np.argsort(-scores, kind="stable")[:limit]
                lists.append((items[best], scores[best]))
        return lists

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers by name, for a file."""
        arrays = {"weights": self.weights, "text mean": self.axes.mean, "text axes": self.axes.axes}
        proposers = self.proposers
        for name in _ITEM_ARRAYS:
            arrays[name] = getattr(proposers, name)
        for name, matrix in proposers.similarities.items():
            for part in _MATRIX_PARTS:
                arrays[f"{name}/{part}"] = getattr(matrix, part)
        return {name: np.ascontiguousarray(values) for name, values in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], items: int) -> Retrieval:
        """From what `arrays` gave; a ValueError for matrices or counts that are none."""
        similarities: dict[str, csr_matrix] = {}
        for name in SIMILARITIES:
            parts = tuple(arrays[f"{name}/{part}"] for part in _MATRIX_PARTS)
            if (parts[2][1:] < parts[2][:-1]).any():  # which is not checked if the last is 0
                raise ValueError(f"index pointers of {name} fall")
            similarities[name] = csr_matrix(parts, (items, items))
            similarities[name].check_format(full_check=True)  # or a product reads other memory
        proposers = Proposers(similarities, **{name: arrays[name] for name in _ITEM_ARRAYS})
        axes = TopicAxes(arrays["text mean"], arrays["text axes"])
        likes, visits = proposers.like_count, proposers.visit_count
        if (likes > visits).any():
            raise ValueError("more visits were liked than there are")
        return cls(axes, proposers, arrays["weights"])


# List numbers of candidates, from 0 on; their inputs; and 1 for the chosen ones.
_TrainingList = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _training_lists(
    proposers: Proposers,
    histories: Histories,
    targets: Visits,
    rng: np.random.Generator,
    *,
    by_texts: bool = False,
) -> list[_TrainingList]:
    """Candidates of users who chose some of them, proposed `by_texts` alone or by visits, too."""
    limit = _TEXT_LISTS_PER_FOLD if by_texts else _LISTS_PER_FOLD
    users = rng.permutation(np.unique(targets.user))[:limit]
    target_pairs = targets.user * targets.items + targets.item
    lists: list[_TrainingList] = []
    batch = max(1, _BATCH_CELLS // max(proposers.items, 1))
    for start in range(0, len(users), batch):
        block = users[start : start + batch]
        pairs, inputs = propose(proposers, histories.rows(block), by_texts=by_texts)
        user, item = pairs.numpy().T
        chosen = np.isin(block[user] * targets.items + item, target_pairs)
        # All that were chosen, and random others, of lists where any was.
        priority = np.where(chosen, -1.0, rng.random(len(chosen)))
        order = np.lexsort((priority, user))
        rank = np.arange(len(user)) - np.searchsorted(user, user)  # `user` is sorted
        has_target = np.bincount(user, weights=chosen, minlength=len(block)) > 0
        sampled = order[(rank < _CANDIDATES_PER_LIST) & has_target[user[order]]]
        if len(sampled):
            number = np.unique(user[sampled], return_inverse=True)[1]
            flags = torch.from_numpy(chosen[sampled].astype(np.float32))
            lists.append((torch.from_numpy(number), inputs[sampled], flags))
    return lists


def _learn_weights(
    training: Sequence[_TrainingList], proposers: Sequence[str], plain: Sequence[str]
) -> torch.Tensor:
    """(p,) weights of the blend; with too few targets, 1 for the `plain` inputs and 0 for others."""
    names = input_names(proposers)
    plain_weights = torch.tensor([float(name in plain) for name in names])
    if not training:  # nobody chose a candidate
        return plain_weights
    starts = np.cumsum([0, *(int(lists.max()) + 1 for lists, _, _ in training)])
    lists, inputs, chosen = zip(*training, strict=True)
    numbers = [ids + int(start) for ids, start in zip(lists, starts, strict=False)]
    columns = torch.cat(numbers), torch.cat(inputs), torch.cat(chosen)
    return fit_weights(*columns, plain_weights)
