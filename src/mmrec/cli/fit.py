"""`mmrec fit`, `demo` and `evaluate`: train a model, compare it with baselines, measure it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mmrec.cli.options import (
    AsJson,
    Data,
    Model,
    load_reviews,
    print_json,
    print_table,
    print_tables,
)
from mmrec.config import Config, ReadConfig
from mmrec.console import console
from mmrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mmrec.evaluation.metrics import Metrics


def fit(
    data: Data,
    /,
    *,
    out: Path = Path("model"),
    peers: bool = False,
    json: AsJson = False,
    config: Config = Config(),
) -> None:
    """Train on reviews; save a model and a report.

    Trains the paper's two models (`baseline`, `proposed`) and ours (`mmrec`), prints their metrics
    beside those of simple baselines on test reviews, and saves the model that --features names.

    Args:
        out: folder for the model and report.html.
        peers: also train logistic regression, LightGBM, matrix factorisation and DeepFM, and make
            lists by ALS, BPR and, of up to 10,000 items, EASE.
    """
    names, policy = ["baseline", "proposed"], config.evidence.policy
    # Effects of users and items are fitted for each fold, so `mmrec` needs that policy.
    if policy == "fold":
        names.append("mmrec")
    elif config.ranker.features == "mmrec":
        mend = "mmrec needs the policy fold; add --features proposed"
        raise ConfigError(f"--policy {policy}: {mend}")
    else:
        console.print(f"- mmrec is left out: it needs the policy fold, not {policy}")
    result = _train_and_save(data, out, config, names, quiet=json, peers=peers)
    if json:
        print_json(result)


def demo(*, out: Path = Path("demo"), seed: int = 0, json: AsJson = False) -> None:
    """Generate a city, train on its reviews, and recommend ten places to one of its users.

    Args:
        out: folder for the city, the model and report.html.
        seed: of the city and of everything after it.
    """
    from mmrec.cli.recommend import print_recommendations
    from mmrec.data.synthetic.city import write_sample_city
    from mmrec.recommender.recommender import Recommender

    city = out / "sample-city"
    console.print("generating Sample City")
    data = write_sample_city(city, seed=seed)
    config = Config(seed=seed, read=ReadConfig(items=city / "places.jsonl"))
    names = ["baseline", "proposed", "mmrec"]
    result = _train_and_save(data, out, config, names, quiet=json)
    recommender = Recommender.load(out)
    user = recommender.saved.reviews.table["user"].mode().sort()[0]
    rows = recommender.recommend(user, 10)
    if json:
        print_json({**result, "user": user, "recommendations": rows.to_dicts()})
        return
    print_recommendations(rows, f"Ten places for {user}, who wrote the most reviews")
    console.print(f"next, see the city in a browser: mmrec serve {out}", markup=False)


def _train_and_save(
    data: Path, folder: Path, config: Config, names: list[str], quiet: bool, peers: bool = False
) -> dict[str, Any]:
    """Do what `fit` does, and return what it prints as JSON."""
    from mmrec.experiments.compare import assess, audit_features, compare
    from mmrec.experiments.report.fit_report import write_report
    from mmrec.experiments.report.html import command_line
    from mmrec.experiments.report.list_tables import list_sentence, short_list_table
    from mmrec.pipeline import open_models
    from mmrec.recommender.recommender import Recommender

    models = open_models(config)  # first: a wrong --store is noticed at once
    reviews = load_reviews(data, config, folder)
    comparison = compare(reviews, config, models, names, trained_baselines=peers)
    assessment = assess(comparison)
    audits = audit_features(comparison)
    lists = assessment.lists
    assert lists is not None  # `compare` makes them
    if not quiet:
        table = short_list_table(lists)
        table.notes.append(list_sentence(lists).removesuffix("."))
        print_tables([table])
        title = f"{data}: {len(comparison.prepared.split.test):,} test reviews, seed {config.seed}"
        _print_scores(comparison.metrics, title)
    point = assessment.operating_points[config.ranker.features]
    advice = "no threshold keeps the bound on validation reviews; raise --max-fpr"
    if point["threshold"] <= 1:
        advice = (
            "recommending from {threshold:.0%} on (chosen on validation reviews) would have "
            "recommended {tpr:.0%} of the liked and {fpr:.0%} of the disliked test reviews"
        ).format(**point)
    outcomes = {name: str(audit) for name, audit in audits.items()}
    for remark in (advice, *comparison.remarks, *map(": ".join, outcomes.items())):
        console.print(f"- {remark}", markup=False)  # errors of servers are in some
    trained = comparison.trained[config.ranker.features]
    Recommender(config, models).use_model(trained, reviews, comparison.metrics).save(folder)
    page, command = folder / "report.html", command_line()
    write_report(comparison, assessment, audits, page, command=command, read=len(reviews))
    console.print(f"model: {folder}   report: {page}", markup=False)
    result = {"data": str(data), "seed": config.seed, "model": str(folder)}
    result |= {"report": str(page), "reviews": len(reviews), "rejected": reviews.rejects.height}
    result |= {"lists": lists.as_dict()}
    result |= {"test": comparison.metrics, "assessment": assessment.as_dict(), "audit": outcomes}
    return result | {"remarks": comparison.remarks, "seconds": comparison.seconds}


def evaluate(
    model: Model,
    data: Path | None = None,
    /,
    *,
    json: AsJson = False,
    read: ReadConfig = ReadConfig(),
) -> None:
    """Print the metrics of a saved model on its test reviews, or on new reviews.

    Args:
        data: new reviews; those that the model has seen are left out. Without it, the metrics
            on the test reviews of `mmrec fit` are printed again.
    """
    import numpy as np

    from mmrec.data import read_reviews
    from mmrec.evaluation.metrics import evaluate as measure
    from mmrec.recommender.recommender import Recommender

    recommender = Recommender.load(model)
    like_rating, name = recommender.config.like_rating, recommender.config.ranker.features
    metrics = recommender.saved.evaluation.metrics
    title = f"{model}: test reviews of the fit"
    if data is not None:
        reviews, seen = read_reviews(data, read).table, recommender.saved.reviews.table
        key = ["user", "item", "rating", "text"]
        fresh = reviews.join(seen, on=key, how="anti", maintain_order="left")
        if left_out := reviews.height - fresh.height:
            console.print(f"{left_out:,} reviews that the model has seen were left out")
        label = (fresh["rating"] >= like_rating).to_numpy()
        if not label.any() or label.all():
            need = "metrics need both likes and dislikes among them"
            raise DataError(f"{data}: {len(label):,} reviews are new to the model; {need}")
        probability = recommender.predict(fresh["user"].to_list(), fresh["item"].to_list())
        # Not below the threshold of the weights, so that every review is a like.
        weights = recommender.saved.model.class_weights
        share = float((seen["rating"] >= like_rating).to_numpy().mean())
        always = max(share, weights[0] / sum(weights))
        metrics = {"always like": measure(label, np.full(len(label), always), weights)}
        metrics[name] = measure(label, probability, weights)
        title = f"{data}: {fresh.height:,} reviews that the model has not seen"
    remarks = recommender.config.warnings()
    for remark in remarks:
        console.print(f"- {remark}", markup=False)
    if json:
        print_json({"model": str(model), "scores": metrics, "remarks": remarks})
    else:
        _print_scores(metrics, title)


def _print_scores(scores: Mapping[str, Metrics], title: str) -> None:
    """Print the metrics of several models, the best of every column in bold."""
    from mmrec.evaluation.metrics import METRICS

    # Short titles, so that the table fits 80 columns.
    titles = {
        "accuracy": "acc.", "fpr": "FPR", "loss": "loss", "auc": "AUC", "ap_negative": "AP-",
        "fpr_at_80": "FPR@80", "fpr_at_90": "FPR@90", "fpr_at_95": "FPR@95",
    }  # fmt: skip
    rows: dict[str, list[str | Text]] = {name: [name] for name in scores}
    for metric in METRICS:
        if metric.name not in titles:
            continue
        best_of = max if metric.higher_is_better else min
        best = best_of(values[metric.name] for values in scores.values())
        for name, values in scores.items():
            style = "bold" if values[metric.name] == best else ""
            rows[name].append(Text(f"{values[metric.name]:.3f}", style))
    legend = (
        "acc., FPR, loss: at the threshold of the weighted loss. AUC: area under the ROC "
        "curve. AP-: average precision of finding dislikes. FPR@90: share of the dislikes "
        "that would be recommended when 90% of the likes are."
    )
    print_table(["model", *titles.values()], rows.values(), title, caption=legend)
