"""`mmrec annotate` as a user types it, and `fit` afterwards, with a server that plays the language model."""

import json
import signal
import subprocess
import time
from contextlib import closing

import pytest

from mmrec.cache.store import Store
from mmrec.data.synthetic.city import write_sample_city
from serving import MMREC, command

pytestmark = pytest.mark.usefixtures("minilm")


@pytest.fixture(scope="module")
def server(shared_server):
    shared_server.set(latency=0.01)
    return shared_server


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return write_sample_city(tmp_path_factory.mktemp("city"), users=30, items=12, reviews=200)


def run_json(*words, cwd):
    """The JSON that a command prints; it must succeed."""
    done = command(*words, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["notes", "summary"])
def folder(request, server, city, tmp_path_factory):
    """Where a model was saved; its annotations were planned, made, found again, and used by `fit`."""
    folder = tmp_path_factory.mktemp(request.param)
    llm = ("--llm", f"openai:test-model@{server.url}", "--strategy", request.param)
    before = server.status[200]
    tasks = run_json("annotate", city, *llm, "--dry-run", cwd=folder)[request.param]["tasks"]
    assert server.status[200] == before
    result = run_json("annotate", city, *llm, cwd=folder)
    assert result["failed"] == {}
    made = server.status[200] - before
    assert made == result["calls"] == sum(task["calls"] for task in tasks.values()) > 0
    planned_tokens = sum(task["tokens_in"] for task in tasks.values())
    assert result["tokens_in"] <= planned_tokens <= 1.5 * result["tokens_in"]
    assert run_json("annotate", city, *llm, cwd=folder)["calls"] == 0
    fitted = run_json("fit", city, *llm, "--out", "model", "--epochs", "2", cwd=folder)
    assert server.status[200] - before == made
    assert len(fitted["audit"]) == 4
    assert all("held" in verdict for verdict in fitted["audit"].values())
    return folder


def test_a_model_quotes_reviews_and_calls_the_server_for_wishes_and_sentences_alone(server, city, folder):
    def recommend(*words):
        result = run_json("recommend", "model", "--trust", *words, cwd=folder)
        return [item.get("why") for item in result["recommendations"]]

    before, rows = server.requests, [json.loads(line) for line in city.read_text().splitlines()]
    user, reviews = rows[0]["user_id"], " ".join(row["review_text"] for row in rows)
    quotes = [quote["text"] for why in recommend("--user", user, "--why") for quote in why["quotes"]]
    assert quotes
    assert all(quote in reviews for quote in quotes)
    assert server.requests == before
    for _ in range(2):
        assert recommend("--likes", "noodles, quiet")
        assert server.requests == before + 1, "a wish is read by the server, once"
    assert any(why["sentence"] for why in recommend("--user", user, "--n", "3", "--sentences"))


def test_the_budget_ends_a_run_with_a_message_and_status_2(server, city, tmp_path):
    llm = ("--llm", f"openai:test-model@{server.url}")
    unpriced = command("annotate", city, *llm, "--budget", "0.01", cwd=tmp_path)
    assert unpriced.returncode == 2
    assert "--llm-price" in unpriced.stderr
    stopped = command("annotate", city, *llm, "--budget", "0.02", "--llm-price", "1/1", cwd=tmp_path)
    assert stopped.returncode == 2
    assert "the budget of $0.02 is reached" in stopped.stderr
    assert 0 < run_json("annotate", city, *llm, cwd=tmp_path)["calls"] < 200


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_loses_no_answer_and_the_next_pays_again_only_for_calls_in_flight(
    server, city, tmp_path, kill
):
    words = ("annotate", city, "--llm", f"openai:test-model@{server.url}", "--in-flight", "4")
    words += ("--store", tmp_path / "store")
    (task,) = run_json(*words, "--dry-run", cwd=tmp_path)["notes"]["tasks"].values()
    server.reset()
    child = subprocess.Popen([*MMREC, *words], stderr=subprocess.PIPE, text=True)
    while server.status[200] < 12:
        time.sleep(0.01)
    server.set(latency=60)
    time.sleep(0.3)  # so that only calls are in flight that get no answer
    received, deadline = server.status[200], time.monotonic() + 20
    with closing(Store(tmp_path / "store")) as store:
        while store.counts()["note"] < received:
            assert time.monotonic() < deadline, "an answer that was received is not stored"
            time.sleep(0.01)
    child.send_signal(kill)
    error = child.communicate(timeout=50)[1]
    server.set(latency=0.01)
    if kill == signal.SIGINT:
        assert (child.returncode, "Traceback" in error) == (130, False)
        assert "the same command continues from there" in error
    assert run_json(*words, cwd=tmp_path)["calls"] == task["calls"] - received > 0
    # A call in flight costs money, whether or not its answer arrives.
    assert server.status[200] == task["calls"] <= server.requests <= task["calls"] + 4


def test_two_annotators_at_once_pay_for_each_review_once(server, city, tmp_path):
    words = ("annotate", city, "--llm", f"openai:test-model@{server.url}", "--store", tmp_path / "store")
    (task,) = run_json(*words, "--dry-run", cwd=tmp_path)["notes"]["tasks"].values()
    before, line = server.status[200], [*MMREC, *map(str, words), "--json"]
    children = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(child.communicate()[0]) for child in children]
    assert results[0]["empty"] == results[1]["empty"] < 10  # of 200: both have all answers
    assert server.status[200] - before == sum(result["calls"] for result in results) == task["calls"] > 0
