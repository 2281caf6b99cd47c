"""What users have visited, liked and written: all that proposers see of a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

NOISE = 1e-3
"""Length of topics of no text at all, by rounding; those of a text have a length of about 1."""

_TOPICS, _CHUNK_ROWS = 64, 65_536  # vectors may be larger than memory


@dataclass(frozen=True)
class TopicAxes:
    """The principal axes of text vectors: t numbers instead of d for a text.

    Blank texts have a vector, too, but no topics: it would make all who write nothing alike.
    """

    mean: np.ndarray  # (d,)
    axes: np.ndarray  # (d, t)

    @classmethod
    def fit(cls, texts: Sequence[str], vectors: np.ndarray, rows: np.ndarray) -> TopicAxes:
        """From some rows of n texts of reviews and their (n, d) vectors."""
        size, rows = vectors.shape[1], rows[_has_words(texts)[rows]]
        total, products = np.zeros(size), np.zeros((size, size))
        for chunk in np.array_split(rows, 1 + len(rows) // _CHUNK_ROWS):
            block = vectors[chunk].astype(np.float32)
            total += block.sum(0)
            products += block.T @ block
        mean = total / max(len(rows), 1)
        covariance = products / max(len(rows), 1) - np.outer(mean, mean)
        axes = np.linalg.eigh(covariance)[1][:, -_TOPICS:]
        return cls(mean.astype(np.float32), axes.astype(np.float32))

    def topics(self, texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """(n, t) topics of n texts with (n, d) vectors."""
        topics = np.zeros((len(texts), self.axes.shape[1]), np.float32)
        rows = np.flatnonzero(_has_words(texts))
        for chunk in np.array_split(rows, 1 + len(texts) // _CHUNK_ROWS):
            topics[chunk] = (vectors[chunk].astype(np.float32) - self.mean) @ self.axes
        return topics


def _has_words(texts: Sequence[str]) -> np.ndarray:
    return np.array([bool(text.strip()) for text in texts], dtype=bool)


@dataclass(frozen=True)
class Visits:
    """n reviews as visits of `users` users to `items` items."""

    user: np.ndarray  # (n,) codes
    item: np.ndarray  # (n,)
    liked: np.ndarray  # (n,) bool
    topics: np.ndarray  # (n, t) of the text
    users: int
    items: int

    def rows(self, rows: np.ndarray) -> Visits:
        """Some of the reviews, by number or mask; users and items keep their codes."""
        columns = self.user[rows], self.item[rows], self.liked[rows], self.topics[rows]
        return Visits(*columns, self.users, self.items)


@dataclass(frozen=True)
class Histories:
    """What b users have done. Lists are made of this alone, so a new visit changes them at once."""

    visits: csr_matrix  # (b, m) 1 where an item was visited
    likes: csr_matrix  # (b, m) 1 where it was liked
    topics: np.ndarray  # (b, t) sums over the texts that each user wrote

    def __len__(self) -> int:
        return len(self.topics)

    @classmethod
    def from_visits(cls, visits: Visits) -> Histories:
        """The histories of all users."""
        user, liked, shape = visits.user, visits.liked, (visits.users, visits.items)
        likes = visit_matrix(user[liked], visits.item[liked], shape)
        topics = sum_topics(user, visits.topics, visits.users)
        return cls(visit_matrix(user, visits.item, shape), likes, topics)

    def rows(self, users: np.ndarray) -> Histories:
        """The histories of some users."""
        return Histories(self.visits[users], self.likes[users], self.topics[users])

    def texts_alone(self) -> Histories:
        """The same users, as if their visits were not known."""
        no_visits = csr_matrix(self.visits.shape, dtype=np.float32)
        return Histories(no_visits, no_visits, self.topics)


def visit_matrix(user: np.ndarray, item: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """(users, items) 1 where a user visited an item; a repeated visit counts once."""
    visits = csr_matrix((np.ones(len(user), np.float32), (user, item)), shape)
    visits.data[:] = 1
    return visits


def sum_topics(entity: np.ndarray, topics: np.ndarray, size: int) -> np.ndarray:
    """(size, t) float32 sums of (n, t) topics by user or item."""
    ones, rows = np.ones(len(entity), np.float32), np.arange(len(entity))
    return np.asarray(csr_matrix((ones, (entity, rows)), (size, len(entity))) @ topics)


def without_noise(topics: np.ndarray, rows: np.ndarray) -> None:
    """Set to zero, in place, those (n,) rows of sums of topics from which all texts were taken out."""
    empty = np.linalg.norm(topics[rows], axis=1) <= NOISE
    topics[rows[empty]] = 0


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
