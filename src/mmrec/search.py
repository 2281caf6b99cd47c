"""Which items are spoken of in words near to what someone asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mmrec.encode import Encoder
from mmrec.features import SideFeatures

__all__ = ["diverse", "nearness", "similar", "wishes"]


def wishes(text: str) -> list[str]:
    """The parts of a list in words: "ramen, quiet places" is two wishes."""
    return list(dict.fromkeys(part.strip() for part in re.split(r"[,;\n]", text) if part.strip()))


def nearness(
    asked: Sequence[str], item: SideFeatures, labels: Sequence[Sequence[str]], encoder: Encoder
) -> np.ndarray:
    """How near each item is to all wishes together.

    Each wish is compared with what is liked about the item, and with the nearest of the item's labels; both
    count alike, in deviations from the mean over all items.

    Args:
        asked: (w) wishes.
        item: features of m items.
        labels: (m) each item's categories and price in words.
        encoder: puts words into the space of `item`.

    Returns:
        (m,) higher is nearer.
    """
    vectors = encoder.encode(asked).astype(np.float32)
    centred, mean = _centred(item, np.arange(len(labels)), "likes")
    scores = [centred @ (vectors - mean).T]
    known = sorted({label for some in labels for label in some})
    if known:
        close = encoder.encode(known).astype(np.float32) @ vectors.T
        code = {label: at for at, label in enumerate(known)}
        nearest = [close[[code[label] for label in some]].max(0) if some else close.min(0) for some in labels]
        scores.append(np.stack(nearest))
    return sum((score - score.mean(0)) / np.maximum(score.std(0), 1e-6) for score in scores).sum(axis=1)


def similar(side: SideFeatures, code: int, size: int, most: int) -> list[tuple[int, float]]:
    """Codes below `size` of those spoken of (or writing) most like one, nearest first, and the cosine."""
    vectors, _ = _centred(side, np.arange(size), "gist")
    near = vectors @ vectors[code]
    near[code] = -np.inf
    best = np.argsort(-near, kind="stable")[: min(most, size - 1)]
    return [(int(at), float(near[at])) for at in best]


def diverse(
    probability: np.ndarray, side: SideFeatures, items: np.ndarray, most: int, diversity: float
) -> np.ndarray:
    """Places in `items` of the best, each chosen by its probability and by being unlike those before.

    Maximal marginal relevance (Carbonell & Goldstein, 1998) among the best ten times as many.

    Args:
        probability: (m,) of liking.
        side: features of all items.
        items: (m,) their codes.
        most: number of items to choose.
        diversity: 0, by probability alone, to 1, by being unlike alone.
    """
    order = np.argsort(-probability, kind="stable")[: most if not diversity else 10 * most]
    if not diversity or not len(order):
        return order
    vectors, _ = _centred(side, items[order], "gist")
    gain, nearest = (1 - diversity) * probability[order], np.zeros(len(order))
    chosen: list[int] = []
    while len(chosen) < min(most, len(order)):
        value = gain - diversity * nearest
        value[chosen] = -np.inf
        chosen.append(int(np.argmax(value)))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return order[chosen]


def _centred(side: SideFeatures, codes: np.ndarray, preferred: str) -> tuple[np.ndarray, np.ndarray]:
    """(m, d) directions of what is said of some; and (d,) what is said of all, which tells nobody apart."""
    name = next(name for name in (preferred, "gist", "summary", "reviews") if name in side.vectors)
    vectors = side.vectors[name][codes].astype(np.float32)
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), mean
