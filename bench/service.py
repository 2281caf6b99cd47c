"""Measures the service: `python bench/service.py MODEL MEASUREMENT`, on an idle machine.

load: clients request recommendations over loopback; prints requests a second, latency and memory.
kills: the server is killed with SIGKILL while clients post reviews, and started again; prints how many
acknowledged reviews were lost.
mixed: clients ask for lists, pages and photos, and send reviews and photos of many pixels, while 300
connections send half a request; prints responses, latency of lists, memory and size of the log.
restart: the service starts with --reviews live reviews; prints how soon it answers, and is ready.

MODEL is a folder that `mmrec fit` wrote; its live reviews are not changed. With --postgresql, reviews are
stored in a PostgreSQL of Debian's package, which is started for this.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path

import httpx2 as httpx
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mmrec.recommender.loading import load_recommender
from serving import MMREC, free_port, postgresql


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("measurement", choices=("load", "kills", "mixed", "restart"))
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--reviews", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=20)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = f"sqlite:///{folder}/live.sqlite"
        database = stack.enter_context(postgresql()) if arguments.postgresql else file
        server = Server(arguments.model, database)
        print(f"{platform.machine()}, {os.cpu_count()} cores; {database.partition(':')[0]}")
        try:
            if arguments.measurement == "load":
                load(server, arguments.model, arguments.clients, arguments.seconds)
            elif arguments.measurement == "mixed":
                mixed(server, arguments.model, arguments.clients, arguments.seconds)
            elif arguments.measurement == "restart":
                restart(server, arguments.model, Path(folder) / "live.sqlite", arguments.reviews)
            else:
                kills(server, arguments.model, arguments.times)
        finally:
            server.kill()


class Server:
    """A process of `mmrec serve`, which keeps its port when it is started again."""

    def __init__(self, model: Path, database: str, *flags: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = [*MMREC, "serve", str(model), "--port", str(port), "--database", database]
        self._command += ["--per-minute", "10000000", *flags]
        self.log = Path(tempfile.gettempdir()) / f"mmrec-serve-{port}.log"
        self.start()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log)
        while True:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                if self.process.poll() is not None:
                    sys.exit("the service does not start; try `mmrec serve` by hand")
                time.sleep(0.1)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def load(server: Server, model: Path, clients: int, seconds: float) -> None:
    """Request recommendations for random users by many clients at once."""
    users = load_recommender(model).reviews.table["user"].unique().sort().to_list()
    before, end = server.megabytes, time.monotonic() + seconds

    def request_lists(seed: int) -> list[tuple[int, float]]:
        rng, timings = random.Random(seed), []
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while time.monotonic() < end:
                start = time.perf_counter()
                response = client.get(f"/v1/users/{rng.choice(users)}/recommendations")
                timings.append((response.status_code, time.perf_counter() - start))
        return timings

    with ThreadPoolExecutor(clients) as pool:
        timings = [*chain.from_iterable(pool.map(request_lists, range(clients)))]
    milliseconds = np.array([seconds for _, seconds in timings]) * 1000
    failures = sum(status >= 500 for status, _ in timings)
    rate = len(timings) / seconds
    print(f"{clients} clients, {seconds:g} s: {rate:,.0f} requests/s, {failures} responses of 5xx")
    print(
        f"p50 {np.percentile(milliseconds, 50):.0f} ms, p99 {np.percentile(milliseconds, 99):.0f} ms"
    )
    print(f"memory {before:,.0f} MB before, {server.megabytes:,.0f} MB after")


def mixed(server: Server, model: Path, clients: int, seconds: float) -> None:
    """All kinds of requests at once, beside clients who never finish one."""
    reviews = load_recommender(model).reviews.table
    users, items = (reviews[name].unique().sort().to_list() for name in ("user", "item"))
    file = io.BytesIO()
    Image.new("RGBA", (4900, 4900), (200, 30, 60, 200)).save(file, "PNG")
    end, statuses, lists, start = 0.0, Counter(), [], server.megabytes

    def send_requests(seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for number in range(1_000_000):
                if time.monotonic() > end:
                    return
                user, item, sent = rng.choice(users), rng.choice(items), time.perf_counter()
                kind = rng.choices(["list", "page", "photo", "review", "upload"], [80, 8, 8, 3, 1])[
                    0
                ]
                if kind == "list":
                    response = client.get(f"/v1/users/{user}/recommendations")
                    lists.append(1000 * (time.perf_counter() - sent))
                elif kind == "page":
                    response = client.get("/", params={"user": user})
                elif kind == "photo":
                    response = client.get(f"/photos/{item}")
                elif kind == "review":
                    review = {
                        "user": f"new {seed}",
                        "item": item,
                        "rating": 4,
                        "text": "Good soup.",
                    }
                    response = client.post("/v1/reviews", json=review)
                else:
                    photo = {"photo": ("a.png", file.getvalue(), "image/png")}
                    form = {"item": f"new {seed} {number}"}
                    response = client.post("/v1/items", data=form, files=photo)
                statuses[kind, response.status_code] += 1

    def hold_half_open() -> None:
        address, head = (
            ("127.0.0.1", int(server.url.rpartition(":")[2])),
            b"GET / HTTP/1.1\r\nHost:",
        )
        lines: list[socket.socket] = []
        while time.monotonic() < end:
            lines.append(socket.create_connection(address, timeout=60))
            lines[-1].sendall(head)
            if len(lines) > 300:
                lines.pop(0).close()
            time.sleep(0.01)

    for name, duration in (("warm-up", 10.0), ("measured", seconds)):
        statuses.clear()
        lists.clear()
        before, end = server.megabytes, time.monotonic() + duration
        with ThreadPoolExecutor(clients + 1) as pool:
            jobs = [pool.submit(send_requests, hash((name, seed))) for seed in range(clients)]
            jobs.append(pool.submit(hold_half_open))
            for job in jobs:
                job.result()
    for (kind, status), count in sorted(statuses.items()):
        print(f"{kind}: {count:,} responses of {status}")
    p50, p99 = np.percentile(lists, [50, 99])
    print(f"lists: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    after = server.megabytes
    print(
        f"memory {start:,.0f} MB at the start, {before:,.0f} after a warm-up, {after:,.0f} at the end"
    )
    lines = server.log.read_text().splitlines()
    others = [line for line in lines if not line.startswith("{")]
    size = sum(map(len, others)) / 1024
    print(f"log: {len(lines):,} lines, {size:,.1f} kB of them not of requests")


def restart(server: Server, model: Path, database: Path, count: int) -> None:
    """Start with many live reviews in an SQLite database: some that were sent, and copies by other users."""
    table = load_recommender(model).reviews.table
    items, texts = table["item"].unique().sort().to_list(), table["text"].head(500).to_list()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for number, text in enumerate(texts):
            review = {"user": "u", "item": items[number % len(items)], "rating": 1 + number % 5}
            client.post("/v1/reviews", json=review | {"text": text[:10_000]}).raise_for_status()
    server.kill()
    names = "review_id, user_id, item_id, rating, text, note, vectors, encoder, created"
    with closing(sqlite3.connect(database)) as connection:
        sent = connection.execute(f"SELECT {names} FROM live_reviews WHERE rating > 0").fetchall()
        rows = (
            (
                f"{number}",
                f"user {number // 5}",
                random.choice(items),
                *sent[number % len(sent)][3:],
            )
            for number in range(count)
        )
        connection.executemany(
            f"INSERT INTO live_reviews ({names}) VALUES (?,?,?,?,?,?,?,?,?)", rows
        )
        connection.commit()
    before = time.monotonic()
    thread = threading.Thread(target=server.start)
    thread.start()
    while True:
        try:
            httpx.get(f"{server.url}/health", timeout=5).raise_for_status()
            break
        except httpx.TransportError:
            time.sleep(0.05)
    print(
        f"{count:,} live reviews: /health answers after {time.monotonic() - before:.1f} s", end=", "
    )
    thread.join()
    print(f"ready after {time.monotonic() - before:.1f} s; {server.megabytes:,.0f} MB")


def kills(server: Server, model: Path, times: int) -> None:
    """Post reviews while the server is killed and restarted; count the acknowledged ones that are lost."""
    items = load_recommender(model).reviews.table["item"].unique().sort().to_list()
    acknowledged: set[tuple[str, str]] = set()
    done, lock = threading.Event(), threading.Lock()

    def post_reviews(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=server.url, timeout=10) as client:
            for visit in range(1_000_000):
                if done.is_set():
                    return
                review = {
                    "user": f"client {number} {visit // 20}",
                    "item": rng.choice(items),
                    "rating": 4,
                    "text": f"Visit {visit}: good soup, slow service.",
                }
                try:
                    response = client.post("/v1/reviews", json=review)
                except httpx.TransportError:
                    time.sleep(0.1)
                    continue
                if response.status_code == 201:
                    with lock:
                        acknowledged.add((review["user"], review["item"]))

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(post_reviews, number)
        for _ in range(times):
            time.sleep(random.uniform(0.5, 2))
            server.kill()
            server.start()
        done.set()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        reviewed = {
            user: client.get(f"/v1/users/{user}").json()["reviewed"] for user, _ in acknowledged
        }
    lost = sum(item not in reviewed[user] for user, item in acknowledged)
    print(f"{times} kills, {len(acknowledged):,} pairs acknowledged, {lost} lost")


if __name__ == "__main__":
    main()
