"""Effects of all users and items on ratings, estimated together, and the factors of their pairs.

A user's mean rating mixes how strict he is with how good the places were that he went to. Both are
estimated at once, as random effects (Henderson's mixed model equations, 1950; the same as ridge
regression): on the ratings, and on those that the texts alone predict. An effect depends on all
reviews, so effects are fitted once per fold, on what its rows may see (`mmrec.evidence.policies`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, cg

from mmrec.data import files
from mmrec.data.schema import EntityKind, Interactions

_STAR_EDGES = (0.0, 1.5, 2.9, 3.9, 4.9)
_STAR_COLUMNS = ("stars to 1.5", "stars to 2.9", "stars to 3.9", "stars to 4.9")
TEXT_COLUMNS = ("text rating effect", "log length", "blank")
# Of each user and item: effects on the rating and on that predicted from text, residual variance,
# shares of ranges of stars, mean log length of texts, share of blank texts.
EFFECT_COLUMNS = ("rating effect", "spread", *_STAR_COLUMNS, *TEXT_COLUMNS)
PRIOR_REVIEWS = 5.0  # of the overall mean, with which the mean of a column is shrunk
PRIOR_TEXTS = 4.0  # likewise, for the mean vector of an item
_BLOCK_CELLS = 1 << 19  # numbers of vectors or topics that are in memory at once
Penalties = tuple[float, float]  # of the effects of users, and of items


@dataclass(frozen=True)
class RatedTexts:
    """n rated reviews, their (n, d) text vectors, and the (n,) characters of each text."""

    data: Interactions
    vectors: np.ndarray
    length: np.ndarray

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Float32 vectors of `rows` in blocks, each with its place in `rows`."""
        size = max(1, 2 * _BLOCK_CELLS // self.vectors.shape[1])
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            yield block, files.to_float32(self.vectors[rows[block]])


@dataclass(frozen=True)
class TextSums:
    """Sums over texts x and their ratings y. Those of a fold are the sums over all texts without
    those that it must not see, so that vectors are read twice, not once per fold."""

    rating_sum: float
    gram: np.ndarray  # (d, d) sum of x x'
    product: np.ndarray  # (d,) sum of x y
    item_vector: np.ndarray  # (items + 1, d) sum of x by item
    item_count: np.ndarray  # (items + 1,) number of texts by item

    @classmethod
    def from_rows(cls, texts: RatedTexts, rows: np.ndarray) -> TextSums:
        """Add up some rows in one pass."""
        item, width = texts.data.item[rows], texts.vectors.shape[1]
        items = len(texts.data.items) + 1
        rating = texts.data.rating[rows].astype(np.float64)
        gram, product = np.zeros((width, width)), np.zeros(width)
        item_vector = files.allocate((items, width), np.float64)
        for block, x in texts.blocks(rows):  # x: (b, d)
            gram += x.T @ x
            product += rating[block] @ x
            codes, code = np.unique(item[block], return_inverse=True)
            one_per_review = np.ones(len(x), np.float32), code, np.arange(len(x) + 1)
            item_vector[codes] += csr_matrix(one_per_review, (len(x), len(codes))).T @ x
        count = np.bincount(item, minlength=items)
        return cls(float(rating.sum()), gram, product, item_vector, count)

    def without(self, texts: RatedTexts, rows: np.ndarray) -> TextSums:
        """The sums over all texts of these except `rows`."""
        removed = TextSums.from_rows(texts, rows)
        rating_sum, gram = self.rating_sum - removed.rating_sum, self.gram - removed.gram
        product = self.product - removed.product
        count = self.item_count - removed.item_count
        # In place: this is the one large array.
        np.subtract(self.item_vector, removed.item_vector, out=removed.item_vector)
        return TextSums(rating_sum, gram, product, removed.item_vector, count)


@dataclass(frozen=True)
class TextRegression:
    """A ridge regression of ratings on text vectors, and the topics of items."""

    mean_rating: float
    mean_vector: np.ndarray  # (d,) of the texts
    weights: np.ndarray  # (d,); the intercept is `mean_rating` at `mean_vector`
    topic_axes: np.ndarray  # (d, t), so that topics of an item have length 1 on average

    @classmethod
    def fit(
        cls, sums: TextSums, penalty: float = 3.0, topics: int = 64
    ) -> tuple[TextRegression, np.ndarray]:
        """The regression, and (items + 1, t) topics: principal components of items' mean vectors,
        centred and shrunk by their number of texts. With m the mean vector, the weights w solve
        (X'X - n m m' + penalty I) w = X'y - n m mean(y).
        """
        texts = sums.item_count.sum()
        count = max(texts, 1)
        mean_rating = sums.rating_sum / count
        mean_vector = sums.item_vector.sum(0) / count
        # n times the covariances of texts with each other (d, d), and with ratings (d,).
        covariance = sums.gram - texts * np.outer(mean_vector, mean_vector)
        product = sums.product - texts * mean_rating * mean_vector
        ridge = penalty * np.eye(len(mean_vector))
        weights = np.linalg.solve(covariance + ridge, product)
        # (items + 1, d): (sum of x - count m) / (count + PRIOR_TEXTS), in place.
        item_mean = np.outer(sums.item_count, -mean_vector)
        item_mean += sums.item_vector
        item_mean /= (sums.item_count + PRIOR_TEXTS)[:, None]
        _, axes = np.linalg.eigh(item_mean.T @ item_mean)  # ascending by eigenvalue
        axes = axes[:, : -topics - 1 : -1]  # (d, t), the largest first
        item_topics = item_mean @ axes  # (items + 1, t)
        squares = np.square(item_topics[sums.item_count > 0]).sum(1)
        length = max(np.sqrt(squares.mean()), 1e-6) if len(squares) else 1.0
        regression = cls(float(mean_rating), mean_vector, weights, axes / length)
        return regression, item_topics / length

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) predicted ratings of (n, d) texts, minus the mean rating."""
        weights = self.weights.astype(vectors.dtype)
        return np.asarray(vectors @ weights - self.mean_vector @ self.weights)


@dataclass(frozen=True)
class MixedEffects:
    """Effects and factors of every user and every item; the last row is for unknown ids.

    The dot product of the factors of a user and an item, the *factor score*, estimates the residual
    of a rating from the user's residuals on other items, by how alike their topics are.
    """

    columns: dict[EntityKind, dict[str, np.ndarray]]  # (users + 1,), (items + 1,) float32
    factors: dict[EntityKind, np.ndarray]  # (users + 1, t) or (items + 1, t) float16
    text_regression: TextRegression

    @classmethod
    def fit(
        cls, texts: RatedTexts, rows: np.ndarray, penalties: Penalties, sums: TextSums | None = None
    ) -> MixedEffects:
        """Estimate from (m,) rows of all reviews; the sums over their texts may be known already."""
        data = texts.data
        regression, topics = TextRegression.fit(sums or TextSums.from_rows(texts, rows))
        rating = data.rating[rows].astype(np.float64)
        # Both targets are centred: the rating, and the rating that the text predicts.
        target = np.empty((len(rows), 2))
        target[:, 0] = rating - regression.mean_rating
        for block, vectors in texts.blocks(rows):
            target[block, 1] = regression.predict(vectors)
        user_effect, item_effect = fit_effects(data, rows, target, penalties)
        user, item = data.user[rows], data.item[rows]
        residual = target[:, 0] - user_effect[user, 0] - item_effect[item, 0]
        statistics = review_statistics(rating, residual, texts.length[rows])
        columns: dict[EntityKind, dict[str, np.ndarray]] = {}
        columns["user"] = _columns(user, user_effect, statistics)
        columns["item"] = _columns(item, item_effect, statistics)
        factors: dict[EntityKind, np.ndarray] = {"item": topics.astype(np.float16)}
        factors["user"] = user_factors(topics, user, item, residual, len(user_effect))
        return cls(columns, factors, regression)


def review_statistics(
    rating: np.ndarray, residual: np.ndarray, length: np.ndarray
) -> dict[str, np.ndarray]:
    """(n,) values of reviews for every column that is a shrunken mean of them."""
    columns = {"spread": residual**2}  # its mean is the residual variance
    for name, (low, high) in zip(_STAR_COLUMNS, pairwise(_STAR_EDGES), strict=True):
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
    data: Interactions, rows: np.ndarray, validation_rows: np.ndarray
) -> Penalties:
    """The penalty of users, then of items, with the least error on other rows when fitted on `rows`."""
    grid = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
    rating = data.rating.astype(np.float64)
    mean = rating[rows].mean()
    pairs, target = _pair_counts(data, rows), rating[rows, None] - mean  # (m, 1)

    def error(user_penalty: float, item_penalty: float) -> float:
        penalties = user_penalty, item_penalty
        user_effect, item_effect = fit_effects(data, rows, target, penalties, pairs)
        predicted = mean + user_effect[data.user[validation_rows], 0]
        predicted += item_effect[data.item[validation_rows], 0]
        return float(np.mean((rating[validation_rows] - predicted) ** 2))

    user_penalty = min(grid, key=lambda penalty: error(penalty, 5.0))
    return user_penalty, min(grid, key=lambda penalty: error(user_penalty, penalty))


def _pair_counts(data: Interactions, rows: np.ndarray) -> csr_matrix:
    """(users + 1, items + 1) how often each user reviewed each item."""
    cells = np.ones(len(rows)), (data.user[rows], data.item[rows])
    return csr_matrix(cells, (len(data.users) + 1, len(data.items) + 1))


def fit_effects(
    data: Interactions,
    rows: np.ndarray,
    target: np.ndarray,
    penalties: Penalties,
    pairs: csr_matrix | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(users + 1, k) and (items + 1, k) effects on (m, k) targets of (m,) rows.

    The mixed model equations, with pair counts N, diagonal matrices U and I of review counts plus
    penalty, and sums u and i of the target by user and item, are: U a + N b = u; N' a + I b = i.
    Eliminating the users' effects a = (u - N b) / U leaves (I - N' N / U) b = i - N' (u / U) for
    the items' effects b, which is solved by conjugate gradients with the preconditioner I.
    """
    user, item = data.user[rows], data.item[rows]
    pairs = _pair_counts(data, rows) if pairs is None else pairs
    users, items = pairs.shape  # each with one more, unknown, which has no reviews
    user_weight = np.bincount(user, minlength=users) + penalties[0]
    item_weight = np.bincount(item, minlength=items) + penalties[1]

    def equations(effect: np.ndarray) -> np.ndarray:
        return np.asarray(item_weight * effect - pairs.T @ (pairs @ effect / user_weight))

    system = LinearOperator((items, items), equations, dtype=np.float64)
    preconditioner = LinearOperator(system.shape, lambda x: x / item_weight, dtype=np.float64)
    columns = target.shape[1]
    user_effect, item_effect = np.zeros((users, columns)), np.zeros((items, columns))
    for column, values in enumerate(target.T):
        user_sum = np.bincount(user, weights=values, minlength=users)
        item_sum = np.bincount(item, weights=values, minlength=items)
        right = item_sum - pairs.T @ (user_sum / user_weight)
        item_effect[:, column], _ = cg(system, right, rtol=1e-8, M=preconditioner)
        user_effect[:, column] = (user_sum - pairs @ item_effect[:, column]) / user_weight
    return user_effect, item_effect


