"""What the vectors of sentences tell: nearness to model sentences of praise, of prices and of categories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.lexicon import UNKNOWN_SHARE, Lexicon

__all__ = ["Anchors"]

_SURE = 0.5
_CLEAR = 0.6
_PRIOR = 0.6


class Anchors:
    """The model sentences of a vocabulary, encoded; zero-shot scores of other sentences against them.

    All constants come from the vocabulary's own sentences, never from the texts that are scored, so that a
    score depends on its sentence alone.

    Args:
        encoder: turns the model sentences into vectors, the same way as the sentences to be scored.
        lexicon: the vocabulary.
    """

    def __init__(self, encoder: Encoder, lexicon: Lexicon) -> None:
        def encode(texts: Sequence[str]) -> np.ndarray:
            return encoder.encode(texts, "reading the vocabulary").astype(np.float32)

        praise, blame = encode(lexicon.praise), encode(lexicon.blame)
        self._opinion = _axis(blame.mean(0), praise.mean(0))
        tags = [encode(texts).mean(0) for texts in lexicon.price_anchors.values()]
        self._price = _axis(tags[0], tags[-1])
        self._tags = _unit(np.stack(tags))
        prompts = encode([category.prompt for category in lexicon.categories])
        listings = encode([category.listing for category in lexicon.categories])
        labels = _unit(prompts + listings)
        neutral = np.concatenate([praise, blame])
        self._labels = _unit(labels - labels.mean(0))
        self._centre = neutral.mean(0)
        background = (np.concatenate([neutral, labels]) - self._centre) @ self._labels.T
        own = np.concatenate(
            [np.zeros((len(neutral), len(labels)), bool), np.eye(len(labels), dtype=bool)]
        )
        # A label is no background to itself.
        others = np.where(own, np.nan, background)
        self._mean, self._deviation = np.nanmean(others, axis=0), np.nanstd(others, axis=0)
        common = np.array([category.common for category in lexicon.categories], np.float32)
        self._bonus = _PRIOR * np.log(common / UNKNOWN_SHARE)

    def opinions(self, vectors: np.ndarray) -> np.ndarray:
        """Where sentences (n, d) lie between blame and praise: (n,), the anchors' means at -1 and 1."""
        return _along(self._opinion, vectors)

    def prices(self, vectors: np.ndarray) -> np.ndarray:
        """-1 where sentences (n, d), known to speak of price, surely say cheap, 1 dear, else 0: (n,)."""
        near = (vectors.astype(np.float32) @ self._tags.T).max(1) > _SURE
        along = _along(self._price, vectors)
        verdicts: np.ndarray = np.sign(along) * (near & (np.abs(along) > _CLEAR))
        return verdicts

    def categories(self, vectors: np.ndarray) -> np.ndarray:
        """Deviations by which sentences (n, d) are nearer to each label than neutral ones are: (n, labels).

        Labels that many items have in general get a bonus, rare ones a malus.
        """
        cosines = (vectors.astype(np.float32) - self._centre) @ self._labels.T
        scores: np.ndarray = (cosines - self._mean) / self._deviation + self._bonus
        return scores


def _axis(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, float]:
    """Direction and offset that put `low` at -1 and `high` at 1."""
    direction = high - low
    half = float(direction @ direction) / 2
    return direction / half, float(direction @ (high + low)) / 2 / half


def _along(axis: tuple[np.ndarray, float], vectors: np.ndarray) -> np.ndarray:
    places: np.ndarray = vectors.astype(np.float32) @ axis[0] - axis[1]
    return places


def _unit(vectors: np.ndarray) -> np.ndarray:
    units: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
