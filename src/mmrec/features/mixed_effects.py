"""What ratings, and the tone of texts, say of every user and item at once; all of it shrunk by count.

A mean of ratings mixes a harsh user with the good places that he went to. Here both are estimated together,
as effects with a penalty (ridge regression; Henderson's mixed model), from the ratings and again from
what the texts alone would make one expect as a rating (their tone). An effect hangs on everyone's reviews,
so effects are fitted once for every fold, on what the rows of that fold may hear (`mmrec.evidence.policies`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.linalg import LinearOperator, cg

from mmrec.data import arrays
from mmrec.data.schema import Interactions
from mmrec.features.text_regression import RatedTexts, TextRegression, TextSums

__all__ = [
    "EFFECT_COLUMNS",
    "PRIOR_REVIEWS",
    "TEXT_COLUMNS",
    "MixedEffects",
    "choose_penalties",
    "review_statistics",
    "ridge_factors",
]

_STARS = ((0.0, 1.5), (1.5, 2.9), (2.9, 3.9), (3.9, 4.9))
PRIOR_REVIEWS = 5.0
_TASTE_PENALTY = 15.0
_PENALTIES = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
_TOLERANCE = 1e-8
_CELLS = 1 << 19
"""Numbers of topics that are gathered at once."""

TEXT_COLUMNS = ("tone effect", "log length", "blank")
"""Columns that come out of texts rather than of ratings."""
EFFECT_COLUMNS = (
    "rating effect",
    "spread",
    *(f"stars to {high:g}" for _, high in _STARS),
    *TEXT_COLUMNS,
)
"""Of each user and each item: effects on rating and tone; residual variance; shares of ratings up to some
stars; mean log length of texts, and the share of reviews without one."""


@dataclass(frozen=True)
class MixedEffects:
    """Of every user and every item; the last is one of whom nothing is known.

    Attributes:
        user, item: columns, (users + 1,) and (items + 1,).
        user_factors, item_factors: (users + 1, t) and (items + 1, t), whose dot product is the
            *affinity*: what a
            user thought of other items, more than their effects say, by how near these are in words.
        text_regression: how texts were read.
    """

    user: dict[str, np.ndarray]
    item: dict[str, np.ndarray]
    user_factors: np.ndarray
    item_factors: np.ndarray
    text_regression: TextRegression

    def factor_score(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(n,) products of tastes of (n,) codes of users and items."""
        tastes = (
            self.user_factors[user].astype(np.float32),
            self.item_factors[item].astype(np.float32),
        )
        return np.asarray((tastes[0] * tastes[1]).sum(1))

    @classmethod
    def fit(
        cls,
        reviewed: RatedTexts,
        rows: np.ndarray,
        penalties: tuple[float, float],
        texts: TextSums | None = None,
    ) -> MixedEffects:
        """Estimate from some reviews.

        Args:
            reviewed: all reviews.
            rows: those that are heard.
            penalties: of the effects of users and of items, in reviews.
            texts: what their texts add up to, where that is known.
        """
        data = reviewed.data
        lens, topics = TextRegression.fit(texts or TextSums.from_rows(reviewed, rows))
        rating = data.rating[rows].astype(np.float64)
        target = np.empty((len(rows), 2))
        target[:, 0] = rating - lens.mean_rating
        for part, vectors in reviewed.blocks(rows):
            target[part, 1] = lens.predict(vectors)
        user, item = data.user[rows], data.item[rows]
        effects = _effects(_pairs(data, rows), user, item, target, penalties)
        residual = target[:, 0] - effects["user"][user, 0] - effects["item"][item, 0]
        means = review_statistics(rating, residual, reviewed.length[rows])

        def side(name: str, entity: np.ndarray) -> dict[str, np.ndarray]:
            count = np.bincount(entity, minlength=len(effects[name]))
            columns = {
                what: _shrunk(x.astype(np.float64), entity, count) for what, x in means.items()
            }
            columns["rating effect"], columns["tone effect"] = effects[name].T
            return {what: columns[what].astype(np.float32) for what in EFFECT_COLUMNS}

        tastes = _tastes(topics, user, item, residual, len(data.users) + 1)
        return cls(side("user", user), side("item", item), tastes, topics.astype(np.float16), lens)


def review_statistics(
    rating: np.ndarray, residual: np.ndarray, length: np.ndarray
) -> dict[str, np.ndarray]:
    """Column -> (n,) what each review brings to it; the column is a mean, drawn towards that of all."""
    stars = {f"stars to {high:g}": (rating > low) & (rating <= high) for low, high in _STARS}
    return {"spread": residual**2, **stars, "log length": np.log1p(length), "blank": length == 0}


