"""`mmrec ablate`: measure what each group of features adds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmrec.cli.options import AsJson, Settings, load_reviews, print_json, print_table

__all__ = ["ablate"]


def ablate(
    data: Path,
    /,
    *,
    seeds: int = 3,
    shapley: bool = False,
    compare: Literal["words", "none"] = "words",
    summaries: bool = False,
    out: Path = Path("ablation"),
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Train without each group of features and on each alone; the same command continues a stopped run.

    Args:
        data: as for `mmrec fit`.
        seeds: number of splits, each with its own evidence and training, from --seed on.
        shapley: train all coalitions of groups, up to 127 for each seed, for exact Shapley values.
        compare: whether to also try whole reviews and image vectors in place of annotations.
        summaries: also try summaries in place of notes, which needs one for every user, item and fold.
        out: folder for ablation.json and ablation.html.
        json: print one JSON object instead of tables.
    """
    from mmrec.errors import ConfigError
    from mmrec.experiments import ablation
    from mmrec.experiments.report.experiment_pages import ablation_page
    from mmrec.experiments.report.html import command_line
    from mmrec.experiments.significance import BOOTSTRAPPED_METRICS
    from mmrec.pipeline import open_models

    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: there must be at least 1")
    reviews = load_reviews(data, config, out)
    # One split has no spread over seeds, so its intervals come from a bootstrap over users.
    flags = {
        "shapley": shapley,
        "words": compare == "words",
        "summaries": summaries,
        "bootstrap": seeds == 1,
    }
    extras = {name for name, is_set in flags.items() if is_set}
    path = out / "ablation.json"
    results = ablation.ablate(
        reviews, config, open_models(config), path, seeds=seeds, extras=extras
    )
    if json:
        rows = {key: ablation.metric_rows(results, key) for key in BOOTSTRAPPED_METRICS}
        values, synergy = ablation.shapley_values(results), ablation.synergy(results)
        print_json({"rows": rows, "shapley": values, "synergy": synergy, "seeds": results})
    else:
        for table in ablation.ablation_tables(results):
            print_table(table)
    ablation_page(results, config.ranker.features, path.with_suffix(".html"), command_line())
