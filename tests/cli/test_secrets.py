"""Passwords and keys that users write where they do not belong are in no message; nor are endless answers."""

import json

import pytest

from mmrec.config import Config, EngineConfig, VisionConfig
from mmrec.distributed.workers import connect
from mmrec.errors import ConfigError, MmrecError, ModelError
from mmrec.llm.cost import Budget, CostTracker
from mmrec.llm.openai_client import ChatClient
from mmrec.llm.openai_protocol import ChatRequest, Endpoint
from mmrec.vision.captioner import open_captioner

SECRET = "hunter2"
URLS = [
    f"{scheme}://{rest}"
    for scheme in (
        "http",
        "HTTP",
        "Https",
        "postgresql",
        "PostgreSQL",
        "postgresql+psycopg",
        "sqlite",
        "ray",
        "RAY",
    )
    for rest in (
        f"me:{SECRET}@127.0.0.1:9/v1",
        f"me:{SECRET}@at@127.0.0.1:9/v1",
        f"127.0.0.1:9/v1?key={SECRET}",
        f"127.0.0.1:9/v1?password={SECRET}",
        f"127.0.0.1:9/v1#{SECRET}",
        f"me:{SECRET}@127.0.0.1:port/v1",
        f"me:{SECRET}@[::1/v1",
    )
]


def open_llm(url):
    """The servers of a language model, as `--llm` names them."""
    for spec in (url, f"openai:m@{url}", f"ollama:m@{url}"):
        endpoint = Endpoint.parse(spec)
        if endpoint is not None:  # else no server, of which `open_language_model` shows the provider alone
            raise AssertionError(endpoint)
    raise ConfigError("--llm: not known")


def open_captions(url):
    open_captioner(Config(vision=VisionConfig(captioner=url)))


def open_database(url):
    pytest.importorskip("sqlalchemy")
    from mmrec.service.live_store import LiveStore

    LiveStore(url, timeout=1.0).close()


def open_cluster(url):
    pytest.importorskip("ray")
    connect(EngineConfig(engine="ray", address=url))


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("open_it", [open_llm, open_captions, open_database, open_cluster])
def test_no_message_shows_a_secret(open_it, url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if open_it is open_database and url.startswith("sqlite"):
        pytest.skip("names of files are no secret")
    with pytest.raises(MmrecError) as error:
        open_it(url)
    assert SECRET not in str(error.value)


def test_keys_and_endless_bodies_of_a_server_are_in_no_message(shared_server, monkeypatch):
    monkeypatch.setenv("MMREC_API_KEY", SECRET)
    shared_server.start_over()
    endless = f"key {SECRET} is wrong. " + "no " * 1_000_000
    for body in ({"error": {"message": endless}}, {"detail": endless}, endless, {"error": [endless] * 3}):
        for status in (400, 401, 403, 404, 413, 422, 418):
            shared_server.set(refusals=[("soup", status, body)])
            costs = CostTracker(None, Budget(None))
            client = ChatClient(Endpoint("server", "test-model", shared_server.url), 1, costs, window=1000)
            client.max_retries = 0
            request = ChatRequest([{"role": "user", "content": "soup"}], None, 50)
            try:
                ((_, failure),) = client.complete([(0, request)])
                message = failure.reason
            except ModelError as error:
                message = str(error)
            assert SECRET not in message, json.dumps(message)
            assert 10 < len(message) < 700
    shared_server.start_over()
