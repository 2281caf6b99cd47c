"""Measures calls to a language model server: throughput, and a whole data set.

Usage: python bench/calls.py throughput [--calls 2000] [--latency 0.2] [--in-flight 64]
       python bench/calls.py whole REVIEWS [any option of `mmrec annotate`]

The server of the tests, which has OpenAI's API and answers by rules, runs in this process; the
client runs in a process of its own, so that only ours is measured. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chat_server import Behaviour, serve
from mmrec.cache.store import Store
from mmrec.config import Config, LanguageConfig
from mmrec.llm.annotator import Annotator
from mmrec.llm.factory import open_language_model
from mmrec.llm.types import Note


def annotate(url: str, store: Store, count: int, in_flight: int) -> tuple[list[Note], int]:
    """Notes of different reviews of a few sentences, and the number of calls."""
    rng = random.Random(0)
    sentences = ("Great ramen, friendly staff.", "The queue was terrible.", "Cheap and tasty.")
    texts = []
    for number in range(count):
        drawn = rng.choices(sentences, k=rng.randint(1, 6))
        texts.append(" ".join([*drawn, f"Visit {number}."]))
    config = Config(language=LanguageConfig(llm=f"openai:test-model@{url}", in_flight=in_flight))
    model = open_language_model(config, store)
    notes = Annotator(model, store, config).write_notes(texts)
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
        result["calls"].append(annotate(url, store, int(count), int(in_flight))[1])
        result["seconds"].append(time.perf_counter() - start)
    print(json.dumps(result))


def measure_throughput(calls: int, latency: float, in_flight: int) -> None:
    """Answers per second, compared with all slots being in use all the time; then a second run."""
    ideal = calls * latency / in_flight
    with tempfile.TemporaryDirectory() as folder, serve(Behaviour(latency=latency)) as server:
        command = client_command(server.url, Path(folder) / "store.sqlite", calls, in_flight)
        result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        times = [moment for _, moment in server.answers if moment > result["begin"]]
    first, second = result["seconds"]
    calling = max(times) - min(times) + latency
    print(
        f"{result['calls'][0]:,} calls of {latency * 1000:.0f} ms, {in_flight} in flight: {first:.2f} s"
    )
    print(
        f"first call to last answer: {calling:.2f} s, {ideal / calling:.1%} of the ideal throughput"
    )
    print(f"with all else: {ideal / first:.1%} of the ideal, which takes {ideal:.2f} s")
    print(f"second run: {result['calls'][1]} calls, {second:.2f} s")


def measure_data_set(arguments: list[str]) -> None:
    """Calls, tokens, time and memory of `mmrec annotate` on a data set, run twice."""
    program = [sys.executable, "-c", "from mmrec.cli import main; main()"]
    with tempfile.TemporaryDirectory() as folder, serve(Behaviour(latency=0.05)) as server:
        path = Path(folder) / "store.sqlite"
        flags = [
            "--store",
            str(path),
            "--llm",
            f"openai:test-model@{server.url}",
            "--in-flight",
            "64",
        ]
        for run in ("first", "second"):
            before, start = len(server.answers), time.perf_counter()
            command = [*program, "annotate", *arguments, *flags, "--json"]
            child = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert child.stdout is not None
            result = json.loads(child.stdout.read())
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                sys.exit("the run failed")
            seconds, calls = time.perf_counter() - start, len(server.answers) - before
            memory = usage.ru_maxrss / 1e6
            print(f"{run} run: {calls:,} calls in {seconds:.0f} s, peak memory {memory:.2f} GB")
            print(json.dumps(result))
        size = sum(
            file.stat().st_size for file in path.parent.glob("store.sqlite*") if file.is_file()
        )
        print(f"store: {size / 1e6:.0f} MB")


def main() -> None:
    """Run one measurement."""
    if sys.argv[1:2] == ["client"]:
        time_client(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measurement", choices=("throughput", "whole"))
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--in-flight", type=int, default=64)
    options, rest = parser.parse_known_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if options.measurement == "throughput":
        measure_throughput(options.calls, options.latency, options.in_flight)
    else:
        measure_data_set(rest)


if __name__ == "__main__":
    main()
