"""Measures calls to a language model server: throughput, crashes, and a whole data set.

Usage: python bench/calls.py throughput [--calls 2000] [--latency 0.2] [--in-flight 64]
       python bench/calls.py kills [--times 100]
       python bench/calls.py whole REVIEWS [any option of `mmrec profile`]

The server is the one of the tests: a process on loopback that speaks OpenAI's API and answers by rules,
so all that is measured is ours. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chat_server import Behaviour, Server, serve
from mmrec.cache.store import Store
from mmrec.config import AnnotationConfig, Config, LanguageConfig
from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.annotator import Annotator
from mmrec.llm.factory import open_language_model
from mmrec.llm.types import Note

PARTS = (
    "Great ramen, friendly staff.",
    "The queue was terrible.",
    "Cheap and tasty.",
    "Overpriced, slow service.",
)


def texts(count: int) -> list[str]:
    """Different reviews of a few sentences."""
    rng = random.Random(0)
    return [
        " ".join([*rng.choices(PARTS, k=rng.randint(1, 6)), f"Visit {at}."]) for at in range(count)
    ]


def read(url: str, store: Store, count: int, in_flight: int) -> tuple[list[Note], int]:
    """Notes of so many reviews, and the calls that it took."""
    config = Config(language=LanguageConfig(llm=f"openai:test-model@{url}", in_flight=in_flight))
    model = open_language_model(config, Encoder(config.encoder, store), store)
    notes = Annotator(model, store, config.language, AnnotationConfig()).write_notes(texts(count))
    return notes, model.chat.spend.calls  # type: ignore[attr-defined]


def throughput(calls: int, latency: float, in_flight: int) -> None:
    """Answers a second against the ideal of all slots always taken; then the same again."""
    ideal = calls * latency / in_flight
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        with serve(Behaviour(latency=latency), journal) as server:
            read(server.url, Store(), 1, 1)  # loads the client
            journal.write_text("")
            store = Store(Path(folder) / "store.sqlite")
            start = time.perf_counter()
            notes, made = read(server.url, store, calls, in_flight)
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            again, repeated = read(server.url, store, calls, in_flight)
            warm = time.perf_counter() - start
            times = [float(line.split()[1]) for line in journal.read_text().splitlines()]
    assert notes == again
    calling = max(times) - min(times) + latency
    print(
        f"{made:,} calls at {latency * 1000:.0f} ms, {in_flight} in flight: {seconds:.2f} s, "
        f"ideal {ideal:.2f} s"
    )
    print(
        f"first call to last answer {calling:.2f} s: {ideal / calling:.1%} of the ideal throughput"
    )
    print(f"with reading the answers and all: {ideal / seconds:.1%}")
    print(f"second run: {repeated} calls, {warm:.2f} s")


def kills(times: int) -> None:
    """Kill a reading process at random moments; count what was lost, and what was paid for twice."""
    rng = random.Random(0)
    calls, in_flight = 200 * times, 32
    with tempfile.TemporaryDirectory() as folder:
        journal, path = Path(folder) / "journal", Path(folder) / "store.sqlite"
        with serve(Behaviour(latency=0.1), journal) as server:
            kept: set[bytes] = set()
            lost = running = 0
            for _ in range(times):
                before = lines(journal)
                child = subprocess.Popen(
                    [sys.executable, __file__, "read", server.url, str(path), str(calls)]
                )
                while lines(journal) == before and child.poll() is None:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.6))
                running += child.poll() is None
                child.send_signal(signal.SIGKILL)
                child.wait()
                now = keys(path)
                lost += len(kept - now)
                kept = now
            done_before = len(kept)
            notes, _ = read(server.url, Store(path), calls, 64)
            answered = server.answered()
            fresh, _ = read(server.url, Store(), calls, 64)
    twice = sum(count - 1 for count in answered.values())
    print(
        f"{times} kills, {running} of them of a process at work; "
        f"{done_before:,} of {calls:,} answers were there after the last one"
    )
    print(
        f"answers lost: {lost}; paid for twice: {twice:,} ({twice / times:.1f} a kill, {in_flight} in flight)"
    )
    print(f"result equals an uninterrupted run: {notes == fresh}")


def lines(journal: Path) -> int:
    """Answers that the server has given."""
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def keys(path: Path) -> set[bytes]:
    """What is in a store."""
    store = Store(path)
    found = {key for (key,) in store.db.execute("SELECT key FROM results")}
    store.close()
    return found


def whole(arguments: list[str]) -> None:
    """`mmrec profile` of a data set through the server: calls, tokens, time and memory."""
    with tempfile.TemporaryDirectory() as folder, serve(Behaviour(latency=0.05)) as server:
        store = ["--store", str(Path(folder) / "store.sqlite")]
        command = [
            sys.executable,
            "-c",
            "from mmrec.cli import main; main()",
            "profile",
            *arguments,
            *store,
        ]
        command += ["--llm", f"openai:test-model@{server.url}", "--in-flight", "64", "--json"]
        for run in ("first", "second"):
            measured(run, command, server)
        size = sum(
            file.stat().st_size for file in Path(folder).glob("store.sqlite*") if file.is_file()
        )
        print(f"store: {size / 1e6:.0f} MB")


def measured(run: str, command: list[str], server: Server) -> None:
    """One run in a process of its own."""
    before = server.stats()["status"].get("200", 0)
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    result = json.loads(child.stdout.read())
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit("the run failed")
    seconds = time.perf_counter() - start
    calls = server.stats()["status"].get("200", 0) - before
    print(
        f"{run} run: {calls:,} calls in {seconds:.0f} s, peak memory {usage.ru_maxrss / 1e6:.2f} GB"
    )
    print(json.dumps(result))


def main() -> None:
    """Measure what is asked for."""
    if sys.argv[1:2] == ["read"]:
        url, path, count = sys.argv[2:]
        read(url, Store(Path(path)), int(count), 32)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("throughput", "kills", "whole"))
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--times", type=int, default=100)
    given, rest = parser.parse_known_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if given.what == "throughput":
        throughput(given.calls, given.latency, given.in_flight)
    elif given.what == "kills":
        kills(given.times)
    else:
        whole(rest)


if __name__ == "__main__":
    main()
