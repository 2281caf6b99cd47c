"""What ratings, and the tone of texts, say of every user and item at once; all of it shrunk by count.

A mean of ratings mixes a harsh user with the good places that he went to. Here both are estimated together,
as effects with a penalty (ridge regression; Henderson's mixed model), from the ratings and again from
what the texts alone would make one expect as a rating (their tone). An effect hangs on everyone's reviews,
so effects are fitted once for every fold, on what the rows of that fold may hear (`mmrec.evidence`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import Ridge

from mmrec.reviews.table import Interactions

__all__ = ["COLUMNS", "PRIOR", "TOLD", "VOICES", "Effects", "Lens", "Reviewed"]
__all__ += ["averaged", "choose_penalties", "taste_of"]

_STARS = ((0.0, 1.5), (1.5, 2.9), (2.9, 3.9), (3.9, 4.9))
PRIOR = 5.0
_TONE_PENALTY = 3.0
VOICES, _TASTE_SIZE, _TASTE_PENALTY = 4.0, 64, 15.0
_PENALTIES = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)

TOLD = ("tone effect", "log length", "blank")
"""Columns that come out of texts rather than of ratings."""
COLUMNS = ("rating effect", "spread", *(f"stars to {high:g}" for _, high in _STARS), *TOLD)
"""Of each user and each item: effects on rating and tone; residual variance; shares of ratings up to some
stars; mean log length of texts, and the share of reviews without one."""


@dataclass(frozen=True)
class Reviewed:
    """What effects are made of.

    Attributes:
        data: who rated what; n reviews.
        vectors: (n, d) of the texts.
        length: (n,) characters of the texts.
    """

    data: Interactions
    vectors: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class Lens:
    """How a text is read, as learned from the reviews that effects were fitted on.

    Attributes:
        mean: of the ratings.
        centre: (d,) mean vector of the texts.
        tone: (d,) weights of what a text makes one expect of its rating, above the mean.
        axes: (d, t) of the topics that tastes are about.
    """

    mean: float
    centre: np.ndarray
    tone: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, rating: np.ndarray) -> Lens:
        """Learn all but the axes from (n, d) texts and their (n,) ratings: the tone by ridge regression."""
        mean, centre = float(rating.mean()) if len(rating) else 0.0, vectors.mean(0)
        centred = vectors - centre
        gram = (centred.T @ centred).astype(np.float64) + _TONE_PENALTY * np.eye(vectors.shape[1])
        tone = np.linalg.solve(gram, centred.T.astype(np.float64) @ (rating - mean))
        return cls(mean, centre, tone, np.zeros((vectors.shape[1], 0)))

    def tones(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) what (n, d) texts make one expect of their ratings, above the mean."""
        return np.asarray((vectors - self.centre) @ self.tone)


