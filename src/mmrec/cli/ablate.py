"""`mmrec ablate`: what each group of inputs adds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmrec.cli.options import AsJson, Settings, print_json, print_table, show_rejects

__all__ = ["ablate"]


def ablate(
    data: Path,
    /,
    *,
    model: Literal["mmrec", "proposed", "baseline"] | None = None,
    seeds: int = 3,
    shapley: bool = False,
    compare: Literal["words", "none"] = "words",
    summaries: bool = False,
    out: Path = Path("ablation"),
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Train models without each group of inputs, and on each alone; after a stop, the same command goes on.

    Args:
        data: as for `mmrec fit`.
        model: in place of --features.
        seeds: splits, each with evidence and training of its own, from --seed on.
        shapley: train all coalitions of groups, up to 127 a seed, for exact Shapley values.
        compare: whether to try whole reviews and image vectors in the place of what was read out of them.
        summaries: try summaries in the place of notes too; a fold needs a summary of every user and item.
        out: folder for ablation.json and ablation.html.
        json: print one JSON object instead of tables.
    """
    from mmrec.data import read_reviews
    from mmrec.errors import ConfigError
    from mmrec.experiments import ablation
    from mmrec.experiments.report.experiment_pages import ablation_page
    from mmrec.experiments.report.html import command_line
    from mmrec.experiments.significance import BOOTSTRAPPED_METRICS
    from mmrec.pipeline import open_models

    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: there must be at least 1")
    reviews = read_reviews(data, config.read)
    show_rejects(reviews, out)
    ranker = config.ranker.model_copy(update={"features": model or config.ranker.features})
    own = config.model_copy(update={"ranker": ranker})
    flags = {
        "shapley": shapley,
        "words": compare == "words",
        "summaries": summaries,
        "bootstrap": seeds == 1,
    }
    extras = {name for name, enabled in flags.items() if enabled}
    results = ablation.ablate(
        reviews, own, open_models(own), out / "ablation.json", seeds=seeds, extras=extras
    )
    if json:
        rows = {key: ablation.metric_rows(results, key) for key in BOOTSTRAPPED_METRICS}
        shares, synergy = ablation.shapley_values(results), ablation.synergy(results)
        print_json({"rows": rows, "shapley": shares, "synergy": synergy, "seeds": results})
    for table in () if json else ablation.ablation_tables(results):
        print_table(table)
    ablation_page(results, own.ranker.features, out / "ablation.html", command_line())
