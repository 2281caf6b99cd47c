"""Measures lists out of many items: `python bench/catalogue.py MODEL [--items N] [--http]`.

The items of a saved model are multiplied to so many: each new one is a mixture of two of them, with some
noise in its vectors. Then random users get their best ten, on one core; with --http over loopback.

MODEL is a folder that `mmrec fit` wrote. Where no correction by DLRM was proven, all scoring is linear;
--correction gives every run a random last layer, which shows what proven ones would cost, not how good
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

from mmrec.config import ServeConfig
from mmrec.features.tables import EntityFeatures
from mmrec.recommender.persistence import load_recommender
from mmrec.recommender.recommender import Recommender
from mmrec.service.app import create_app

NOISE = 0.3


def main() -> None:
    """Measure one number of items; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument(
        "--correction", type=float, default=0.0, help="spread of random corrections"
    )
    parser.add_argument("--http", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one of them used")
    recommender = multiplied(arguments)
    users = [*recommender.state.online.codes["user"]]
    drawn = [
        users[code] for code in np.random.default_rng(1).integers(len(users), size=arguments.users)
    ]
    print_times("recommend", lambda user: recommender.recommend(user, 10), drawn)
    if not arguments.http:
        return
    config = ServeConfig(database=f"sqlite:///{tempfile.mkdtemp()}/live.sqlite", per_minute=10**9)
    with (
        mock.patch.object(Recommender, "load", return_value=recommender),
        TestClient(create_app(arguments.model, config)) as client,
    ):
        path = "/v1/users/{}/recommendations"
        print_times("HTTP", lambda user: client.get(path.format(user)).raise_for_status(), drawn)


def print_times(title: str, request: Callable[[str], object], users: list[str]) -> None:
    """Request one list after the other; print percentiles of the time that a list takes."""
    times = []
    for user in users:
        start = time.perf_counter()
        request(user)
        times.append(1000 * (time.perf_counter() - start))
    print(f"{title}: p50 {np.percentile(times, 50):.1f} ms, p99 {np.percentile(times, 99):.1f} ms")


def multiplied(arguments: argparse.Namespace) -> Recommender:
    """The saved model with more items, which it seems to know."""
    saved = load_recommender(arguments.model)
    names = [f"item {code}" for code in range(arguments.items - len(saved.features.item.dense) + 1)]
    mixed = mixtures(saved.features.item, len(names), np.random.default_rng(0))
    if arguments.correction:
        with torch.no_grad():
            for parameter in saved.model.ranker.top[-1].parameters():
                parameter.normal_(
                    std=arguments.correction, generator=torch.Generator().manual_seed(0)
                )
    features = replace(saved.features, item=mixed)
    recommender = Recommender.from_saved(replace(saved, features=features))
    online = recommender.state.online
    for name in names:
        online.codes["item"][name] = len(online.ids["item"])
        online.ids["item"].append(name)
    return recommender


def mixtures(features: EntityFeatures, count: int, rng: np.random.Generator) -> EntityFeatures:
    """The known views, then mixtures of two of them each, then the unknown one."""
    known = features.unknown_index
    first, second = rng.integers(known, size=(2, count))
    share = rng.uniform(0.1, 0.9, count).astype(np.float32)

    def mix(values: np.ndarray, noise: float) -> np.ndarray:
        weight = share.reshape(-1, *[1] * (values.ndim - 1))
        mixed = weight * values[first] + (1 - weight) * values[second]
        deviation = noise * values[:known].astype(np.float32).std(0)
        mixed += deviation * rng.standard_normal(mixed.shape, dtype=np.float32)
        return np.concatenate([values[:known], mixed.astype(values.dtype), values[known:]])

    codes = np.concatenate(
        [features.categories[:known], features.categories[first], features.categories[known:]]
    )
    return EntityFeatures(
        features.names,
        mix(features.dense, 0.0),
        {name: mix(block, NOISE) for name, block in features.vectors.items()},
        {name: mix(present, 0.0) for name, present in features.present.items()},
        codes,
        mix(features.factors, NOISE) if features.factors.size else features.factors,
    )


if __name__ == "__main__":
    main()
