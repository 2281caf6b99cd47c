"""`mmrec fit` and `mmrec demo`: train on reviews, compare with baselines, save a model and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.cli.options import AsJson, Data, Settings, load_reviews, print_json, print_scores
from mmrec.console import console

if TYPE_CHECKING:
    from mmrec.experiments.compare import Comparison

__all__ = ["demo", "fit"]


def fit(
    data: Data,
    /,
    *,
    out: Path = Path("model"),
    peers: bool = False,
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Train on reviews; save a model and a report.

    Trains the paper's two models (`baseline`, `proposed`) and ours (`mmrec`), prints their metrics
    beside those of simple baselines on test reviews, and saves the model that --features names.
    Test reviews are used neither for training nor for any choice.

    Args:
        out: folder for the model and report.html.
        peers: also train logistic regression, LightGBM, matrix factorisation and DeepFM on the
            same rows.
    """
    result = _train_and_save(data, out, config, quiet=json, peers=peers)
    if json:
        print_json(result)


def demo(*, out: Path = Path("demo"), seed: int = 0, json: AsJson = False) -> None:
    """Generate a city, train on its reviews, and recommend ten places to one of its users.

    Args:
        out: folder for the city, the model and report.html.
        seed: of the city and of everything after it.
    """
    from mmrec.cli.recommend import print_recommendations
    from mmrec.config import ReadConfig
    from mmrec.data.synthetic.city import write_sample_city
    from mmrec.recommender.recommender import Recommender

    city = out / "sample-city"
    console.print("generating Sample City")
    data = write_sample_city(city, seed=seed)
    config = Settings(seed=seed, read=ReadConfig(items=city / "places.jsonl"))
    result = _train_and_save(data, out, config, quiet=json)
    recommender = Recommender.load(out)
    user = recommender.reviews.table["user"].mode().sort()[0]
    rows = recommender.recommend(user, 10)
    if json:
        print_json({**result, "user": user, "recommendations": rows.to_dicts()})
        return
    print_recommendations(rows, f"Ten places for {user}, who wrote the most reviews")
    console.print(f"next, see the city in a browser: mmrec serve {out}", markup=False)


def _train_and_save(
    data: Path, folder: Path, config: Settings, *, quiet: bool, peers: bool = False
) -> dict[str, Any]:
    """Do what `fit` does, and return what it prints as JSON."""
    from mmrec.experiments.compare import compare
    from mmrec.experiments.report.fit_report import write_report
    from mmrec.experiments.report.html import command_line
    from mmrec.experiments.significance import assess
    from mmrec.pipeline import open_models
    from mmrec.recommender.recommender import Recommender

    names = _trained_models(config)
    reviews, models = load_reviews(data, config, folder), open_models(config)
    comparison = compare(reviews, config, models, names, trained_baselines=peers)
    assessment = assess(comparison)
    audits = _audit(comparison, config.seed)
    if not quiet:
        test_count = len(comparison.prepared.split.test)
        print_scores(comparison.metrics, f"{data}: {test_count:,} test reviews, seed {config.seed}")
    threshold, rates = assessment.operating_points[config.ranker.features]
    advice = "no threshold keeps the bound on validation reviews; raise --max-fpr"
    if threshold <= 1:
        advice = (
            f"recommending from {threshold:.0%} on (chosen on validation reviews) would have "
            f"recommended {rates.tpr:.0%} of the liked and {rates.fpr:.0%} of the disliked test reviews"
        )
    outcomes = [f"{name}: {outcome}" for name, outcome in audits.items()]
    for remark in (advice, *comparison.remarks, *outcomes):
        console.print(f"- {remark}")
    trained = comparison.trained[config.ranker.features]
    Recommender(config, models).use_model(trained, reviews, comparison.metrics).save(folder)
    page, command = folder / "report.html", command_line()
    report = write_report(comparison, assessment, audits, page, command=command, read=len(reviews))
    console.print(f"model: {folder}   report: {report}")
    return {
        "data": str(data),
        "seed": config.seed,
        "model": str(folder),
        "report": str(report),
        "reviews": len(reviews),
        "rejected": reviews.rejects.height,
        "test": comparison.metrics,
        "assessment": assessment.as_dict(),
        "remarks": comparison.remarks,
        "audit": {name: str(outcome) for name, outcome in audits.items()},
        "seconds": comparison.seconds,
    }


def _trained_models(config: Settings) -> list[str]:
    """The models to train: without `mmrec` where the evidence policy is not the one that it needs."""
    from mmrec.errors import ConfigError

    policy = config.evidence.policy
    if policy == "fold":
        return ["baseline", "proposed", "mmrec"]
    if config.ranker.features == "mmrec":
        raise ConfigError(
            f"--policy {policy}: mmrec needs the policy fold; add --features proposed"
        )
    console.print(f"- mmrec is left out: it needs the policy fold, not {policy}")
    return ["baseline", "proposed"]


def _audit(comparison: Comparison, seed: int, row_count: int = 200) -> dict[str, Any]:
    """Audit each model's features on randomly drawn rows."""
    import numpy as np

    from mmrec.evidence.audit import audit
    from mmrec.features.builder import FeatureAudit

    prepared = comparison.prepared
    split, dataset = prepared.split, prepared.dataset
    rows = np.concatenate([split.train, split.valid, split.test])
    sample = np.random.default_rng(seed).permutation(rows)[:row_count]
    audits = {}
    for name, trained in comparison.trained.items():
        features = FeatureAudit(trained.model.builder, dataset, trained.features)
        audits[name] = audit(dataset.data, split, prepared.evidence, features, sample)
    return audits
