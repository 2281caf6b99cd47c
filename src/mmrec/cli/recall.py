"""`mmrec recall`: what scoring in two stages finds of what exact scoring finds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mmrec.cli.options import AsJson, CatalogueSettings, print_json, stdout
from mmrec.errors import ConfigError

if TYPE_CHECKING:
    from mmrec.experiments.recall import Recall

__all__ = ["print_recall", "recall"]


def recall(
    model: Path,
    /,
    *,
    users: int = 200,
    n: int = 10,
    seed: int = 0,
    json: AsJson = False,
    catalogue: CatalogueSettings = CatalogueSettings(),
) -> None:
    """Score the catalogue for some users in both ways; try `--exact-items 1` where a model has few items.

    Args:
        model: folder that `mmrec fit` wrote.
        users: how many, drawn by chance.
        n: length of the lists.
        seed: of the draw.
        json: print one JSON object instead of a table.
    """
    import numpy as np

    from mmrec.experiments.recall import measure
    from mmrec.recommender.recommender import Recommender

    if users < 1 or n < 1:
        raise ConfigError(f"--users {users} --n {n}: at least one of each is wanted")
    recommender = Recommender.load(model, catalogue)
    known = recommender.features.user.unknown_index
    some = np.random.default_rng(seed).choice(known, size=min(users, known), replace=False)
    found = measure(recommender.scorer, some, n)
    if json:
        print_json(asdict(found))
    else:
        print_recall(found)


def print_recall(found: Recall) -> None:
    """Print what was measured as a table."""
    table = Table(title=f"The best {found.n} of {found.items:,} items", title_justify="left")
    for column in ("", f"recall@{found.n}", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column else "left")
    ways = {
        "scan": "two stages (scan)",
        "index": "two stages (index)",
        "exact": "by default (exact)",
    }
    table.add_row(
        ways[found.how], f"{found.recall:.3f}", *(f"{one:.1f}" for one in found.milliseconds)
    )
    table.add_row("exact", "1", *(f"{one:.1f}" for one in found.exact_milliseconds))
    stdout.print(table)
    stdout.print(f"Peak memory of the process: {found.gigabytes:.2f} GiB")
