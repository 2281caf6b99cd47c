"""Effects of all users and items on ratings, estimated together, and the factors of their pairs.

The mean rating of a user mixes how strict he is with how good the places were that he went to.
Here both are estimated at once, as random effects whose variances are the penalties (Henderson's
mixed model equations, 1950; the same as ridge regression): once on the ratings, and once on the
ratings that the texts alone predict. An effect depends on everyone's reviews, so the effects are
fitted once per fold, on the reviews that its rows may see (`mmrec.evidence.policies`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.linalg import LinearOperator, cg

from mmrec.data.files import allocate
from mmrec.data.schema import EntityKind, Interactions
from mmrec.features.text_regression import RatedTexts, TextRegression, TextSums

__all__ = ["EFFECT_COLUMNS", "PRIOR_REVIEWS", "TEXT_COLUMNS", "MixedEffects", "choose_penalties"]
__all__ += ["fit_biases", "review_statistics", "ridge_factors"]

_STAR_RANGES = ((0.0, 1.5), (1.5, 2.9), (2.9, 3.9), (3.9, 4.9))
TEXT_COLUMNS = ("text rating effect", "log length", "blank")
"""Columns that are made of texts rather than of ratings."""
_STAR_COLUMNS = [f"stars to {high:g}" for _, high in _STAR_RANGES]
EFFECT_COLUMNS = ("rating effect", "spread", *_STAR_COLUMNS, *TEXT_COLUMNS)
"""Columns of each user and item: effect on the rating; residual variance; shares of ratings in
ranges of stars; effect on the rating predicted from text; mean log length of texts; share of blank
texts."""
PRIOR_REVIEWS = 5.0
"""Reviews' worth of the overall mean that the mean of a column is shrunk with."""
_BLOCK_CELLS = 1 << 19
"""Numbers of topics that are gathered at once."""


@dataclass(frozen=True)
class MixedEffects:
    """Effects and factors of every user and every item; the last row is for unknown ids.

    Attributes:
        user, item: by column, (users + 1,) and (items + 1,) float32.
        user_factors, item_factors: (users + 1, t) and (items + 1, t) float16. Their dot product,
            the *factor score*, estimates how far a rating lies above the effects: from the user's
            residuals on other items, by how alike the topics of these items are.
        text_regression: how ratings are predicted from text, and the axes of the topics.
    """

    user: dict[str, np.ndarray]
    item: dict[str, np.ndarray]
    user_factors: np.ndarray
    item_factors: np.ndarray
    text_regression: TextRegression

    def columns(self, kind: EntityKind) -> dict[str, np.ndarray]:
        """The columns of users, or of items."""
        return self.user if kind == "user" else self.item

    def factors(self, kind: EntityKind) -> np.ndarray:
        """The factors of users, or of items."""
        return self.user_factors if kind == "user" else self.item_factors

    def factor_score(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(n,) products of the factors of (n,) users and items, by code."""
        user_factors = self.user_factors[user].astype(np.float32)
        item_factors = self.item_factors[item].astype(np.float32)
        return np.asarray((user_factors * item_factors).sum(1))

    @classmethod
    def fit(
        cls,
        texts: RatedTexts,
        rows: np.ndarray,
        penalties: tuple[float, float],
        text_sums: TextSums | None = None,
    ) -> MixedEffects:
        """Estimate from (m,) rows of all reviews.

        Args:
            penalties: of the effects of users and of items, in reviews.
            text_sums: sums over the texts of `rows`, where they are known already.
        """
        data = texts.data
        user, item = data.user[rows], data.item[rows]
        regression, topics = TextRegression.fit(text_sums or TextSums.from_rows(texts, rows))
        rating = data.rating[rows].astype(np.float64)
        # Both targets are centred: the rating, and the rating that the text predicts.
        target = np.empty((len(rows), 2))
        target[:, 0] = rating - regression.mean_rating
        for block, vectors in texts.blocks(rows):
            target[block, 1] = regression.predict(vectors)
        pairs = _pair_counts(data, rows)
        user_effect, item_effect = _solve_effects(pairs, user, item, target, penalties)
        residual = target[:, 0] - user_effect[user, 0] - item_effect[item, 0]
        statistics = review_statistics(rating, residual, texts.length[rows])
        return cls(
            _columns(user, user_effect, statistics),
            _columns(item, item_effect, statistics),
            _user_factors(topics, user, item, residual, len(data.users) + 1),
            topics.astype(np.float16),
            regression,
        )


def review_statistics(
    rating: np.ndarray, residual: np.ndarray, length: np.ndarray
) -> dict[str, np.ndarray]:
    """(n,) values of each review for every column that is a shrunken mean of them."""
    columns = {"spread": residual**2}  # its mean is the residual variance
    for name, (low, high) in zip(_STAR_COLUMNS, _STAR_RANGES, strict=True):
        columns[name] = (rating > low) & (rating <= high)
    return columns | {"log length": np.log1p(length), "blank": length == 0}


def _columns(
    entity: np.ndarray, effect: np.ndarray, statistics: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Columns of (e, 2) effects, and of shrunken means of (m,) statistics by (m,) entity."""
    count = np.bincount(entity, minlength=len(effect))
    columns = {"rating effect": effect[:, 0], "text rating effect": effect[:, 1]}
    for name, statistic in statistics.items():
        values = statistic.astype(np.float64)
        total = np.bincount(entity, weights=values, minlength=len(effect))
        columns[name] = (total + PRIOR_REVIEWS * values.mean()) / (count + PRIOR_REVIEWS)
    return {name: columns[name].astype(np.float32) for name in EFFECT_COLUMNS}


def choose_penalties(
    data: Interactions,
    rows: np.ndarray,
    validation_rows: np.ndarray,
    grid: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0),
) -> tuple[float, float]:
    """Penalties of users and items, fitted on `rows`, with the least squared error on other rows.

    First the users' at a penalty of 5 for items, then the items' at that of users.
    """
    rating = data.rating.astype(np.float64)
    mean = rating[rows].mean()
    pairs, user, item = _pair_counts(data, rows), data.user[rows], data.item[rows]
    target = rating[rows, None] - mean  # (m, 1)

    def error(user_penalty: float, item_penalty: float) -> float:
        penalties = user_penalty, item_penalty
        user_effect, item_effect = _solve_effects(pairs, user, item, target, penalties)
        predicted = mean + user_effect[data.user[validation_rows], 0]
        predicted += item_effect[data.item[validation_rows], 0]
        return float(np.mean((rating[validation_rows] - predicted) ** 2))

    user_penalty = min(grid, key=lambda penalty: error(penalty, 5.0))
    return user_penalty, min(grid, key=lambda penalty: error(user_penalty, penalty))


