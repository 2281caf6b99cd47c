"""Measures lists of large catalogues: `python bench/catalogue.py MODEL [--items N] [--http]`.

A saved model's catalogue is grown to so many items: each new one is a mixture of two of its items with some
noise in its words. Then random users get their best ten, in two stages and exactly, on one core; with
--http also over loopback.

MODEL is a folder that `mmrec fit` wrote. Where none of its DLRM runs was proven, all scoring is linear;
--loud gives every run a random last layer in its place, which shows what proven ones would cost, not how
good they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import httpx2 as httpx
import numpy as np
import torch

from mmrec.cli.recall import print_recall
from mmrec.config import CatalogueConfig, ServeConfig
from mmrec.experiments.recall import measure
from mmrec.features.tables import EntityFeatures
from mmrec.recommender.persistence import load_recommender
from mmrec.recommender.recommender import Recommender

ROWS_AT_ONCE, NOISE = 50_000, 0.3


def main() -> None:
    """Measure one size; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--memory", type=float, default=CatalogueConfig().memory)
    parser.add_argument("--compared", type=int, help="users whose lists are found exactly too")
    parser.add_argument("--exact-items", type=int, default=CatalogueConfig().exact_items)
    parser.add_argument("--candidates", type=int, default=CatalogueConfig().candidates)
    parser.add_argument(
        "--loud", type=float, default=0.0, help="spread of random corrections, in logits"
    )
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.port:
        serve(given)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, one of them used")
    recommender = grown(given)
    layer = recommender.model.ranker.top[-1]
    speaking = int((layer.weight.flatten(1).abs().sum(1) > 0).sum())
    users = np.random.default_rng(1).integers(
        recommender.features.user.unknown_index, size=given.users
    )
    print(f"{speaking} of {len(layer.weight)} runs of DLRM speak; {given.candidates:,} candidates")
    print_recall(measure(recommender.scorer, users, 10, given.compared))
    if given.http:
        over_http(given, [recommender.corpus.data.users[one] for one in users])


def grown(given: argparse.Namespace) -> Recommender:
    """The saved model, with so many items that it seems to know."""
    saved = load_recommender(given.model)
    rng = np.random.default_rng(0)
    known, names = saved.known_reviews, saved.known_reviews.data.items
    more = max(given.items - len(names), 0)
    items = [*names, *(f"grown {at}" for at in range(more))]
    features = replace(known.features, item=mixed(known.features.item, more, rng))
    known = replace(known, data=replace(known.data, items=items), features=features)
    if given.loud:
        with torch.no_grad():
            for last in saved.model.ranker.top[-1].parameters():
                last.normal_(std=given.loud, generator=torch.Generator().manual_seed(0))
    config = CatalogueConfig(
        exact_items=given.exact_items, candidates=given.candidates, memory=given.memory
    )
    recommender = Recommender._of(replace(saved, known_reviews=known), config)
    for code in range(len(names), len(items)):
        recommender.catalog.update_item(code, items[code])
    return recommender


def mixed(side: EntityFeatures, more: int, rng: np.random.Generator) -> EntityFeatures:
    """The views of a side, then mixtures of two of them each, then the one of which nothing is known."""
    own = side.unknown_index
    pair = rng.integers(own, size=(2, more))
    share = rng.uniform(0.1, 0.9, more).astype(np.float32)

    def of(x: np.ndarray, noise: float) -> np.ndarray:
        out = np.empty((own + more + 1, *x.shape[1:]), dtype=x.dtype)
        out[:own], out[-1] = x[:own], x[own]
        deviation = noise * x[:own].astype(np.float32).std(0)
        for at in range(0, more, ROWS_AT_ONCE):
            part = slice(at, min(at + ROWS_AT_ONCE, more))
            weight = share[part].reshape(-1, *[1] * (x.ndim - 1))
            both = weight * x[pair[0, part]] + (1 - weight) * x[pair[1, part]]
            if noise:
                both += deviation * rng.standard_normal(both.shape, dtype=np.float32)
            out[own + part.start : own + part.stop] = both
        return out

    codes = np.concatenate([side.categories[:own], side.categories[pair[0]], side.categories[own:]])
    return EntityFeatures(
        side.names,
        of(side.dense, 0.0),
        {name: of(x, NOISE) for name, x in side.vectors.items()},
        {name: of(x, 0.0) for name, x in side.present.items()},
        codes,
        of(side.factors, NOISE) if side.factors.size else side.factors,
    )


def serve(given: argparse.Namespace) -> None:
    """What `mmrec serve` does, with the grown catalogue."""
    import uvicorn

    from mmrec.service.app import create_app

    recommender, folder = grown(given), tempfile.mkdtemp()
    config = ServeConfig(database=f"sqlite:///{folder}/live.sqlite", per_minute=10**9)
    with mock.patch.object(Recommender, "load", return_value=recommender):
        app = create_app(given.model, config)
        uvicorn.run(app, port=given.port, log_level="error", access_log=False)


def over_http(given: argparse.Namespace, users: list[str]) -> None:
    """One client after the other asks a service with one thread for the same lists."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process = subprocess.Popen([sys.executable, *sys.argv, "--port", str(port)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            while True:
                try:
                    client.get("/ready")
                    break
                except httpx.TransportError:
                    if process.poll() is not None:
                        sys.exit("the service does not start")
                    time.sleep(0.5)
            times = []
            for user in users:
                start = time.perf_counter()
                client.get(f"/v1/users/{user}/recommendations").raise_for_status()
                times.append(1000 * (time.perf_counter() - start))
    finally:
        process.terminate()
        process.wait()
    print(
        f"over HTTP: p50 {np.percentile(times, 50):.1f} ms, p99 {np.percentile(times, 99):.1f} ms"
    )


if __name__ == "__main__":
    main()
