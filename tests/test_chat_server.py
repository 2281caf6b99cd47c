"""The test server behaves as a test tells it to, as the official client sees it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from chat_server import Behaviour, Server, serve

openai = pytest.importorskip("openai")

SYSTEM = "Answer with JSON:\n- gist: a sentence\n- likes: a list\n- price: a tag"
TEXT = "[review 7 abc begins]\nThe ramen was great. The room was dirty! Expensive.\n[review 7 abc ends]"
GIST = {"gist": "The ramen was great. The room was dirty! Expensive.", "likes": ["The ramen was great."]}


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url, api_key="key", max_retries=0) as client:
        yield client


def ask(client: Any, text: str = TEXT, **options: Any) -> Any:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return client.chat.completions.create(model="test-model", messages=messages, **options).choices[0]


def test_fields_are_read_from_the_text(client: Any) -> None:
    assert json.loads(ask(client).message.content) == {**GIST, "price": "overpriced"}


def test_failures_have_their_share_and_repeat(server: Server, client: Any) -> None:
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


def test_requests_above_the_rate_are_refused_with_the_time_to_wait(server: Server, client: Any) -> None:
    server.set(rate_limit=1)
    ask(client)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    assert 0 < int(caught.value.response.headers["retry-after-ms"]) <= 1001


@pytest.mark.parametrize("fault", ["deny", "lose", "half"])
def test_a_fault_breaks_the_named_request_only(server: Server, client: Any, fault: str) -> None:
    server.fault = lambda request: fault if request == "GET /v1/models" else ""
    with pytest.raises(openai.NotFoundError if fault == "deny" else openai.APIConnectionError):
        client.models.list()
    assert ask(client).finish_reason == "stop"


def test_a_batch_answers_its_lines_in_another_order(server: Server, client: Any) -> None:
    server.set(batch_polls=2)
    messages = [{"role": "user", "content": "Hello."}]
    lines = [
        {"custom_id": str(number), "body": {"model": "test-model", "messages": messages}}
        for number in range(9)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert client.batches.retrieve(batch.id).status == "in_progress"
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.completed, batch.error_file_id) == ("completed", 9, None)
    rows = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    numbers = [row["custom_id"] for row in rows]
    assert sorted(numbers) == [line["custom_id"] for line in lines] != numbers
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


def test_a_misspelled_behaviour_is_refused(server: Server) -> None:
    with pytest.raises(TypeError, match="latencies"):
        server.set(latencies=1)
    assert server.behaviour == Behaviour()
