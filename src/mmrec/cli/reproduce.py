"""`mmrec reproduce`: repeat the paper's experiment, with and without its leaks."""

from __future__ import annotations

from pathlib import Path

from mmrec.cli.options import AsJson, PaperSettings, load_reviews, print_json, print_table
from mmrec.console import console

__all__ = ["reproduce"]


def reproduce(
    data: Path,
    /,
    *,
    repeats: int = 5,
    protocols: str = "paper,honest",
    out: Path = Path("reproduce"),
    json: AsJson = False,
    config: PaperSettings = PaperSettings(),
) -> None:
    """Train the paper's two models with two losses and three dropout rates, several times each.

    The protocol `paper` leaves one review out of averages, summarises all reviews, and selects epochs on
    test rows. The protocol `honest` hides each fold's reviews from its own features, and selects on
    validation rows. Other settings are the paper's unless flags change them. All runs of a model in a
    protocol train as one stack; the same command continues a stopped run after its last complete stack.

    Args:
        data: as for `mmrec fit`.
        repeats: runs of every combination of settings, each from its own seed.
        protocols: `paper`, `honest`, or both.
        out: folder for reproduce.json and reproduce.html.
        json: print one JSON object instead of tables.
    """
    from mmrec.experiments import reproduce as experiment
    from mmrec.experiments.report.experiment_pages import reproduce_page
    from mmrec.experiments.report.html import command_line
    from mmrec.pipeline import open_models

    reviews = load_reviews(data, config, out)
    names, path = protocols.replace(" ", "").split(","), out / "reproduce.json"
    stacks = experiment.reproduce(reviews, config, open_models(config), path, repeats, names)
    if json:
        print_json({"data": str(data), "seed": config.seed, "repeats": repeats, "stacks": stacks})
    else:
        for table in experiment.reproduction_tables(stacks):
            print_table(table)
    page = reproduce_page(stacks, path.with_suffix(".html"), command_line())
    console.print(f"results: {path}   report: {page}", markup=False)
