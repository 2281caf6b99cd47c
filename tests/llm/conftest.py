"""A chat server that all tests of a file share."""

import pytest

from chat_server import Behaviour, serve


@pytest.fixture(scope="module")
def shared_server():
    pytest.importorskip("openai")
    with serve() as server:
        yield server


@pytest.fixture
def server(shared_server, monkeypatch):
    """The server with its usual behaviour, without faults, and nothing counted."""
    # Loading certificates takes most of the time of a client, and nothing here is encrypted.
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    shared_server.behaviour = Behaviour()
    shared_server.fault = lambda request: ""
    shared_server.reset()
    shared_server.files.clear()
    shared_server.batches.clear()
    return shared_server


@pytest.fixture
def path(tmp_path):
    """Of a store that does not exist yet."""
    return tmp_path / "store"