@dataclass(frozen=True)
class Effects:
    """Of every user and every item; the last is one of whom nothing is known.

    Attributes:
        user, item: columns, (users + 1,) and (items + 1,).
        user_taste, item_taste: (users + 1, t) and (items + 1, t), whose dot product is the *affinity*: what a
            user thought of other items, more than their effects say, by how near these are in words.
        lens: how texts were read.
    """

    user: dict[str, np.ndarray]
    item: dict[str, np.ndarray]
    user_taste: np.ndarray
    item_taste: np.ndarray
    lens: Lens

    def affinity(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(n,) products of tastes of (n,) codes of users and items."""
        tastes = self.user_taste[user].astype(np.float32), self.item_taste[item].astype(np.float32)
        return np.asarray((tastes[0] * tastes[1]).sum(1))

    @classmethod
    def fit(cls, reviewed: Reviewed, rows: np.ndarray, penalties: tuple[float, float]) -> Effects:
        """Estimate from some reviews.

        Args:
            reviewed: all reviews.
            rows: those that are heard.
            penalties: of the effects of users and of items, in reviews.
        """
        data = reviewed.data
        rating, vectors = data.rating[rows].astype(np.float64), reviewed.vectors[rows].astype(np.float32)
        lens = Lens.fit(vectors, rating)
        target = np.stack([rating - lens.mean, lens.tones(vectors)], axis=1)
        effects = _effects(data, rows, target, penalties)
        residual = target[:, 0] - effects["user"][data.user[rows], 0] - effects["item"][data.item[rows], 0]
        means = averaged(rating, residual, reviewed.length[rows])

        def side(name: str, entity: np.ndarray, size: int) -> dict[str, np.ndarray]:
            count = np.bincount(entity[rows], minlength=size)
            columns = {
                what: _shrunk(values.astype(np.float64), entity[rows], count)
                for what, values in means.items()
            }
            columns["rating effect"], columns["tone effect"] = effects[name].T
            return {what: columns[what].astype(np.float32) for what in COLUMNS}

        sizes = len(data.users) + 1, len(data.items) + 1
        topics, axes = _topics(vectors - lens.centre, data.item[rows], sizes[1])
        tastes = _tastes(topics[data.item[rows]], data.user[rows], residual, sizes[0])
        columns = side("user", data.user, sizes[0]), side("item", data.item, sizes[1])
        tastes = tastes.astype(np.float16)
        return cls(*columns, tastes, topics.astype(np.float16), replace(lens, axes=axes))


def averaged(rating: np.ndarray, residual: np.ndarray, length: np.ndarray) -> dict[str, np.ndarray]:
    """Column -> (n,) what each review brings to it; the column is a mean, drawn towards that of all."""
    stars = {f"stars to {high:g}": (rating > low) & (rating <= high) for low, high in _STARS}
    return {"spread": residual**2, **stars, "log length": np.log1p(length), "blank": length == 0}


def choose_penalties(data: Interactions, heard: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """The penalties of users and items that predict the ratings of `valid` best, from those of `heard`."""
    rating = data.rating.astype(np.float64)
    mean = rating[heard].mean()

    def error(penalties: tuple[float, float]) -> float:
        effects = _effects(data, heard, rating[heard, None] - mean, penalties)
        expected = mean + effects["user"][data.user[valid], 0] + effects["item"][data.item[valid], 0]
        return float(np.mean((rating[valid] - expected) ** 2))

    user = min(_PENALTIES, key=lambda one: error((one, 5.0)))
    return user, min(_PENALTIES, key=lambda one: error((user, one)))


def _effects(
    data: Interactions, rows: np.ndarray, target: np.ndarray, penalties: Sequence[float]
) -> dict[str, np.ndarray]:
    """(users + 1, t) and (items + 1, t) penalised effects on t targets, (len(rows), t)."""
    sizes = len(data.users) + 1, len(data.items) + 1
    each = np.arange(len(rows))
    # Columns at one over the root of their penalty share a penalty of one.
    one_hot = [
        csr_matrix((np.full(len(rows), penalty**-0.5), (each, entity[rows])), shape=(len(rows), size))
        for entity, size, penalty in zip((data.user, data.item), sizes, penalties, strict=True)
    ]
    model = Ridge(alpha=1.0, solver="sparse_cg", fit_intercept=False, tol=1e-6)
    weights = model.fit(csr_matrix(hstack(one_hot)), target).coef_.reshape(target.shape[1], -1).T
    user, item = np.split(weights, [sizes[0]])
    return {"user": user * penalties[0] ** -0.5, "item": item * penalties[1] ** -0.5}


def _topics(centred: np.ndarray, item: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Main components of what is said of each item, shrunk by count; on average of length one.

    Returns:
        (size, t); and (d, t), by which what is said becomes that.
    """
    at = csr_matrix((np.ones(len(item)), (item, np.arange(len(item)))), shape=(size, len(item)))
    count = np.bincount(item, minlength=size)
    mean = (at @ centred) / (count + VOICES)[:, None]
    _, axes = np.linalg.eigh(mean.T @ mean)
    axes = axes[:, : -_TASTE_SIZE - 1 : -1]
    topics = mean @ axes
    length = np.sqrt(np.square(topics[count > 0]).sum(1).mean()) if len(item) else 1.0
    return topics / max(length, 1e-6), axes / max(length, 1e-6)


def _tastes(topics: np.ndarray, user: np.ndarray, residual: np.ndarray, size: int) -> np.ndarray:
    """(size, d) of each user the ridge regression of residuals on the topics of what was reviewed."""
    width = topics.shape[1]
    column = user[:, None] * width + np.arange(width)
    starts = np.arange(0, topics.size + 1, width)
    design = csr_matrix((topics.ravel(), column.ravel(), starts), shape=(len(user), size * width))
    model = Ridge(alpha=_TASTE_PENALTY, solver="sparse_cg", fit_intercept=False, tol=1e-3)
    return np.asarray(model.fit(design, residual).coef_).reshape(size, width)


def taste_of(topics: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """(d,) of one user the ridge regression of (n,) residuals on (n, d) topics."""
    gram = topics.T @ topics + _TASTE_PENALTY * np.eye(topics.shape[1])
    return np.asarray(np.linalg.solve(gram, topics.T @ residual))


def _shrunk(values: np.ndarray, entity: np.ndarray, count: np.ndarray) -> np.ndarray:
    total = np.bincount(entity, weights=values, minlength=len(count))
    return np.asarray((total + PRIOR * values.mean()) / (count + PRIOR))
