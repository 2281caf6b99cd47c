"""Kills what reads reviews with a language model: `python bench/read_kills.py annotate|serve --kills 100`.

annotate: `mmrec annotate` is killed with SIGKILL at random moments, and at last reads what is left.
serve: `mmrec serve` is killed while clients send reviews, each again until it is acknowledged; with
--postgresql, reviews are stored in a PostgreSQL of Debian's package, which is started for this.

The model's server runs in this process and counts what it is asked about each text: a call costs money
once it is asked, answered or not. Status 1 if anything was lost, or paid twice without need.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import httpx2 as httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chat_server import Behaviour, serve
from mmrec import Config, Recommender, read_reviews
from mmrec.cache.store import Store, default_store_path
from mmrec.config import LanguageConfig, ReadConfig, TrainingConfig
from mmrec.data.synthetic.city import write_sample_city
from service import Server
from serving import MMREC, postgresql

IN_FLIGHT = 16
CLIENTS = 6


def text(number: int) -> str:
    """A review whose number shows in requests, and in answers, which begin as it does."""
    sentences = ("Great ramen, friendly staff.", "The queue was terrible.", "Cheap and tasty.")
    return f"Visit {number}. {sentences[number % 3]} {sentences[number // 3 % 3]}"


def numbers(content: bytes) -> list[int]:
    """The numbers of the reviews that some bytes are about."""
    return [int(found) for found in re.findall(rb"Visit (\d+)\.", content)]


class Ledger:
    """What the model was asked and what it answered, and what was stored whenever a reader was killed."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._kills: list[tuple[float, float, set[int]]] = []
        server.reset()

    def stored(self) -> set[int]:
        """Numbers of the reviews whose answers are in the store."""
        with closing(Store(default_store_path())) as store:
            return {
                numbers(value)[0]
                for (value,) in store.select("SELECT value FROM results")
                if numbers(value)
            }

    def kill(self, process: subprocess.Popen[Any]) -> None:
        """Kill a reader; note when, until when its last calls may have arrived, and what it had stored."""
        moment = time.time()
        process.kill()
        process.wait()
        stored = self.stored()
        self._kills.append((moment, time.time(), stored))

    def lost_or_wasted(self) -> int:
        """Print the account; the number of answers that were lost, or asked for twice without need."""
        asks, answers = defaultdict[int, list[float]](list), defaultdict[int, list[float]](list)
        for raw, moment in self._server.asks:
            asks[numbers(raw)[0]].append(moment)
        digests = {digest: numbers(raw)[0] for digest, raw in self._server.bodies.items()}
        for digest, moment in self._server.answers:
            answers[digests[digest]].append(moment)
        under_way = answered = lost = needless = 0
        delays, interrupted = [0.0], set[float]()
        for number, moments in asks.items():
            for first, second in pairwise(moments):
                lost += any(number in stored for _, end, stored in self._kills if end < second)
                between = [kill for kill in self._kills if first <= kill[1] < second]
                needless += not between
                if between and number not in between[0][2]:
                    under_way += 1
                    killed = between[0][0]
                    interrupted.add(killed)
                    early = [killed - at for at in answers[number] if first <= at < killed]
                    answered += bool(early)
                    delays += early
        asked = sum(map(len, asks.values()))
        print(f"{len(self._kills)} kills, {len(interrupted)} of them while calls were under way")
        print(
            f"{len(asks):,} texts, {len(asks.keys() - self.stored())} of them without a stored answer"
        )
        print(
            f"{asked:,} asks, {len(self._server.answers):,} answered; paid twice: {asked - len(asks):,},"
        )
        print(f"  under way at the kill: {under_way:,}, of these {answered} answered, but not yet")
        print(f"  stored (answered at most {1000 * max(delays):.0f} ms before the kill)")
        print(f"  without a kill in between: {needless}")
        print(f"stored answers that were asked for again: {lost}")
        return lost + needless + (asked - len(asks) - under_way)


def kill_annotate(folder: Path, kills: int, rng: random.Random) -> int:
    """Kill `mmrec annotate`; the number of answers lost or wasted."""
    with serve(Behaviour(latency=0.4)) as server:
        ledger, total = Ledger(server), 32 * kills
        rows = []
        for number in range(total):
            row = {"user": f"u{number % 99}", "item": f"i{number % 50}", "rating": 1 + number % 5}
            rows.append({**row, "text": text(number)})
        data = folder / "reviews.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        words = ["annotate", str(data), "--llm", f"openai:test-model@{server.url}"]
        line = [*MMREC, *words, "--in-flight", str(IN_FLIGHT)]
        for kill in range(kills):
            before = server.requests
            process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            while server.requests == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.5))
            ledger.kill(process)
            print(f"\r{kill + 1}/{kills}", end="", file=sys.stderr, flush=True)
        subprocess.run(line, check=True, capture_output=True)
        print()
        return ledger.lost_or_wasted() + len({*range(total)} - ledger.stored())


def kill_serve(folder: Path, kills: int, rng: random.Random, database: str) -> int:
    """Kill `mmrec serve`; the number of answers and acknowledged reviews lost or wasted."""
    with serve(Behaviour()) as server:
        data = write_sample_city(folder / "city", users=40, items=20, reviews=300)
        read = ReadConfig(items=folder / "city" / "places.jsonl")
        language = LanguageConfig(llm=f"openai:test-model@{server.url}")
        config = Config(read=read, language=language, training=TrainingConfig(epochs=1))
        recommender = Recommender(config).fit(read_reviews(data, read))
        items, model = recommender.state.dataset.data.items, recommender.save(folder / "model")
        server.set(latency=0.3)
        ledger, service = Ledger(server), Server(model, database, "--trust")
        acknowledged, visits, done = dict[int, str](), count(), threading.Event()

        def send_reviews(client: httpx.Client) -> None:
            for number in visits:
                review = {"user": f"u{number}", "item": items[number % len(items)], "rating": 4}
                review |= {"text": text(number), "review_id": f"r{number}"}
                while number not in acknowledged:
                    try:
                        if client.post("/v1/reviews", json=review).status_code == 201:
                            acknowledged[number] = str(review["item"])
                    except httpx.TransportError:
                        time.sleep(0.05)
                if done.is_set():
                    return

        with ExitStack() as stack:
            clients = [httpx.Client(base_url=service.url, timeout=60) for _ in range(CLIENTS)]
            for client in clients:
                stack.enter_context(client)
            pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
            sending = [pool.submit(send_reviews, client) for client in clients]
            for kill in range(kills):
                before = server.requests
                while server.requests == before:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 1.5))
                ledger.kill(service.process)
                service.start()
                print(f"\r{kill + 1}/{kills}", end="", file=sys.stderr, flush=True)
            done.set()
            for future in sending:
                future.result()
        print()
        lost = 0
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for number, item in acknowledged.items():
                lost += item not in client.get(f"/v1/users/u{number}").json()["reviewed"]
        service.kill()
        print(f"{len(acknowledged):,} reviews acknowledged, {lost} of them lost")
        return lost + ledger.lost_or_wasted()


def main() -> None:
    """Kill, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=["annotate", "serve"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["MMREC_CACHE"] = str(folder)
        if options.subject == "annotate":
            faults = kill_annotate(folder, options.kills, rng)
        else:
            file = f"sqlite:///{folder}/live.sqlite"
            database = stack.enter_context(postgresql()) if options.postgresql else file
            faults = kill_serve(folder, options.kills, rng, database)
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
