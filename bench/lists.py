"""Times lists: `python bench/lists.py [--items N] [--memory SHARE] [--model MODEL] [--everyone MODEL]`.

Without options, invented visits of 100,000 items: candidates for a user on one core, and how many of
the best ten of all items are among them. Visitors have one of 200 tastes, which half of their visits
follow. --model times whole lists out of as many items, with the judge of a model that `mmrec fit` wrote,
and looks for the nearest of its reviews as if each were an item. --everyone makes lists of all users of a
model, on two cores; --memory builds co-visits of a share of 10^6 items and 10^7 visits. Times are of the
process (CPU) beside those of the clock, for machines that do other work, too.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from pathlib import Path

import numpy as np
import torch

from mmrec.recommender.proposals import CANDIDATES
from mmrec.retrieval import co_visits
from mmrec.retrieval.blend import input_names
from mmrec.retrieval.factors import RANKS
from mmrec.retrieval.histories import (
    Histories,
    TopicAxes,
    Visits,
    sum_topics,
    unit_rows,
    visit_matrix,
)
from mmrec.retrieval.proposers import SIMILARITIES, Proposers
from mmrec.retrieval.retrieval import Retrieval

TASTES, TOPICS, FACTORS = 200, 64, RANKS[-1]


def main() -> None:
    """Do what the options ask for, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=200, help="whose lists are timed")
    parser.add_argument("--memory", type=float, help="share of 10^6 items and 10^7 visits")
    parser.add_argument("--model", type=Path, help="folder of a model, for whole lists")
    parser.add_argument("--everyone", type=Path, help="folder of a model")
    options = parser.parse_args()
    print(f"{platform.machine()}, numpy {np.__version__}, torch {torch.__version__}")
    if options.everyone:
        time_everyone(options.everyone)
    elif options.model:
        time_whole_lists(options.model, options.items, options.users)
    elif options.memory:
        measure_memory(options.memory)
    else:
        time_lists(options.items, options.users)


