"""The test server behaves as a test tells it to, as the official client sees it."""

from __future__ import annotations

from collections import Counter

import pytest

from chat_server import serve

openai = pytest.importorskip("openai")


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="key", max_retries=0) as client:
        yield client


def ask(client, text):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="test-model", messages=messages).choices[0]


def test_failures_have_their_share_and_repeat(server, client):
    server.set(errors=0.3, drop=0.1, broken=0.2, broken_kinds=("empty",))
    runs = []
    for _ in range(2):
        server.reset()
        outcomes = []
        for number in range(100):
            try:
                outcomes.append(ask(client, f"text {number}").message.content)
            except openai.APIError as error:
                outcomes.append(type(error).__name__)
        runs.append(outcomes)
    assert runs[0] == runs[1]
    counts = Counter(runs[0])
    assert 15 < counts["InternalServerError"] < 45
    assert 3 < counts["APIConnectionError"] < 20
    assert 5 < counts[""] < 30
    stats = server.stats()
    assert stats["requests"] == 100 == sum(stats["status"].values()) + counts["APIConnectionError"]
    assert len(server.answers) == stats["status"]["200"]


@pytest.mark.parametrize("fault", ["deny", "lose", "half"])
def test_a_fault_breaks_the_named_request_only(server, client, fault):
    server.fault = lambda request: fault if request == "GET /v1/models" else ""
    with pytest.raises(openai.NotFoundError if fault == "deny" else openai.APIConnectionError):
        client.models.list()
    assert ask(client, "text").finish_reason == "stop"
