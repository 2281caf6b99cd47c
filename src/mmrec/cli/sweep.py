"""`mmrec sweep`: train and test with several values of one setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mmrec.cli.options import AsJson, Settings, load_reviews, print_json, print_table
from mmrec.console import console

__all__ = ["sweep"]


def sweep(
    data: Path,
    /,
    *,
    over: Literal["imbalance", "K", "policy", "reduction", "llm", "captioner"],
    values: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    seeds: int = 3,
    out: Path = Path("sweep"),
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Train and test with several values of one setting; the same command continues a stopped run.

    Args:
        data: as for `mmrec fit`.
        over: the setting: number of likes for each dislike in the evidence (`imbalance`), --folds (`K`),
            --policy, --reduction, --llm or --captioner.
        values: in place of the usual ones.
        seeds: number of splits at each value, each with its own evidence and training, from --seed on.
        out: folder for sweep-OVER.json and sweep-OVER.html.
        json: print one JSON object instead of a table.
    """
    from mmrec.errors import ConfigError
    from mmrec.experiments import sweep as experiment
    from mmrec.experiments.report.experiment_pages import sweep_page
    from mmrec.experiments.report.html import command_line
    from mmrec.pipeline import open_models

    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: there must be at least 1")
    reviews = load_reviews(data, config, out)
    if over in ("policy", "reduction") and config.ranker.features == "mmrec":
        console.print(f"- --over {over} applies to the paper's model, so `proposed` is trained")
        ranker = config.ranker.model_copy(update={"features": "proposed"})
        config = config.model_copy(update={"ranker": ranker})
    if not values:
        values = tuple(experiment.SWEPT_SETTINGS[over][2])
        if reviews.table["time"].is_null().all():
            values = tuple(value for value in values if value != "past")
    if not values:
        raise ConfigError(f"--over {over} needs --values, each spelled as for --{over}")
    path = out / f"sweep-{over}.json"
    results = experiment.sweep(reviews, config, open_models(config), path, over, values, seeds)
    print_json(results) if json else print_table(experiment.sweep_table(results, over))
    page = path.with_suffix(".html")
    sweep_page(results, over, config.ranker.features, page, command_line())