def user_factors(
    topics: np.ndarray, user: np.ndarray, item: np.ndarray, residual: np.ndarray, users: int
) -> np.ndarray:
    """(users, t) float16 factors of users, from (m,) residuals of reviews of items that have (items, t)
    topics; zero for users without reviews."""
    topics, residual = topics.astype(np.float32), residual.astype(np.float32)
    factors = files.allocate((users, topics.shape[1]), np.float16)
    by_user = np.argsort(user, kind="stable")  # (m,) reviews, those of a user together
    count = np.bincount(user, minlength=users)
    start = np.cumsum(count) - count  # of every user in `by_user`
    # Users with equally many reviews are solved as one stack of matrices, in blocks.
    with_reviews = np.flatnonzero(count)
    by_count = with_reviews[np.argsort(count[with_reviews], kind="stable")]
    for same_count in np.split(by_count, np.flatnonzero(np.diff(count[by_count])) + 1):
        reviews = int(count[same_count].max(initial=0))
        cells = len(same_count) * reviews * topics.shape[1]
        for block in np.array_split(same_count, 1 + cells // _BLOCK_CELLS):
            rows = by_user[start[block][:, None] + np.arange(reviews)]  # (users, reviews)
            factors[block] = ridge_factors(topics[item[rows]], residual[rows])
    return factors


def ridge_factors(topics: np.ndarray, residual: np.ndarray, penalty: float = 15.0) -> np.ndarray:
    """(..., t) ridge regressions of (..., n) residuals y on (..., n, t) topics X of the items:
    (X'X + penalty I)^-1 X'y = X' (XX' + penalty I)^-1 y, the smaller system where n < t."""
    n, t = topics.shape[-2:]  # reviews, topics
    transposed, y = np.swapaxes(topics, -1, -2), residual[..., None]
    ridge = penalty * np.eye(min(n, t), dtype=topics.dtype)
    if n < t:
        factors = transposed @ np.linalg.solve(topics @ transposed + ridge, y)
    else:
        factors = np.linalg.solve(transposed @ topics + ridge, transposed @ y)
    return np.asarray(factors[..., 0])
