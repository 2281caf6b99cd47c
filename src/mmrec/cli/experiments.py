"""`mmrec reproduce`, `ablate`, `sweep`, `cold-start`: experiments that train many times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from mmrec.cli.options import AsJson, Data, load_reviews, print_json, print_tables
from mmrec.config import Config, PaperConfig
from mmrec.console import console
from mmrec.errors import ConfigError

if TYPE_CHECKING:
    from mmrec.data.schema import EntityKind
    from mmrec.experiments.checkpoint import Checkpoint

Seeds = Annotated[int, Parameter(validator=Number(gte=1), help="Number of seeds, from --seed.")]


def reproduce(
    data: Data,
    /,
    *,
    repeats: int = 5,
    protocols: str = "paper,honest",
    out: Path = Path("reproduce"),
    json: AsJson = False,
    config: PaperConfig = PaperConfig(),
) -> None:
    """Train the paper's two models with two losses and three dropout rates, several times each.

    The protocol `paper` leaves one review out of averages, summarises all reviews, and selects
    epochs on test rows. The protocol `honest` hides each fold's reviews from its own features, and
    selects on validation rows. Other settings are the paper's unless flags change them. All runs of
    a model in a protocol train as one stack; the same command continues a stopped run after its
    last complete stack.

    Args:
        repeats: runs of every combination of settings, each from its own seed.
        protocols: `paper`, `honest`, or both.
        out: folder for reproduce.json and reproduce.html.
    """
    from mmrec.experiments import reproduce as experiment
    from mmrec.experiments.report.html import command_line

    path, names = out / "reproduce.json", protocols.replace(" ", "").split(",")
    stacks = experiment.reproduce(_open(data, config, path), repeats, names)
    result = {"data": str(data), "seed": config.seed, "repeats": repeats, "stacks": stacks}
    print_json(result) if json else print_tables(experiment.reproduction_tables(stacks))
    page = experiment.reproduce_page(stacks, path.with_suffix(".html"), command_line())
    console.print(f"results: {path}   report: {page}", markup=False)


def ablate(
    data: Data,
    /,
    *,
    seeds: Seeds = 3,
    shapley: bool = False,
    compare: Literal["words", "none"] = "words",
    summaries: bool = False,
    out: Path = Path("ablation"),
    json: AsJson = False,
    config: Config = Config(),
) -> None:
    """Train without each group of features, and on each alone; continue a stopped run.

    Args:
        shapley: train all coalitions of groups, up to 127 per seed, for exact Shapley values.
        compare: whether to also try whole reviews and image vectors in place of annotations.
        summaries: also try summaries in place of notes: one for every user, item and fold.
        out: folder for ablation.json and ablation.html.
    """
    from mmrec.experiments import ablation
    from mmrec.experiments.report.html import command_line

    path = out / "ablation.json"
    checkpoint = _open(data, config, path)
    flags = {"shapley": shapley, "words": compare == "words", "summaries": summaries}
    extras = {name for name, is_set in flags.items() if is_set}
    results = ablation.ablate(checkpoint, seeds, extras)
    if json:
        rows = {key: ablation.metric_rows(results, key) for key in ("auc", "fpr_at_90")}
        values, synergy = ablation.shapley_values(results), ablation.synergy(results)
        print_json({"rows": rows, "shapley": values, "synergy": synergy, "seeds": results})
    else:
        print_tables(ablation.ablation_tables(results))
    page, model = path.with_suffix(".html"), config.ranker.features
    ablation.ablation_page(results, model, page, command_line())


def sweep(
    data: Data,
    /,
    *,
    over: Literal["imbalance", "K", "policy", "reduction", "llm", "captioner"],
    values: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    seeds: Seeds = 3,
    out: Path = Path("sweep"),
    json: AsJson = False,
    config: Config = Config(),
) -> None:
    """Train and test with several values of one setting; continue a stopped run.

    Args:
        over: the setting: number of likes for each dislike in the evidence (`imbalance`),
            --folds (`K`), --policy, --reduction, --llm or --captioner.
        values: in place of the usual ones.
        out: folder for sweep-OVER.json and sweep-OVER.html.
    """
    from mmrec.experiments import sweep as experiment
    from mmrec.experiments.report.html import command_line

    # `mmrec` has neither: it needs the policy `fold`, and trains its reduction jointly.
    if over in ("policy", "reduction") and config.ranker.features == "mmrec":
        console.print(f"- --over {over} applies to the paper's model, so `proposed` is trained")
        config = config.changed("ranker", features="proposed")
    path = out / f"sweep-{over}.json"
    checkpoint = _open(data, config, path)
    if not values:
        usual = [*experiment.SWEPT_SETTINGS[over][2]]
        if "past" in usual and checkpoint.reviews.table["time"].is_null().all():
            usual.remove("past")  # it needs times
        values = tuple(usual)
    if not values:
        raise ConfigError(f"--over {over} needs --values, each spelled as for --{over}")
    results = experiment.sweep(checkpoint, over, values, seeds)
    print_json(results) if json else print_tables([experiment.sweep_table(results, over)])
    page, model = path.with_suffix(".html"), config.ranker.features
    experiment.sweep_page(results, over, model, page, command_line())


def cold_start(
    data: Data,
    /,
    *,
    hold_out: Literal["items", "users", "both"] = "both",
    splits: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    entities: Annotated[int, Parameter(validator=Number(gte=1))] = 200,
    out: Path = Path("cold-start"),
    json: AsJson = False,
    config: Config = Config(),
) -> None:
    """Hold out whole items and users, add their first reviews live, and judge the later ones.

    Ours stands beside ours without words, the bias model and LightGBM (extra `peers`), with 0, 1,
    2, 3, 5 and 10 live reviews of each; the same command continues a stopped run.

    Args:
        hold_out: what is new.
        splits: number of fits, each without other items or users.
        entities: how many a split holds out at most, and never more than a fifth of all.
        out: folder for cold-start.json and cold-start.html.
    """
    from mmrec.experiments import cold_start as experiment
    from mmrec.experiments.report.html import command_line

    path = out / "cold-start.json"
    kinds: dict[str, list[EntityKind]] = {"items": ["item"], "users": ["user"]}
    checkpoint = _open(data, config, path)
    held_out = kinds.get(hold_out, ["item", "user"])
    results = experiment.cold_start(checkpoint, held_out, splits, entities)
    tables = experiment.cold_start_tables(results)
    print_json({"data": str(data), "results": results}) if json else print_tables(tables)
    page = experiment.cold_start_page(results, path.with_suffix(".html"), command_line())
    console.print(f"results: {path}   report: {page}", markup=False)


def _open(data: Path, config: Config, path: Path) -> Checkpoint:
    """The reviews, models and earlier results of an experiment."""
    from mmrec.experiments.checkpoint import Checkpoint
    from mmrec.pipeline import open_models

    models = open_models(config)  # first: a wrong --store is noticed at once
    return Checkpoint(path, load_reviews(data, config, path.parent), config, models)