def invented_visits(items: int, visits: int, rng: np.random.Generator) -> Visits:
    """As many users as items; few items and users have most visits."""

    def draw(size: int, count: int) -> np.ndarray:
        return (size * rng.random(count) ** 2).astype(np.int64)

    user, item = draw(items, visits), draw(items, visits)
    follows = rng.random(visits) < 0.5  # visit an item of the user's own taste
    item = np.where(follows, (item // TASTES * TASTES + user % TASTES).clip(max=items - 1), item)
    taste = rng.standard_normal((TASTES, TOPICS), dtype=np.float32) / 8
    topics = taste[item % TASTES]
    topics += rng.standard_normal(topics.shape, dtype=np.float32) / 8
    return Visits(user, item, rng.random(visits) < 0.7, topics, items, items)


def invented_retrieval(visits: Visits, rng: np.random.Generator) -> Retrieval:
    """Proposers of visits; factors are those of tastes, and weights the plain sum of scores.

    Nothing is trained, since that takes long and would not change what a list takes.
    """
    histories, topics = (
        Histories.from_visits(visits),
        sum_topics(visits.item, visits.topics, visits.items),
    )
    pairs = co_visits.limit_histories(histories.visits, rng)
    likes = co_visits.limit_histories(histories.likes, rng)
    start = time.process_time()
    matrices = (
        co_visits.co_visit_similarity(pairs),
        co_visits.co_visit_similarity(likes),
        co_visits.walk_similarity(pairs),
        co_visits.text_similarity(unit_rows(topics)),
    )
    print(f"matrices: {time.process_time() - start:.0f} s of CPU")
    factors = rng.standard_normal((TASTES, FACTORS), dtype=np.float32)[
        np.arange(visits.items) % TASTES
    ]
    factors += rng.standard_normal(factors.shape, dtype=np.float32)
    counts = (visits.item, visits.item[visits.liked])
    visit_count, like_count = (
        np.bincount(c, minlength=visits.items).astype(np.float32) for c in counts
    )
    similarities = dict(zip(SIMILARITIES, matrices, strict=True))
    made = Proposers(similarities, factors / 8, topics, topics, visit_count, like_count)
    weights = np.arange(len(input_names(made.names))) < len(made.names)
    mean, axes = np.zeros(TOPICS, np.float32), np.eye(TOPICS, dtype=np.float32)
    return Retrieval(TopicAxes(mean, axes), made, weights.astype(np.float32))


def time_lists(items: int, users: int) -> None:
    """Print times of one list, and the recall of its best ten against blending all items."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    visits = invented_visits(items, 10 * items, rng)
    retrieval, histories = invented_retrieval(visits, rng), Histories.from_visits(visits)
    some = rng.permutation(np.unique(visits.user))[:users]
    clock, cpu, found = list[float](), list[float](), list[np.ndarray]()
    retrieval.candidates(histories.rows(some[:1]), CANDIDATES)  # warm up
    for user in some:
        row = histories.rows(np.array([user]))
        start, start_cpu = time.perf_counter(), time.process_time()
        found.append(retrieval.candidates(row, CANDIDATES)[0][0][:10])
        clock.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - start_cpu))
    print_percentiles(f"candidates of one user of {items:,} items", clock, cpu)
    hits = 0
    for user, listed in zip(some[:50], found, strict=False):
        row = histories.rows(np.array([user]))
        best = retrieval.candidates(row, items)[0][0][:10]  # every proposer brings all items
        hits += len(np.intersect1d(best, listed))
    count = 10 * min(len(some), 50)
    print(f"recall of the best ten of all items: {hits / count:.3f} ({count // 10} users)")


def print_percentiles(title: str, clock: list[float], cpu: list[float]) -> None:
    """Print what half, and all but a hundredth, of some milliseconds are below."""
    for name, times in (("clock", clock), ("CPU", cpu)):
        p50, p99 = np.percentile(times, [50, 99])
        print(f"{title}, {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def time_whole_lists(folder: Path, items: int, users: int) -> None:
    """Print times of `recommend` out of many items, and how many of the nearest texts are found."""
    from catalogue import with_more_items

    torch.set_num_threads(1)
    recommender = with_more_items(folder, items, correction=0.0)
    state, rng = recommender.state, np.random.default_rng(1)
    names = rng.permutation(state.online.ids["user"])[: users + 1].tolist()
    recommender.recommend(names.pop(), 10)  # warm up
    clock, cpu = list[float](), list[float]()
    for user in names:
        start, start_cpu = time.perf_counter(), time.process_time()
        recommender.recommend(user, 10)
        clock.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - start_cpu))
    share = state.scorer._active_share
    print_percentiles(f"lists out of {items:,} items, {share:.0%} of runs corrected", clock, cpu)
    texts = recommender.saved.reviews.table["text"].to_list()
    topics = recommender.saved.retrieval.axes.topics(texts, state.dataset.text_vectors)
    measure_neighbors(unit_rows(topics), rng)


def measure_neighbors(directions: np.ndarray, rng: np.random.Generator) -> None:
    """Print how many of the nearest of (n, d) texts are found, and what finding them takes."""
    start = time.process_time()
    found = co_visits.text_similarity(directions).tocsc()
    seconds, shares = time.process_time() - start, list[float]()
    for row in rng.integers(len(directions), size=2000):
        cosine, listed = directions @ directions[row], found[:, [row]].indices
        cosine[row] = 0
        nearest = np.argsort(-cosine)[: len(listed)]
        shares.append(float(np.isin(nearest, listed).mean()))
    print(f"nearest of {len(directions):,} texts: {np.mean(shares):.3f} found")
    print(f"{seconds:.0f} s of CPU")


def measure_memory(share: float) -> None:
    """Print the size of co-visits, and what building them takes."""
    items, rng = int(1e6 * share), np.random.default_rng(0)
    size = (items, items)
    user, item = (items * rng.random((2, 10 * items)) ** 2).astype(np.int64)
    visits = co_visits.limit_histories(visit_matrix(user, item, size), rng)
    start = time.process_time()
    matrix = co_visits.co_visit_similarity(visits)
    seconds = time.process_time() - start
    parts = (matrix.data, matrix.indices, matrix.indptr)
    size_mb = sum(part.nbytes for part in parts) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{items:,} items, {visits.nnz:,} visits: {matrix.nnz:,} co-visits, {size_mb:,.0f} MB")
    print(f"{seconds:.0f} s of CPU, {peak:,.0f} MB at most in the process")
    if share < 1:
        print(f"extrapolated in proportion to 10^6 items: {size_mb / share:,.0f} MB")


def time_everyone(folder: Path) -> None:
    """Print how many users a second get their ten items."""
    from mmrec.recommender.recommender import Recommender

    torch.set_num_threads(2)
    recommender = Recommender.load(folder)
    names = recommender.state.online.ids["user"]
    recommender.recommend_all(10, users=names[:100])  # warm up
    start, start_cpu = time.perf_counter(), time.process_time()
    rows = recommender.recommend_all(10)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(
        f"{len(names):,} users, {rows.height:,} rows: {len(names) / seconds:,.0f} users a second by"
    )
    print(f"the clock, {len(names) / cpu:,.0f} by a second of CPU, of which two cores have two")


if __name__ == "__main__":
    main()