def choose_penalties(
    data: Interactions, heard: np.ndarray, valid: np.ndarray
) -> tuple[float, float]:
    """The penalties of users and items that predict the ratings of `valid` best, from those of `heard`."""
    rating = data.rating.astype(np.float64)
    mean = rating[heard].mean()
    pairs, user, item = _pairs(data, heard), data.user[heard], data.item[heard]

    def error(penalties: tuple[float, float]) -> float:
        effects = _effects(pairs, user, item, rating[heard, None] - mean, penalties)
        expected = (
            mean + effects["user"][data.user[valid], 0] + effects["item"][data.item[valid], 0]
        )
        return float(np.mean((rating[valid] - expected) ** 2))

    of_users = min(_PENALTIES, key=lambda one: error((one, 5.0)))
    return of_users, min(_PENALTIES, key=lambda one: error((of_users, one)))


def _pairs(data: Interactions, rows: np.ndarray) -> csr_matrix:
    """(users + 1, items + 1) how often each user reviewed each item."""
    sizes = len(data.users) + 1, len(data.items) + 1
    return coo_matrix((np.ones(len(rows)), (data.user[rows], data.item[rows])), shape=sizes).tocsr()


def _effects(
    pairs: csr_matrix,
    user: np.ndarray,
    item: np.ndarray,
    target: np.ndarray,
    penalties: tuple[float, float],
) -> dict[str, np.ndarray]:
    """(users + 1, t) and (items + 1, t) penalised effects on (m, t) targets of (m,) users and items.

    Given those of items, those of users are penalised means; with these put in, the equations of items are
    solved by conjugate gradients.
    """
    of_user, of_item = (
        np.bincount(entity, minlength=size) + penalty
        for entity, size, penalty in zip((user, item), pairs.shape, penalties, strict=True)
    )

    def equations(effects: np.ndarray) -> np.ndarray:
        return np.asarray(of_item * effects - pairs.T @ (pairs @ effects / of_user))

    square = (len(of_item), len(of_item))
    made = LinearOperator(square, equations, dtype=np.float64)
    scaled = LinearOperator(square, lambda x: x / of_item, dtype=np.float64)
    out = {
        name: np.zeros((len(of), target.shape[1]))
        for name, of in (("user", of_user), ("item", of_item))
    }
    for at, values in enumerate(target.T):
        users = np.bincount(user, weights=values, minlength=len(of_user))
        items = np.bincount(item, weights=values, minlength=len(of_item))
        solved, _ = cg(made, items - pairs.T @ (users / of_user), rtol=_TOLERANCE, M=scaled)
        out["user"][:, at], out["item"][:, at] = (users - pairs @ solved) / of_user, solved
    return out


def _tastes(
    topics: np.ndarray, user: np.ndarray, item: np.ndarray, residual: np.ndarray, size: int
) -> np.ndarray:
    """(size, t) float16 tastes of users; those with as many reviews at once, some at a time."""
    topics, residual = topics.astype(np.float32), residual.astype(np.float32)
    out = arrays.allocate((size, topics.shape[1]), np.float16)
    out[:] = 0
    order = np.argsort(user, kind="stable")
    count = np.bincount(user, minlength=size)
    start = np.cumsum(count) - count
    users = np.flatnonzero(count)
    users = users[np.argsort(count[users], kind="stable")]
    for alike in np.split(users, np.flatnonzero(np.diff(count[users])) + 1):
        many = int(count[alike].max(initial=0))
        for some in np.array_split(alike, 1 + len(alike) * many * topics.shape[1] // _CELLS):
            rows = order[start[some][:, None] + np.arange(many)]
            out[some] = ridge_factors(topics[item[rows]], residual[rows])
    return out


def ridge_factors(topics: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """(..., t) of users the ridge regression of their (..., n) residuals on (..., n, t) topics of items."""
    n, t = topics.shape[-2:]
    turned = np.swapaxes(topics, -1, -2)
    if n < t:  # the same, by as many equations as there are reviews
        gram = topics @ turned + _TASTE_PENALTY * np.eye(n, dtype=topics.dtype)
        weights = np.linalg.solve(gram, residual[..., None])
        return np.asarray((turned @ weights)[..., 0])
    gram = turned @ topics + _TASTE_PENALTY * np.eye(t, dtype=topics.dtype)
    return np.asarray(np.linalg.solve(gram, turned @ residual[..., None])[..., 0])


def _shrunk(values: np.ndarray, entity: np.ndarray, count: np.ndarray) -> np.ndarray:
    total = np.bincount(entity, weights=values, minlength=len(count))
    return np.asarray((total + PRIOR_REVIEWS * values.mean()) / (count + PRIOR_REVIEWS))
