"""`mmrec fit`: train on reviews, compare with baselines, save the model and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmrec.cli.options import AsJson, Settings, load_reviews, print_json, print_scores
from mmrec.console import console

__all__ = ["fit", "train_and_save"]


def fit(
    data: Path,
    /,
    *,
    out: Path = Path("model"),
    peers: bool = False,
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Train on reviews; save a model and a report.

    Trains the paper's two models (`baseline`, `proposed`) and ours (`mmrec`), prints their metrics beside
    those of simple baselines on test reviews, and saves the model that --features names. Test reviews are
    used neither for training nor for any choice.

    Args:
        data: JSON lines, JSON, CSV (each also .gz) or Parquet; see Reading for other column names.
        out: folder for the model and report.html.
        peers: also train logistic regression, LightGBM, matrix factorisation and DeepFM on the same rows.
        json: print one JSON object instead of tables.
    """
    result = train_and_save(data, out, config, quiet=json, peers=peers)
    if json:
        print_json(result)


def train_and_save(
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
    reviews = load_reviews(data, config, folder)
    models = open_models(config)
    comparison = compare(reviews, config, models, names, trained_baselines=peers)
    assessment = assess(comparison)
    audits = _audit(comparison, config.seed)
    if not quiet:
        test_count = len(comparison.prepared.split.test)
        print_scores(comparison.metrics, f"{data}: {test_count:,} test reviews, seed {config.seed}")
    threshold, rates = assessment.operating_points[config.ranker.features]
    if threshold <= 1:
        console.print(
            f"- recommending from {threshold:.0%} on (chosen on validation reviews) would have "
            f"recommended {rates.tpr:.0%} of the liked and {rates.fpr:.0%} of the disliked test reviews"
        )
    else:
        console.print("- no threshold keeps the bound on validation reviews; raise --max-fpr")
    for remark in comparison.remarks:
        console.print(f"- {remark}")
    for name, outcome in audits.items():
        console.print(f"- {name}: {outcome}")
    trained = comparison.trained[config.ranker.features]
    recommender = Recommender(config, models).use_model(trained, reviews, comparison.metrics)
    recommender.save(folder)
    report = write_report(
        comparison,
        assessment,
        audits,
        folder / "report.html",
        command=command_line(),
        read=len(reviews),
    )
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


def _audit(comparison: Any, seed: int, row_count: int = 200) -> dict[str, Any]:
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
