"""The blend of proposers: a conditional logit, learned from visits that the proposers did not see."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmrec.retrieval.histories import Histories
from mmrec.retrieval.proposers import TEXT_PROPOSERS, Proposers

_PROPOSED = 60  # items that each proposer brings
_MAX_RANK = 200  # later ranks count as this one
_PENALTY = 50.0  # of squared weights
_MIN_TARGETS = 30  # with fewer chosen items no weights are learned
TEXT_INPUTS = [f"{name} for texts alone" for name in (*TEXT_PROPOSERS, "item visits")]
TEXT_INPUTS += ["item visits for new users"]
"""Inputs whose plain sum orders items for users without visits, where no weights are learned."""
_TYPICAL_HISTORY, _TYPICAL_POPULARITY = 1.5, 3.0  # logs; interactions are zero there


def propose(
    proposers: Proposers,
    histories: Histories,
    limit: int = 0,
    allowed: np.ndarray | None = None,
    *,
    visited_too: bool = False,
    by_texts: bool = False,
) -> tuple[Tensor, Tensor]:
    """(c, 2) user and item of all candidates of b users, and (c, p) inputs of the blend.

    Candidates are the best items of each proposer, at least `limit`, of (m,) `allowed` ones that the
    user has not visited, unless these may be in lists, too. `input_names` says what the inputs are;
    `by_texts` they are those of users whose visits are not known.
    """
    evidence = histories.texts_alone() if by_texts else histories
    scores = torch.from_numpy(proposers.scores(evidence))
    visits = histories.visits.tocoo()
    visited = torch.from_numpy(visits.row).long(), torch.from_numpy(visits.col).long()
    mean = scores.mean(2, keepdim=True)
    # In two passes: `torch.std_mean` takes seven times as long.
    deviation = (scores - mean).square_().mean(2, keepdim=True).sqrt_()
    is_open = torch.ones(scores.shape[1:], dtype=torch.bool)
    is_open[visited] = visited_too
    if allowed is not None:
        is_open &= torch.from_numpy(allowed)
    scores.masked_fill_(~is_open, -torch.inf)
    log_rank, is_candidate = _rank(scores, max(_PROPOSED, limit))
    user, item = pairs = (is_candidate & is_open).nonzero().T
    # Of the candidates alone, since this is the largest array.
    scale = deviation[:, user, 0] + 1e-9
    standard = ((scores[:, user, item] - mean[:, user, 0]) / scale).clamp(-3, 12)
    inputs = _inputs(proposers, evidence, pairs, standard, log_rank[:, user, item])
    return pairs.T, inputs


def _rank(scores: Tensor, proposed: int) -> tuple[Tensor, Tensor]:
    """(proposers, b, m) logs of ranks by each proposer, and (b, m) whether any proposes the item."""
    depth = min(max(_MAX_RANK, proposed), scores.shape[2])
    last = float(np.log1p(_MAX_RANK))
    log_rank = torch.full(scores.shape, last)
    is_candidate = torch.zeros(scores.shape[1:], dtype=torch.bool)
    ranks = torch.arange(depth).float().log1p().clamp(max=last)
    for position, of_items in enumerate(scores):
        best = of_items.topk(depth, dim=1).indices
        log_rank[position].scatter_(1, best, ranks.expand(len(best), depth))
        is_candidate.scatter_(1, best[:, :proposed], True)
    return log_rank, is_candidate


def _inputs(
    proposers: Proposers, histories: Histories, pairs: Tensor, standard: Tensor, log_rank: Tensor
) -> Tensor:
    """(c, p) inputs of (2, c) users and items, from (proposers, c) standard scores and log ranks."""
    user, item = pairs
    popularity = torch.from_numpy(proposers.popularity)[item, None]
    like_share = torch.from_numpy(proposers.like_share)[item, None]
    visit_count = torch.from_numpy(np.diff(histories.visits.indptr))[user, None]
    has_history = (visit_count > 0).float()
    has_texts = (1 - has_history) * torch.from_numpy(histories.topics.any(1))[user, None]
    length = visit_count.log1p() - _TYPICAL_HISTORY
    of_item = torch.cat([like_share, popularity, popularity**2], dim=1)
    of_proposers = torch.cat([standard, log_rank]).T
    inputs = torch.cat([of_proposers, of_item], dim=1)
    with_popularity = of_proposers * (popularity - _TYPICAL_POPULARITY)
    blocks = [inputs, inputs * length, with_popularity]
    texts = slice(-1 - len(TEXT_PROPOSERS), -1)  # before popularity
    by_text = torch.cat([standard[texts], log_rank[texts]]).T
    # Without visits only texts, popularity and likes tell anything, with weights of their own.
    blocks = [block * has_history for block in blocks]
    blocks += [torch.cat([by_text, of_item], dim=1) * has_texts]
    blocks += [of_item * (1 - has_history - has_texts)]
    return torch.cat(blocks, dim=1).float()


def input_names(proposers: Sequence[str]) -> list[str]:
    """Names of the p inputs: by proposer, the score in deviations from the mean over all items, and
    the log of the rank; what is known of the item; all these times the log of the user's visits; the
    former times the log of the item's; and what is known of the item for users without visits."""
    of_proposers = [*proposers, *(f"rank by {name}" for name in proposers)]
    of_item = ["share of likes", "item visits", "item visits squared"]
    inputs = [*of_proposers, *of_item]
    names = [*inputs, *(f"{name} x user visits" for name in inputs)]
    names += [f"{name} x item visits" for name in of_proposers]
    by_text = [*TEXT_PROPOSERS, *(f"rank by {name}" for name in TEXT_PROPOSERS), *of_item]
    names += [f"{name} for texts alone" for name in by_text]
    return [*names, *(f"{name} for new users" for name in of_item)]


def fit_weights(lists: Tensor, inputs: Tensor, chosen: Tensor, plain: Tensor) -> Tensor:
    """(p,) weights of the blend, by a conditional logit (McFadden, 1974) of (c,) candidates.

    Every `chosen` candidate competes with all candidates of its list (`lists` counts from 0). Too few
    of them leave the `plain` weights, (p,).
    """
    if chosen.sum() < _MIN_TARGETS:
        return plain
    deviation, mean = torch.std_mean(inputs, dim=0, correction=0)
    standard = (inputs - mean) / (deviation + 1e-6)
    count, size = float(chosen.sum()), int(lists.max()) + 1
    weights = torch.zeros(inputs.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        score = standard @ weights
        highest = torch.full([size], -torch.inf).scatter_reduce(0, lists, score.detach(), "amax")
        total = torch.zeros(size).index_add(0, lists, (score - highest[lists]).exp())
        log_total = total.log() + highest
        value = ((log_total[lists] - score) * chosen).sum() + _PENALTY * weights.square().sum()
        (value / count).backward()  # type: ignore[no-untyped-call]
        return value / count

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach() / (deviation + 1e-6)
