"""How long `mmrec --help` and `import mmrec` take, beside imports that most of its commands do later.

Usage: python bench/startup.py [--rounds N]

Each is a process of its own, in turn; the median of the rounds, and the time of Python alone taken off it.
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

WAYS = {
    "python": [sys.executable, "-c", ""],
    "mmrec --help": [str(Path(sys.executable).with_name("mmrec")), "--help"],
    "import mmrec": [sys.executable, "-c", "import mmrec"],
    "import polars": [sys.executable, "-c", "import polars"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import sentence_transformers": [sys.executable, "-c", "import sentence_transformers"],
}


def main() -> None:
    """Start each in turn; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, command in WAYS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    alone = statistics.median(seconds["python"])
    for name, own in seconds.items():
        median = statistics.median(own)
        print(f"{name:30} {median:5.2f} s, {max(median - alone, 0):5.2f} s more than Python alone")


if __name__ == "__main__":
    main()
