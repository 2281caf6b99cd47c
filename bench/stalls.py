"""What a service does while something that it needs hangs: `python bench/stalls.py postgresql|model`.

50 clients ask for lists, send reviews, and ask by words, for a minute while all is well and for another
while PostgreSQL is frozen (SIGSTOP) or the language model answers nothing. Another process asks for
`/health` and `/metrics` all the time. Prints how long answers took, how many reviews were acknowledged,
how many of these are lost, and how soon reviews are taken again.

PostgreSQL is that of Debian's package; the language model is a test server on loopback. The service's
data are Sample City's.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx2 as httpx
import numpy as np

from mmrec import Config, Recommender, read_reviews
from mmrec.config import LanguageConfig, ReadConfig
from mmrec.data.synthetic.city import write_sample_city
from service import Server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chat_server import Server as ChatServer
from chat_server import serve
from serving import freeze_postgresql, postgresql

Pair = tuple[str, str]
Stall = Callable[[], AbstractContextManager[None]]


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("postgresql", "model"))
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--pause", type=float, default=0.5, help="mean seconds between requests of a client"
    )
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores; {options}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        language = LanguageConfig()
        if options.what == "postgresql":
            database = stack.enter_context(postgresql())
            stall = partial(frozen, database)
        else:
            llm, database = stack.enter_context(serve()), f"sqlite:///{folder}/live.sqlite"
            language = LanguageConfig(llm=f"openai:test-model@{llm.url}")
            stall = partial(silent, llm)
        data = write_sample_city(folder)
        config = Config(store=folder / "store.sqlite", language=language)
        recommender = Recommender(config)
        recommender.fit(read_reviews(data, ReadConfig(items=folder / "places.jsonl")))
        server = Server(recommender.save(folder / "model"), database, "--trust")
        table = recommender.saved.reviews.table
        clients = Clients(
            server.url, table["user"].unique().to_list(), table["item"].unique().to_list()
        )
        try:
            measure(clients, options, stall)
        finally:
            server.kill()


@contextmanager
def silent(llm: ChatServer) -> Iterator[None]:
    """A language model that takes requests, and answers none for as long as the block lasts."""
    before = llm.behaviour.latency
    llm.set(latency=3600)
    try:
        yield
    finally:
        llm.set(latency=before)


@contextmanager
def frozen(database: str) -> Iterator[None]:
    """A PostgreSQL that does nothing for as long as the block lasts."""
    processes = freeze_postgresql(database)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


class Clients:
    """Many clients, and what they were told."""

    def __init__(self, url: str, users: list[str], items: list[str]) -> None:
        self.url, self._users, self._items = url, users, items
        self._lock = threading.Lock()
        self.acknowledged: set[Pair] = set()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.milliseconds: dict[str, list[float]] = defaultdict(list)

    def run(self, count: int, seconds: float, pause: float) -> None:
        """Let `count` clients do what they do for some seconds, from now on counted anew."""
        self.statuses.clear()
        self.milliseconds.clear()
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(count) as pool:
            for _ in range(count):
                pool.submit(self._act, random.Random(random.random()), end, pause)

    def _act(self, rng: random.Random, end: float, pause: float) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while time.monotonic() < end:
                kind = rng.choices(["list", "words", "review"], [80, 5, 15])[0]
                sent = time.perf_counter()
                status = self._ask(client, kind, rng)
                with self._lock:
                    self.milliseconds[kind].append(1000 * (time.perf_counter() - sent))
                    self.statuses[kind, status] += 1
                time.sleep(rng.expovariate(1 / pause) if pause else 0)

    def _ask(self, client: httpx.Client, kind: str, rng: random.Random) -> int:
        if kind == "list":
            path = f"/v1/users/{rng.choice(self._users)}/recommendations"
            return client.get(path).status_code
        if kind == "words":
            body = {"likes": f"quiet place, no {rng.choice(self._items)}"}
            return client.post("/v1/recommendations", json=body).status_code
        return self.review(client, f"new {rng.getrandbits(60):x}", rng.choice(self._items))

    def review(self, client: httpx.Client, user: str, item: str) -> int:
        """Send a review, and remember it if it was acknowledged."""
        text = f"Good soup, slow service, says {user}."
        body = {"user": user, "item": item, "rating": 4, "text": text}
        status = client.post("/v1/reviews", json=body).status_code
        if status == 201:
            with self._lock:
                self.acknowledged.add((user, item))
        return status

    def lost(self) -> int:
        """How many acknowledged reviews the service does not know."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            return sum(
                item not in client.get(f"/v1/users/{user}").json()["reviewed"]
                for user, item in self.acknowledged
            )


def watch(url: str, stop: Event, results: SimpleQueue[list[float]]) -> None:
    """Ask whether the service lives until told to stop; then send milliseconds, infinity for a failure."""
    taken = []
    with httpx.Client(base_url=url, timeout=10) as client:
        while not stop.is_set():
            for path in ("/health", "/metrics"):
                start = time.perf_counter()
                good = client.get(path).status_code == 200
                taken.append(1000 * (time.perf_counter() - start) if good else float("inf"))
            time.sleep(0.1)
    results.put(taken)


def measure(clients: Clients, options: argparse.Namespace, stall: Stall) -> None:
    """A minute while all is well, and a minute while something hangs."""
    clients.run(options.clients, 10, options.pause)  # whatever is slow the first time
    usual = run_watched(clients, options, "all is well")
    with stall():
        time.sleep(1)
        stalled = run_watched(clients, options, f"the {options.what} hangs")
    print(f"lists: p99 {stalled / usual:.2f} times that while all is well")
    released, user = time.monotonic(), f"last {random.getrandbits(60):x}"
    with httpx.Client(base_url=clients.url, timeout=60) as client:
        while clients.review(client, user, "the last place") != 201:
            time.sleep(0.1)
        print(f"reviews are taken again after {time.monotonic() - released:.1f} s")
    print(f"{len(clients.acknowledged):,} reviews acknowledged, {clients.lost()} lost")


def run_watched(clients: Clients, options: argparse.Namespace, name: str) -> float:
    """Let clients act while another process watches; print, and return the p99 of lists."""
    context = get_context("spawn")
    stop, results = context.Event(), context.SimpleQueue()
    watcher = context.Process(target=watch, args=[clients.url, stop, results])
    watcher.start()
    clients.run(options.clients, options.seconds, options.pause)
    stop.set()
    health = results.get()
    watcher.join()
    print(f"{name}, {options.clients} clients, {options.seconds:g} s:")
    for kind, taken in sorted({**clients.milliseconds, "/health and /metrics": health}.items()):
        p50, p99 = np.percentile(taken, [50, 99])
        counts = {status: n for (what, status), n in clients.statuses.items() if what == kind}
        print(f"  {kind}: {len(taken):,}, p50 {p50:,.0f} ms, p99 {p99:,.0f} ms {counts or ''}")
    return float(np.percentile(clients.milliseconds["list"], 99))


if __name__ == "__main__":
    main()
