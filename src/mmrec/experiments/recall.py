"""What scoring in two stages finds of what exact scoring finds, and how long both take."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np

from mmrec.console import track
from mmrec.recommender.list_scoring import ListScorer

__all__ = ["Recall", "measure"]


@dataclass(frozen=True)
class Recall:
    """Lists of some users, found in both ways.

    Attributes:
        items: size of the catalogue.
        how: where candidates come from: `exact` (there are none), `scan` or `index`.
        n: length of a list.
        recall: mean share of the exact list that the list has.
        milliseconds, exact_milliseconds: p50 and p99 of the time a list takes.
        gigabytes: most memory that the process ever held.
    """

    items: int
    how: str
    n: int
    recall: float
    milliseconds: tuple[float, float]
    exact_milliseconds: tuple[float, float]
    gigabytes: float


def measure(scorer: ListScorer, users: np.ndarray, n: int, compared: int | None = None) -> Recall:
    """Find the best n items of (u,) views of users, as they are found by default and exactly.

    Args:
        scorer: with the catalogue.
        users: their views.
        n: length of a list.
        compared: how many of the users get an exact list too; all by default.
    """
    views = users.tolist()
    # One after the other: an exact list drives everything else out of the processor's caches.
    found, quick = _timed(scorer, views, n, exact=False)
    truth, slow = _timed(scorer, views[:compared], n, exact=True)
    shared = [
        len(np.intersect1d(own, best)) / max(len(best), 1)
        for own, best in zip(found, truth, strict=False)
    ]
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Recall(
        scorer.size, scorer.how, n, float(np.mean(shared)), quick, slow, kibibytes / 2**20
    )


def _timed(
    scorer: ListScorer, views: list[int], n: int, *, exact: bool
) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Lists, and p50 and p99 of the milliseconds that one takes."""
    lists, times = [], []
    with track("scoring exactly" if exact else "scoring", len(views)) as advance:
        for view in views:
            start = time.perf_counter()
            lists.append(scorer.top_items(view, n, exact=exact)[0])
            times.append(1000 * (time.perf_counter() - start))
            advance(1)
    return lists, (float(np.percentile(times, 50)), float(np.percentile(times, 99)))
