"""What scoring in two stages finds of what exact scoring finds, and how long both take."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np

from mmrec.progress import track
from mmrec.scoring import Scorer

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


def measure(scorer: Scorer, users: np.ndarray, n: int, compared: int | None = None) -> Recall:
    """Find the best n items of (u,) views of users, as they are found by default and exactly.

    Args:
        scorer: with the catalogue.
        users: their views.
        n: length of a list.
        compared: how many of the users get an exact list too; all by default.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    shared: list[float] = []
    with track("scoring both ways", len(users)) as advance:
        for at, view in enumerate(users.tolist()):
            found: list[np.ndarray] = []
            for exact, taken in times.items():
                if exact and compared is not None and at >= compared:
                    continue
                start = time.perf_counter()
                found.append(scorer.best(view, n, exact=exact)[0])
                taken.append(1000 * (time.perf_counter() - start))
            if len(found) == 2:
                shared.append(len(np.intersect1d(found[0], found[1])) / max(len(found[1]), 1))
            advance(1)
    quick, slow = ((float(np.percentile(own, 50)), float(np.percentile(own, 99))) for own in times.values())
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Recall(scorer.size, scorer.how, n, float(np.mean(shared)), quick, slow, kibibytes / 2**20)
