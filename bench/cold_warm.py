"""Times `mmrec fit` on a whole data set with an empty store, and again with the store that it left.

Usage: python bench/cold_warm.py REVIEWS [any option of `mmrec fit`]

Prints wall seconds and the peak memory of the process; run it on an otherwise idle machine.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Wall seconds and peak memory (GB) of one fit in a process of its own."""
    command = [sys.executable, "-c", "from mmrec.cli import main; main()", "fit", *arguments]
    start = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--out", str(folder / "model"), "--store", str(folder / "store.sqlite")]
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit("the fit failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1e6


def main() -> None:
    """Fit cold, fit warm, print both."""
    with tempfile.TemporaryDirectory() as name:
        figures = {kind: run(sys.argv[1:], Path(name)) for kind in ("cold", "warm")}
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for kind, (seconds, memory) in figures.items():
        print(f"{kind} store: {seconds:.0f} s, peak {memory:.2f} GB")
    print(f"cold / warm: {figures['cold'][0] / figures['warm'][0]:.1f}")


if __name__ == "__main__":
    main()
