"""`mmrec serve` with several workers, and stopped in the middle of a request."""

import json
import os
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from mmrec.recommender.recommender import Recommender
from serving import WAIT, service_in_process, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
from mmrec.service.live_store import LiveStore
from mmrec.service.recommendations import RecommendationService

STARTED = r'http_requests_created\{[^}]*"/v1/users/\{user:id\}"[^}]*\} (\S+)'


def ask(served, user):
    """The worker that takes a new connection: since when it has answered, and what a user reviewed."""
    with httpx.Client(base_url=served.client.base_url, timeout=30) as client:
        while (answer := client.get(f"/v1/users/{user}")).status_code == 503:  # it loads its model
            time.sleep(0.1)
        reviewed = answer.json()["reviewed"]
        return re.search(STARTED, client.get("/metrics").text)[1], reviewed


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_reviews_and_a_stop_answers_what_is_under_way(workers, model, tmp_path, fitted):
    item, database = fitted.state.dataset.data.items[0], f"sqlite:///{tmp_path / 'live.sqlite'}"
    review = {"user": "ada", "item": item, "rating": 5, "text": "Good soup."}
    with (
        serving(model, "--workers", str(workers), "--database", database) as served,
        ThreadPoolExecutor(8) as pool,
    ):
        served.post("/v1/reviews", review, 201)
        known, deadline = {}, time.monotonic() + WAIT
        while len(known) < workers or any(reviewed != [item] for reviewed in known.values()):
            assert time.monotonic() < deadline, known
            known |= dict(pool.map(lambda _: ask(served, "ada"), range(16)))
        assert len(known) == workers
        url, body = served.client.base_url, json.dumps(review | {"item": "new"}).encode()
        served.client.close()
        head = f"POST /v1/reviews HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((url.host, url.port), timeout=30) as line:
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
            time.sleep(0.5)
            served.process.send_signal(signal.SIGTERM)
            time.sleep(1)
            line.sendall(body[10:])
            answer = line.makefile("rb").readline()
        assert answer.startswith(b"HTTP/1.1 201"), answer
        assert served.process.wait(20) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((url.host, url.port), timeout=1)
        assert "Traceback" not in served.log.read_text()
    with service_in_process(model, database=database) as again:
        assert again.get("/v1/users/ada")["reviewed"] == [item, "new"]


def test_lists_go_on_while_a_worker_that_died_is_replaced(model, tmp_path):
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    with serving(model, "--workers", "2", "--database", database, "--per-minute", "100000") as served:
        before = set(children(served.process.pid))
        assert len(before) == 2
        os.kill(max(before), signal.SIGKILL)
        deadline, statuses = time.monotonic() + WAIT, []
        while len(now := set(children(served.process.pid)) - {max(before)}) < 2 or len(statuses) < 60:
            assert time.monotonic() < deadline, (before, now)
            with httpx.Client(base_url=served.client.base_url, timeout=30) as client:
                statuses.append(client.get("/v1/users/ada/recommendations").status_code)
            time.sleep(0.1)
        assert set(statuses) == {200}


def children(pid):
    """Worker processes of a service."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_visitors_do_not_wait_for_a_long_run_on_the_same_store(model, tmp_path):
    recommender = Recommender.load(model)
    service = RecommendationService(recommender, LiveStore(f"sqlite:///{tmp_path / 'live.sqlite'}"))
    store, finished = recommender.models.store, threading.Event()

    def run_for_long():
        with store.lock("note"), store.lock("vector"):
            assert finished.wait(60)

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_for_long)
        try:
            service.add_review("ada", "new", 5, "A soup nobody else had.")
            assert not run.done()
        finally:
            finished.set()
