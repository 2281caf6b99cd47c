"""`mmrec reproduce`: the paper's experiment, in its way and honestly."""

from __future__ import annotations

from pathlib import Path

from mmrec.cli.options import AsJson, PaperSettings, print_json, print_table, show_rejects
from mmrec.console import console

__all__ = ["reproduce"]

_PAPER = PaperSettings()


def reproduce(
    data: Path,
    /,
    *,
    repeats: int = 5,
    protocols: str = "paper,honest",
    out: Path = Path("reproduce"),
    json: AsJson = False,
    config: PaperSettings = _PAPER,
) -> None:
    """The paper's experiment: two models, two losses, three dropouts, repeated; in its way and honestly.

    The protocol `paper` leaves one review out of averages, summarises all, and picks epochs on test; `honest`
    hears no row's own review, and picks on valid. Other settings are the paper's, but for flags given here.
    A stack is all runs of a model in a protocol.

    Args:
        data: as for `mmrec fit`.
        repeats: trainings of every setting, each from a seed of its own.
        protocols: `paper`, `honest`, or both; they set what may be heard, and what picks the epoch.
        out: folder for reproduce.json; after a stop, the same command goes on with the stack under way.
        json: print one JSON object instead of tables.
    """
    from mmrec.data import read_reviews
    from mmrec.experiments import reproduce as experiment
    from mmrec.experiments.report.experiment_pages import reproduce_page
    from mmrec.experiments.report.html import command_line
    from mmrec.pipeline import open_models

    reviews = read_reviews(data, config.read)
    show_rejects(reviews, out)
    names, path = protocols.replace(" ", "").split(","), out / "reproduce.json"
    stacks = experiment.reproduce(reviews, config, open_models(config), path, repeats, names)
    if json:
        print_json({"data": str(data), "seed": config.seed, "repeats": repeats, "stacks": stacks})
    for table in () if json else experiment.reproduction_tables(stacks):
        print_table(table)
    page = reproduce_page(stacks, path.with_suffix(".html"), command_line())
    console.print(f"results: {path}   report: {page}", markup=False)