def fit_biases(
    data: Interactions, rows: np.ndarray, target: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """(users + 1,) and (items + 1,) biases that fit a (m,) target of m rows, with an L2 penalty."""
    pairs, user, item = _pair_counts(data, rows), data.user[rows], data.item[rows]
    penalties = penalty, penalty
    user_bias, item_bias = _solve_effects(pairs, user, item, target[:, None], penalties)
    return user_bias[:, 0], item_bias[:, 0]


def _pair_counts(data: Interactions, rows: np.ndarray) -> csr_matrix:
    """(users + 1, items + 1) how often each user reviewed each item."""
    shape = len(data.users) + 1, len(data.items) + 1
    return coo_matrix((np.ones(len(rows)), (data.user[rows], data.item[rows])), shape).tocsr()


def _solve_effects(
    pairs: csr_matrix,
    user: np.ndarray,
    item: np.ndarray,
    target: np.ndarray,
    penalties: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """(users + 1, k) and (items + 1, k) effects on (m, k) targets of (m,) users and items.

    The mixed model equations, with pair counts N, diagonal matrices U and I of review counts plus
    penalty, and sums u and i of the target by user and item, are: U a + N b = u; N' a + I b = i.
    Eliminating the users' effects a = (u - N b) / U leaves (I - N' N / U) b = i - N' (u / U) for
    the items' effects b, which is solved by conjugate gradients with the preconditioner I.
    """
    users, items = pairs.shape  # each with one more, unknown, which has no reviews
    user_weight = np.bincount(user, minlength=users) + penalties[0]
    item_weight = np.bincount(item, minlength=items) + penalties[1]

    def equations(effect: np.ndarray) -> np.ndarray:
        return np.asarray(item_weight * effect - pairs.T @ (pairs @ effect / user_weight))

    square = (items, items)
    system = LinearOperator(square, equations, dtype=np.float64)
    preconditioner = LinearOperator(square, lambda x: x / item_weight, dtype=np.float64)
    user_effect, item_effect = (np.zeros((size, target.shape[1])) for size in pairs.shape)
    for column, values in enumerate(target.T):
        user_sum = np.bincount(user, weights=values, minlength=users)
        item_sum = np.bincount(item, weights=values, minlength=items)
        # The equations of items, after those of users were put in.
        right = item_sum - pairs.T @ (user_sum / user_weight)
        item_effect[:, column], _ = cg(system, right, rtol=1e-8, M=preconditioner)
        user_effect[:, column] = (user_sum - pairs @ item_effect[:, column]) / user_weight
    return user_effect, item_effect


def _user_factors(
    topics: np.ndarray, user: np.ndarray, item: np.ndarray, residual: np.ndarray, users: int
) -> np.ndarray:
    """(users, t) float16 factors of users, from (m,) residuals; zero for users without reviews."""
    topics, residual = topics.astype(np.float32), residual.astype(np.float32)
    width = topics.shape[1]
    factors = allocate((users, width), np.float16)
    factors[:] = 0
    by_user = np.argsort(user, kind="stable")  # (m,) reviews, those of one user next to each other
    count = np.bincount(user, minlength=users)
    start = np.cumsum(count) - count  # of every user in `by_user`
    # Users with equally many reviews are solved as one stack of matrices, a block at a time.
    with_reviews = np.flatnonzero(count)
    by_count = with_reviews[np.argsort(count[with_reviews], kind="stable")]
    for same_count in np.split(by_count, np.flatnonzero(np.diff(count[by_count])) + 1):
        reviews = int(count[same_count].max(initial=0))
        cells = len(same_count) * reviews * width
        for block in np.array_split(same_count, 1 + cells // _BLOCK_CELLS):
            rows = by_user[start[block][:, None] + np.arange(reviews)]  # (users, reviews)
            factors[block] = ridge_factors(topics[item[rows]], residual[rows])
    return factors


def ridge_factors(topics: np.ndarray, residual: np.ndarray, penalty: float = 15.0) -> np.ndarray:
    """(..., t) ridge regressions of (..., n) residuals on (..., n, t) topics of the items.

    With X the topics and y the residuals: (X'X + penalty I)^-1 X'y, or equally
    X' (XX' + penalty I)^-1 y, whose system of n equations is smaller where n < t.
    """
    n, t = topics.shape[-2:]  # reviews, topics
    transposed = np.swapaxes(topics, -1, -2)
    if n < t:
        gram = topics @ transposed + penalty * np.eye(n, dtype=topics.dtype)
        return np.asarray((transposed @ np.linalg.solve(gram, residual[..., None]))[..., 0])
    gram = transposed @ topics + penalty * np.eye(t, dtype=topics.dtype)
    return np.asarray(np.linalg.solve(gram, transposed @ residual[..., None])[..., 0])
