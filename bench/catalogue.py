"""Times lists out of many items: `python bench/catalogue.py MODEL [--items N] [--http]`.

MODEL is a folder that `mmrec fit` wrote. Items are added to it that are mixtures of two of its own,
with noise in their vectors; visits are invented, as in lists.py. Then random users get their best ten
items, on one core; with --http over loopback. Scoring is linear unless a correction by DLRM was proven;
--correction gives every run a random last layer, which shows what corrections would cost, not how good
they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from fastapi.testclient import TestClient

from lists import invented_retrieval, invented_visits
from mmrec.config import ServeConfig
from mmrec.features.tables import EntityFeatures
from mmrec.recommender.loading import load_recommender
from mmrec.recommender.proposals import ListMaker, UserHistories
from mmrec.recommender.recommender import Recommender
from mmrec.retrieval.histories import Histories
from mmrec.service.app import create_app


def main() -> None:
    """Time one number of items, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument(
        "--correction", type=float, default=0.0, help="standard deviation of weights"
    )
    parser.add_argument("--http", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one of them used")
    recommender = with_more_items(options.model, options.items, options.correction)
    names = np.array([*recommender.state.online.codes["user"]])
    users = names[np.random.default_rng(1).integers(len(names), size=options.users)].tolist()
    print_times("recommend", lambda user: recommender.recommend(user, 10), users)
    wishes = ["cheap ramen, no seafood", "quiet places", "I hate Italian food", "not expensive"] * 5
    print_times("by words", lambda words: recommender.recommend(likes=words), wishes)
    if not options.http:
        return
    config = ServeConfig(database=f"sqlite:///{tempfile.mkdtemp()}/live.sqlite", per_minute=10**9)
    with (
        mock.patch.object(Recommender, "load", return_value=recommender),
        TestClient(create_app(options.model, config), base_url="http://localhost") as client,
    ):
        while client.get("/ready").status_code != 200:
            time.sleep(0.05)
        path = "/v1/users/{}/recommendations"
        print_times("HTTP", lambda user: client.get(path.format(user)).raise_for_status(), users)


def print_times(title: str, request: Callable[[str], object], users: list[str]) -> None:
    """Request the list of each user, and print percentiles of the times."""
    times = []
    for user in users:
        start = time.perf_counter()
        request(user)
        times.append(1000 * (time.perf_counter() - start))
    print(f"{title}: p50 {np.percentile(times, 50):.1f} ms, p99 {np.percentile(times, 99):.1f} ms")


def with_more_items(model: Path, item_count: int, correction: float) -> Recommender:
    """The saved model with invented items."""
    saved = load_recommender(model)
    # The last row of features is that of an unknown item.
    names = [f"item {code}" for code in range(item_count - len(saved.features.item.dense) + 1)]
    mixed = mixed_features(saved.features.item, len(names), np.random.default_rng(0))
    if correction:
        for parameter in saved.model.ranker.top[-1].parameters():
            generator = torch.Generator().manual_seed(0)
            torch.nn.init.normal_(parameter, std=correction, generator=generator)
    features = replace(saved.features, item=mixed)
    recommender = Recommender.from_saved(replace(saved, features=features))
    online = recommender.state.online
    for name in names:
        online.codes["item"][name] = len(online.ids["item"])
        online.ids["item"].append(name)
    rng = np.random.default_rng(0)
    visits = invented_visits(item_count, 10 * item_count, rng)
    retrieval, histories = invented_retrieval(visits, rng), Histories.from_visits(visits)
    state, caution = recommender.state, saved.config.operating.caution
    maker = ListMaker(retrieval, state.scorer, UserHistories(histories), caution)
    state.list_maker = maker
    return recommender


def mixed_features(
    features: EntityFeatures, count: int, rng: np.random.Generator
) -> EntityFeatures:
    """The features of all items, of `count` mixtures of two of them each, and of the unknown item."""
    size = features.unknown_index
    first, second = rng.integers(size, size=(2, count))
    share = rng.uniform(0.1, 0.9, count).astype(np.float32)

    def mix(values: np.ndarray, noise: float = 0.0) -> np.ndarray:
        weight = share.reshape(-1, *[1] * (values.ndim - 1))
        mixed = weight * values[first] + (1 - weight) * values[second]
        deviation = noise * values[:size].astype(np.float32).std(0)
        mixed += deviation * rng.standard_normal(mixed.shape, dtype=np.float32)
        return np.concatenate([values[:size], mixed.astype(values.dtype), values[size:]])

    categories = features.categories
    return replace(
        features,
        dense=mix(features.dense),
        vectors={name: mix(block, 0.3) for name, block in features.vectors.items()},
        present={name: mix(present) for name, present in features.present.items()},
        categories=np.concatenate([categories[:size], categories[first], categories[size:]]),
        factors=mix(features.factors, 0.3) if features.factors.size else features.factors,
    )


if __name__ == "__main__":
    main()
