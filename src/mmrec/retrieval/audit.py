"""Proof that what proposes items was learned from the visits that it may know, and from no other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.retrieval.histories import TopicAxes, Visits
from mmrec.retrieval.proposers import Proposers
from mmrec.retrieval.retrieval import Retrieval


def retrieval_violations(
    retrieval: Retrieval, axes: TopicAxes, visits: Visits, seed: int
) -> Iterator[str]:
    """A sentence for each part that differs from what is made anew of the visits it may know.

    Counts come from the definition; matrices and factors from another fit on these visits alone,
    with topics by `axes` of these visits' texts.
    """
    proposers, size = retrieval.proposers, visits.items
    counts = {"visits": np.zeros(size), "likes": np.zeros(size)}
    np.add.at(counts["visits"], visits.item, 1)
    np.add.at(counts["likes"], visits.item[visits.liked], 1)
    used = {"visits": proposers.visit_count, "likes": proposers.like_count}
    for name, values in used.items():
        for item in np.flatnonzero(values != counts[name])[:5]:
            found, expected = int(values[item]), int(counts[name][item])
            yield f"item {item} has {found} {name}, the evidence rows have {expected}"
    expected_proposers = Proposers.fit(visits, seed)
    for name, matrix in proposers.similarities.items():
        if _matrix_differs(matrix, expected_proposers.similarities[name]):
            yield f"the matrix of {name} was not made from the evidence rows alone"
    arrays = {
        "factors of items": (proposers.item_factors, expected_proposers.item_factors),
        "topics of items": (proposers.topics, expected_proposers.topics),
        "mean text": (retrieval.axes.mean, axes.mean),
        "axes of texts": (retrieval.axes.axes, axes.axes),
    }
    for name, (values, expected) in arrays.items():
        # Not `any(gap > ...)`, which is False for NaN.
        if not np.allclose(values, expected, rtol=1e-3, atol=1e-5):
            yield f"{name}: not made from the evidence rows alone"


def _matrix_differs(matrix: csr_matrix, expected: csr_matrix) -> bool:
    gap = abs(matrix - expected)
    return not gap.max() <= 1e-5 * max(float(expected.max()), 1e-9)
