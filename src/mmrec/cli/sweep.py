"""`mmrec sweep`: one setting over a range of values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mmrec.cli.options import AsJson, Settings, print_json, print_table, show_rejects
from mmrec.console import console

__all__ = ["sweep"]


def sweep(
    data: Path,
    /,
    *,
    over: Literal["imbalance", "K", "policy", "reduction", "llm", "captioner"],
    values: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    seeds: int = 3,
    model: Literal["mmrec", "proposed", "baseline"] | None = None,
    out: Path = Path("sweep"),
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Train and test with one setting at each of several values; after a stop, the same command goes on.

    Args:
        data: as for `mmrec fit`.
        over: likes to each dislike among known reviews (`imbalance`), --folds (`K`), --policy, --reduction,
            --llm or --captioner.
        values: in place of the usual ones.
        seeds: splits at each value, each with evidence and training of its own, from --seed on.
        model: in place of --features; of `policy` and `reduction` it is `proposed` rather than `mmrec`.
        out: folder for sweep-OVER.json and sweep-OVER.html.
        json: print one JSON object instead of a table.
    """
    from mmrec.data import read_reviews
    from mmrec.errors import ConfigError
    from mmrec.experiments import sweep as sweeping
    from mmrec.experiments.report.experiment_pages import sweep_page
    from mmrec.experiments.report.html import command_line
    from mmrec.pipeline import open_models

    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: there must be at least 1")
    reviews = read_reviews(data, config.read)
    show_rejects(reviews, out)
    features = model or config.ranker.features
    if over in ("policy", "reduction") and features == "mmrec":
        features = "proposed"
        console.print(
            f"- --over {over} is measured on `proposed`, the paper's model, not on `mmrec`"
        )
    own = config.model_copy(
        update={"ranker": config.ranker.model_copy(update={"features": features})}
    )
    timeless = reviews.table["time"].is_null().all()
    usual = [value for value in sweeping.SWEPT_SETTINGS[over][2] if value != "past" or not timeless]
    if not (values or usual):
        raise ConfigError(f"--over {over} needs --values, each spelled as for --{over}")
    path = out / f"sweep-{over}.json"
    points = sweeping.sweep(reviews, own, open_models(own), path, over, values or usual, seeds)
    print_json(points) if json else print_table(sweeping.sweep_table(points, over))
    sweep_page(points, over, features, path.with_suffix(".html"), command_line())
