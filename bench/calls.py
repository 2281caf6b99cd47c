"""Measures calls to a language model server: throughput, crashes, and a whole data set.

Usage: python bench/calls.py throughput [--calls 2000] [--latency 0.2] [--in-flight 64]
       python bench/calls.py kills [--times 100]
       python bench/calls.py whole REVIEWS [any option of `mmrec annotate`]

The server is that of the tests: it speaks OpenAI's API and answers by rules, in this process. The client
runs in a process of its own, so all that is measured is ours. Run it on an otherwise idle machine.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chat_server import Behaviour, Server, serve
from mmrec.cache.store import Store
from mmrec.config import AnnotationConfig, Config, LanguageConfig
from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.annotator import Annotator
from mmrec.llm.factory import open_language_model
from mmrec.llm.types import Note


def review_texts(count: int) -> list[str]:
    """Different reviews of a few sentences."""
    rng = random.Random(0)
    sentences = (
        "Great ramen, friendly staff.",
        "The queue was terrible.",
        "Cheap and tasty.",
        "Overpriced, slow service.",
    )
    texts = []
    for number in range(count):
        chosen = rng.choices(sentences, k=rng.randint(1, 6))
        texts.append(" ".join([*chosen, f"Visit {number}."]))
    return texts


def annotate(url: str, store: Store, count: int, in_flight: int) -> tuple[list[Note], int]:
    """Notes of so many reviews, and the calls that it took."""
    config = Config(language=LanguageConfig(llm=f"openai:test-model@{url}", in_flight=in_flight))
    model = open_language_model(config, Encoder(config.encoder, store), store)
    annotator = Annotator(model, store, config.language, AnnotationConfig())
    notes = annotator.write_notes(review_texts(count))
    return notes, model.costs.calls  # type: ignore[attr-defined]


def client_command(url: str, path: Path, count: int, in_flight: int) -> list[str]:
    """Runs `time_client` in a process of its own."""
    return [sys.executable, __file__, "client", url, str(path), str(count), str(in_flight)]


def time_client(url: str, path: str, count: str, in_flight: str) -> None:
    """Annotate twice, and print calls and seconds of both runs."""
    annotate(url, Store(), 1, 1)  # loads the client
    store = Store(Path(path))
    result: dict[str, Any] = {"calls": [], "seconds": [], "begin": time.time()}
    for _ in range(2):
        start = time.perf_counter()
        calls = annotate(url, store, int(count), int(in_flight))[1]
        result["calls"].append(calls)
        result["seconds"].append(time.perf_counter() - start)
    print(json.dumps(result))


def measure_throughput(calls: int, latency: float, in_flight: int) -> None:
    """Answers a second against the ideal of all slots always taken; then the same again."""
    ideal = calls * latency / in_flight
    with tempfile.TemporaryDirectory() as folder, serve(Behaviour(latency=latency)) as server:
        command = client_command(server.url, Path(folder) / "store.sqlite", calls, in_flight)
        result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        times = [moment for _, moment in server.answers if moment > result["begin"]]
    first, second = result["seconds"]
    calling = max(times) - min(times) + latency
    print(
        f"{result['calls'][0]:,} calls at {latency * 1000:.0f} ms, {in_flight} in flight: {first:.2f} s, "
        f"ideal {ideal:.2f} s"
    )
    print(
        f"first call to last answer {calling:.2f} s: {ideal / calling:.1%} of the ideal throughput"
    )
    print(f"with reading the answers and all: {ideal / first:.1%}")
    print(f"second run: {result['calls'][1]} calls, {second:.2f} s")


def measure_kills(times: int) -> None:
    """Kill a client at random moments; count what was lost, and what was paid for twice."""
    rng = random.Random(0)
    calls, in_flight = 200 * times, 32
    with tempfile.TemporaryDirectory() as folder, serve(Behaviour(latency=0.1)) as server:
        path = Path(folder) / "store.sqlite"
        stored: set[bytes] = set()
        lost = running = 0
        for _ in range(times):
            before = len(server.answers)
            child = subprocess.Popen(client_command(server.url, path, calls, in_flight))
            while len(server.answers) <= before + 1 and child.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.6))
            running += child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
            now = stored_keys(path)
            lost += len(stored - now)
            stored = now
        notes, _ = annotate(server.url, Store(path), calls, 64)
        answered = server.answered()
        fresh, _ = annotate(server.url, Store(), calls, 64)
    # Each client annotates one review without the store, to load its modules.
    twice = sum(answered.values()) - len(answered) - times
    print(
        f"{times} kills, {running} of them of a process at work; "
        f"{len(stored):,} of {calls:,} answers were there after the last one"
    )
    print(
        f"answers lost: {lost}; paid for twice: {twice:,} ({twice / times:.1f} a kill, {in_flight} in flight)"
    )
    print(f"result equals an uninterrupted run: {notes == fresh}")


def stored_keys(path: Path) -> set[bytes]:
    """Keys of the results in a store."""
    store = Store(path)
    keys = {key for (key,) in store.db.execute("SELECT key FROM results")}
    store.close()
    return keys


def measure_data_set(arguments: list[str]) -> None:
    """`mmrec annotate` of a data set through the server: calls, tokens, time and memory."""
    with tempfile.TemporaryDirectory() as folder, serve(Behaviour(latency=0.05)) as server:
        store = ["--store", str(Path(folder) / "store.sqlite")]
        command = [
            sys.executable,
            "-c",
            "from mmrec.cli import main; main()",
            "annotate",
            *arguments,
            *store,
        ]
        command += ["--llm", f"openai:test-model@{server.url}", "--in-flight", "64", "--json"]
        for run in ("first", "second"):
            measure_run(run, command, server)
        size = sum(
            file.stat().st_size for file in Path(folder).glob("store.sqlite*") if file.is_file()
        )
        print(f"store: {size / 1e6:.0f} MB")


def measure_run(run: str, command: list[str], server: Server) -> None:
    """One run in a process of its own."""
    before = len(server.answers)
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    result = json.loads(child.stdout.read())
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit("the run failed")
    seconds = time.perf_counter() - start
    calls = len(server.answers) - before
    print(
        f"{run} run: {calls:,} calls in {seconds:.0f} s, peak memory {usage.ru_maxrss / 1e6:.2f} GB"
    )
    print(json.dumps(result))


def main() -> None:
    """Measure what is asked for."""
    if sys.argv[1:2] == ["client"]:
        time_client(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("throughput", "kills", "whole"))
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--times", type=int, default=100)
    options, rest = parser.parse_known_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if options.what == "throughput":
        measure_throughput(options.calls, options.latency, options.in_flight)
    elif options.what == "kills":
        measure_kills(options.times)
    else:
        measure_data_set(rest)


if __name__ == "__main__":
    main()
