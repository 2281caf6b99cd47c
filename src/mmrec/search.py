"""Which items are spoken of in words near to what someone asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mmrec.encode import Encoder
from mmrec.features import SideFeatures

__all__ = ["nearness", "wishes"]


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
    name = next(name for name in ("likes", "summary", "reviews") if name in item.vectors)
    liked = item.vectors[name][:-1].astype(np.float32)
    # What every item's reviews have in common says nothing about what was asked for.
    centred = liked - liked.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    scores = [centred @ (vectors - liked.mean(axis=0)).T]
    known = sorted({label for some in labels for label in some})
    if known:
        close = encoder.encode(known).astype(np.float32) @ vectors.T
        code = {label: at for at, label in enumerate(known)}
        nearest = [close[[code[label] for label in some]].max(0) if some else close.min(0) for some in labels]
        scores.append(np.stack(nearest))
    return sum((score - score.mean(0)) / np.maximum(score.std(0), 1e-6) for score in scores).sum(axis=1)
