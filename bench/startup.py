"""Times `mmrec --help` and `import mmrec` beside imports that most commands do later.

Usage: python bench/startup.py [--rounds N]

Each runs in a process of its own, in turn; prints the median of the rounds, also without the start
of Python.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Start each command in turn, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    commands = {"python": [sys.executable, "-c", ""]}
    commands["mmrec --help"] = [str(Path(sys.executable).with_name("mmrec")), "--help"]
    for module in ("mmrec", "polars", "torch", "sentence_transformers"):
        commands[f"import {module}"] = [sys.executable, "-c", f"import {module}"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    python = statistics.median(seconds["python"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:30} {median:5.2f} s, {max(median - python, 0):5.2f} s more than Python alone")


if __name__ == "__main__":
    main()
