"""Measures the service: `python bench/service.py MODEL load|kills [--postgresql]`, on an idle machine.

load: so many clients ask for recommendations over loopback for some seconds; requests a second, times,
memory.
kills: the server is killed with -9 while clients post reviews, and started again; whether every review that
was acknowledged is there in the end.

MODEL is a folder that `mmrec fit` wrote; its live reviews are left alone. With --postgresql, reviews live in
a PostgreSQL of Debian's package that is started for this.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2 as httpx
import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from serving import MMREC, postgresql


def main() -> None:
    """Measure one thing; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("what", choices=("load", "kills"))
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = f"sqlite:///{folder}/live.sqlite"
        database = stack.enter_context(postgresql()) if given.postgresql else file
        server = Server(given.model, database)
        print(f"{platform.machine()}, {os.cpu_count()} cores; {database.partition(':')[0]}")
        try:
            if given.what == "load":
                load(server, given.model, given.clients, given.seconds)
            else:
                kills(server, given.model, given.times)
        finally:
            server.kill()


class Server:
    """`mmrec serve` in a process of its own, on one port through all its lives."""

    def __init__(self, model: Path, database: str) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = [*MMREC, "serve", str(model), "--port", str(port), "--database", database]
        self._command += ["--per-minute", "10000000"]
        self.start()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self._command, **quiet)
        while True:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                if self.process.poll() is not None:
                    sys.exit("the service does not start; try `mmrec serve` by hand")
                time.sleep(0.1)

    def kill(self) -> None:
        """Kill it with -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def megabytes(self) -> float:
        """Memory that it holds now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def load(server: Server, model: Path, clients: int, seconds: float) -> None:
    """Recommendations for random users, by so many clients at once."""
    users = pl.read_parquet(model / "reviews.parquet")["user"].unique().sort().to_list()
    before, end = server.megabytes, time.monotonic() + seconds

    def client(seed: int) -> list[tuple[int, float]]:
        rng, found = random.Random(seed), []
        with httpx.Client(base_url=server.url, timeout=60) as one:
            while time.monotonic() < end:
                start = time.perf_counter()
                status = one.get(f"/v1/users/{rng.choice(users)}/recommendations").status_code
                found.append((status, time.perf_counter() - start))
        return found

    with ThreadPoolExecutor(clients) as pool:
        found = [one for own in pool.map(client, range(clients)) for one in own]
    times = np.array([took for _, took in found]) * 1000
    failed = sum(status >= 500 for status, _ in found)
    print(
        f"{clients} clients, {seconds:g} s: {len(found) / seconds:,.0f} requests/s, {failed} answers of 5xx"
    )
    print(f"p50 {np.percentile(times, 50):.0f} ms, p99 {np.percentile(times, 99):.0f} ms")
    print(f"memory {before:,.0f} MB before, {server.megabytes:,.0f} MB after")


def kills(server: Server, model: Path, times: int) -> None:
    """Post reviews, kill, start again; then look whether all that was acknowledged is there."""
    items = pl.read_parquet(model / "reviews.parquet")["item"].unique().sort().to_list()
    acknowledged: set[tuple[str, str]] = set()
    done, lock = threading.Event(), threading.Lock()

    def client(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=server.url, timeout=10) as one:
            for at in range(1_000_000):
                if done.is_set():
                    return
                said = {
                    "user": f"client {number} {at // 20}",
                    "item": rng.choice(items),
                    "rating": 4,
                }
                said["text"] = f"Visit {at}: good soup, slow service."
                try:
                    answer = one.post("/v1/reviews", json=said)
                except httpx.TransportError:
                    time.sleep(0.1)
                    continue
                if answer.status_code == 201:
                    with lock:
                        acknowledged.add((said["user"], said["item"]))

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(client, number)
        for _ in range(times):
            time.sleep(random.uniform(0.5, 2))
            server.kill()
            server.start()
        done.set()
    with httpx.Client(base_url=server.url, timeout=60) as one:
        known = {user: one.get(f"/v1/users/{user}").json()["reviewed"] for user, _ in acknowledged}
    lost = sum(item not in known[user] for user, item in acknowledged)
    print(f"{times} kills, {len(acknowledged):,} pairs acknowledged, {lost} lost")


if __name__ == "__main__":
    main()
