"""`mmrec fit`, `demo` and `evaluate`: train a model, compare it with baselines, measure it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mmrec.cli.options import (
    AsJson,
    Data,
    Model,
    Trust,
    load_reviews,
    print_json,
    print_table,
    print_tables,
    stdout,
)
from mmrec.config import Config, ReadConfig
from mmrec.console import console
from mmrec.errors import AuditError, ConfigError

if TYPE_CHECKING:
    from mmrec.evaluation.metrics import FitEvaluation, Metrics, Verdict
    from mmrec.experiments.new_reviews import NewReviewsEvaluation
    from mmrec.features.audit import Audit


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
    beside those of simple baselines on test reviews, and saves the model that --features names, or
    the bias model in place of `mmrec` if validation reviews do not prove that it is better.

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
    from mmrec.evaluation.statistics import as_plain
    from mmrec.experiments.compare import assess, audit_features, compare
    from mmrec.experiments.report.fit_report import write_report
    from mmrec.experiments.report.html import command_line
    from mmrec.experiments.report.list_tables import list_sentence, short_list_table
    from mmrec.pipeline import open_models
    from mmrec.recommender.recommender import Recommender

    models = open_models(config)  # first: a wrong --store is noticed at once
    reviews = load_reviews(data, config, folder)
    comparison = compare(reviews, config, models, names, trained_baselines=peers)
    audits = audit_features(comparison)
    outcomes = {name: str(audit) for name, audit in audits.items()}
    _refuse_violations(audits)
    assessment = assess(comparison)
    lists, recommender = assessment.lists, Recommender(config, models)
    recommender.use_model(comparison.chosen, reviews, comparison.metrics)
    evaluation = recommender.saved.evaluation
    if not quiet:
        _print_verdict(evaluation.verdict)
        table = short_list_table(lists)
        table.notes.append(list_sentence(lists).removesuffix("."))
        print_tables([table])
        title = f"{data}: {len(comparison.prepared.split.test):,} test reviews, seed {config.seed}"
        _print_scores(comparison.metrics, title)
    for remark in (
        _threshold_remark(evaluation),
        *comparison.remarks,
        *map(": ".join, outcomes.items()),
    ):
        console.print(f"- {remark}", markup=False)  # errors of servers are in some
    recommender.save(folder)
    page, command = folder / "report.html", command_line()
    verdict, read = evaluation.verdict, len(reviews)
    write_report(comparison, assessment, audits, page, command=command, verdict=verdict, read=read)
    console.print(f"model: {folder}   report: {page}", markup=False)
    result: dict[str, Any] = {"verdict": asdict(evaluation.verdict) if evaluation.verdict else None}
    result |= {"data": str(data), "seed": config.seed, "model": str(folder)}
    result |= {"report": str(page), "reviews": len(reviews), "rejected": reviews.rejects.height}
    assessed = as_plain(vars(assessment) | {"lists": vars(lists)})
    result |= {"lists": assessed.pop("lists"), "test": comparison.metrics}
    result |= {"assessment": assessed, "audit": outcomes}
    return result | {"remarks": comparison.remarks, "seconds": comparison.seconds}


def _refuse_violations(audits: Mapping[str, Audit]) -> None:
    """Raise an AuditError, before anything is saved, if rows have seen what they must not see."""
    problems = [f"{name}: {audit}" for name, audit in audits.items() if audit.violations]
    if problems:
        mend = "Nothing was saved, since the figures of such a model are wrong"
        raise AuditError(
            f"{'; '.join(problems)}. {mend}; this is a fault of mmrec, please report it"
        )


def _threshold_remark(evaluation: FitEvaluation) -> str:
    if evaluation.threshold > 1:
        return "no threshold keeps the bound on validation reviews; raise --max-fpr"
    rates = evaluation.test_rates
    return (
        f"recommending from {evaluation.threshold:.0%} on (chosen on validation reviews) would have "
        f"recommended {rates.tpr:.0%} of the liked and {rates.fpr:.0%} of the disliked test reviews"
    )


def evaluate(
    model: Model,
    data: Path | None = None,
    /,
    *,
    trust: Trust = False,
    json: AsJson = False,
    read: ReadConfig = ReadConfig(),
) -> None:
    """Print the metrics of a saved model on its test reviews, or on new reviews.

    Args:
        data: new reviews; those that the model has seen are left out. Without it, the metrics
            on the test reviews of `mmrec fit` are printed again.
    """
    from mmrec.data import read_reviews
    from mmrec.evaluation.statistics import as_plain
    from mmrec.experiments.new_reviews import evaluate_new_reviews
    from mmrec.recommender.recommender import Recommender

    recommender = Recommender.load(model, trust=trust)
    result: dict[str, Any] = {"model": str(model), "remarks": recommender.config.warnings()}
    title, evaluation = f"{model}: test reviews of the fit", recommender.saved.evaluation
    metrics, verdict, on_new = evaluation.metrics, evaluation.verdict, None
    if data is not None:
        reviews, seen = read_reviews(data, read).table, recommender.saved.reviews.table
        key = ["user", "item", "rating", "text"]
        fresh = reviews.join(seen, on=key, how="anti", maintain_order="left")
        if left_out := reviews.height - fresh.height:
            console.print(f"{left_out:,} reviews that the model has seen were left out")
        on_new = evaluate_new_reviews(recommender, fresh, str(data))
        metrics, verdict = on_new.metrics, on_new.verdict
        result |= {"intervals": on_new.intervals, "differences": as_plain(on_new.differences)}
        title = f"{data}: {fresh.height:,} reviews that the model has not seen"
    for remark in result["remarks"]:
        console.print(f"- {remark}", markup=False)
    if json:
        print_json({"verdict": asdict(verdict) if verdict else None, **result, "scores": metrics})
        return
    _print_verdict(verdict)
    _print_scores(metrics, title)
    if on_new:
        _print_differences(on_new)


def _print_verdict(verdict: Verdict | None) -> None:
    if verdict:
        stdout.print(Text(verdict.sentence, "bold"))
        stdout.print()


def _print_differences(result: NewReviewsEvaluation) -> None:
    """Print intervals, and differences from the bias model."""
    rows = []
    for key, title in (("auc", "AUC"), ("fpr_at_90", "FPR@90")):
        for name, intervals in result.intervals.items():
            value, low, high = intervals[key]
            gap = result.differences[name][key].as_text(3) if name in result.differences else ""
            rows.append([name, title, f"{value:.3f} [{low:.3f}, {high:.3f}]", gap])
    header = ["model", "", "value", "difference"]
    caption = (
        "Differences from the bias model; in brackets 95% intervals, by a bootstrap over users."
    )
    print_table(header, rows, "Is the difference more than chance?", caption=caption)


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
