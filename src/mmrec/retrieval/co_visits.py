"""Nearness between items, as sparse matrices: what the same people visited, and similar texts."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix, diags_array, vstack

from mmrec.retrieval.histories import sum_topics, unit_rows, visit_matrix

_NEIGHBORS, _TEXT_NEIGHBORS = 200, 30  # kept of each item
_MAX_HISTORY = 500  # visits of a user that are counted: pairs grow with their square
_EXACT_TEXTS = 10_000  # items, of which all are compared with all
_BLOCK_CELLS = 1 << 24  # numbers in memory at once


def limit_histories(visits: csr_matrix, rng: np.random.Generator) -> csr_matrix:
    """The visits without a random part of those of users who have very many."""
    count = np.diff(visits.indptr)
    if count.max(initial=0) <= _MAX_HISTORY:
        return visits
    share = np.repeat(_MAX_HISTORY / np.maximum(count, 1), count)
    pairs, is_counted = visits.tocoo(), rng.random(visits.nnz) < share
    return visit_matrix(pairs.row[is_counted], pairs.col[is_counted], visits.shape)


def co_visit_similarity(visits: csr_matrix, shrinkage: float = 20.0) -> csr_matrix:
    """(m, m) asymmetric cosines (Aiolli, 2013), shrunk, from a visited item to another.

    With c users who visited both, and n and m who visited each: c / (n^.7 m^.3 + shrinkage). A user
    with v visits counts v^-.6, and the shrinkage in users of the average visit.
    """
    user_weight = np.maximum(np.asarray(visits.sum(1)).ravel(), 1) ** -0.6
    count = visits.T @ user_weight
    shrinkage *= count.sum() / max(visits.nnz, 1)
    to_users = csr_matrix(visits.T @ diags_array(user_weight))
    blocks: list[csr_matrix] = []
    for items in _item_blocks(visits):
        together = (to_users[items] @ visits).tocoo()  # (b, m)
        scale = count[items[together.row]] ** 0.7 * count[together.col] ** 0.3 + shrinkage
        together.data /= scale.astype(np.float32)
        blocks.append(_highest(together.tocsr(), items, _NEIGHBORS))
    return csr_matrix(vstack(blocks))


def walk_similarity(visits: csr_matrix, alpha: float = 0.7) -> csr_matrix:
    """(m, m) probabilities of walks from an item over a user to another, each step to the power of
    alpha (P3alpha: Cooper et al., 2014): users who visited little count more."""
    item_count = np.maximum(np.asarray(visits.sum(0)).ravel(), 1)
    user_count = np.maximum(np.asarray(visits.sum(1)).ravel(), 1)
    to_users = csr_matrix(diags_array(item_count**-alpha) @ visits.T)
    to_items = csr_matrix(diags_array(user_count**-alpha) @ visits)
    blocks: list[csr_matrix] = []
    for items in _item_blocks(visits):
        walks = (to_users[items] @ to_items).astype(np.float32)
        blocks.append(_highest(walks, items, _NEIGHBORS))
    return csr_matrix(vstack(blocks))


def text_similarity(directions: np.ndarray) -> csr_matrix:
    """(m, m) cosines of texts, from (m, d) unit vectors: to each item from its nearest others.

    Of more than 10,000 items, a few of the nearest may be missed.
    """
    size, described = len(directions), np.flatnonzero(directions.any(axis=1))
    if not len(described):
        return csr_matrix((size, size), dtype=np.float32)
    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for items, pool in _text_blocks(directions[described]):
        items, pool = described[items], described[pool]
        cosine = directions[items] @ directions[pool].T  # (b, o)
        cosine[items[:, None] == pool] = 0
        limit = min(_TEXT_NEIGHBORS, len(pool))
        nearest = np.argpartition(-cosine, limit - 1, axis=1)[:, :limit]  # (b, limit)
        value = np.maximum(np.take_along_axis(cosine, nearest, axis=1), 0)
        blocks.append((value.ravel(), pool[nearest].ravel(), np.repeat(items, limit)))
    values, nearest, items = map(np.concatenate, zip(*blocks, strict=True))
    return csr_matrix((values, (nearest, items)), (size, size))


def _text_blocks(directions: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of (m, d) unit vectors, and other rows among which the nearest of these are sought.

    Those are all rows if these are few, or else 20 m^.5 of the nearest of 4 m^.5 cells, which
    k-means makes. So the work grows with m^1.5.
    """
    size = len(directions)
    if size <= _EXACT_TEXTS:
        rows = np.arange(size)
        for block in np.array_split(rows, 1 + size * size // _BLOCK_CELLS):
            yield block, rows
        return
    cells, limit = int(4 * size**0.5), int(20 * size**0.5)
    centers = directions[np.random.default_rng(0).choice(size, cells, replace=False)]
    for _ in range(3):
        blocks = np.array_split(directions, 1 + size * cells // _BLOCK_CELLS)
        cell = np.concatenate([(block @ centers.T).argmax(axis=1) for block in blocks])
        centers = unit_rows(sum_topics(cell, directions, cells))
    count = np.bincount(cell, minlength=cells)
    members = np.split(np.argsort(cell, kind="stable"), np.cumsum(count)[:-1])
    for rows, cosine in zip(members, centers @ centers.T, strict=True):
        nearest = np.argsort(-cosine, kind="stable")
        nearest = nearest[: np.searchsorted(np.cumsum(count[nearest]), limit) + 1]
        pool = np.concatenate([members[cell] for cell in nearest])[:limit]
        for block in np.array_split(rows, 1 + len(rows) * limit // _BLOCK_CELLS):
            yield block, pool


def _item_blocks(visits: csr_matrix) -> Iterator[np.ndarray]:
    """Codes of items, in blocks whose pairs with other items fit in memory."""
    history = np.diff(visits.indptr)
    # (m,) at most so many pairs an item has: the visits of its visitors.
    pairs = np.minimum(visits.T @ history, visits.shape[1])
    block = np.cumsum(pairs) // _BLOCK_CELLS
    yield from np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(block)) + 1)


def _highest(similarity: csr_matrix, items: np.ndarray, limit: int) -> csr_matrix:
    """The `limit` highest of each row of (b, m) similarities of items, without the item itself."""
    pairs = similarity.tocoo()
    is_other = items[pairs.row] != pairs.col
    row, column, value = pairs.row[is_other], pairs.col[is_other], pairs.data[is_other]
    order = np.lexsort((-value, row))
    row, column, value = row[order], column[order], value[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    best = rank < limit
    return csr_matrix((value[best], (row[best], column[best])), similarity.shape)
