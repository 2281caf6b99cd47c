"""`mmrec fit`: learn from reviews, compare with simple peers, save the model and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmrec.cli.options import AsJson, Settings, print_json, print_scores, show_rejects
from mmrec.console import console

__all__ = ["fit", "train_and_save"]

_AUDITED_ROWS = 200


def fit(
    data: Path,
    /,
    *,
    out: Path = Path("model"),
    peers: bool = False,
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Learn from reviews; save a model and a report.

    Trains the paper's baseline and proposed models and ours, prints them beside simple peers on test reviews
    that neither training nor any choice has seen, and saves the one named by --features.

    Args:
        data: JSON lines, JSON, CSV (each also .gz) or Parquet; see Reading for other names of columns.
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
    """What `fit` does; `demo` does it too.

    Returns:
        The figures, and where things were written.
    """
    import numpy as np

    from mmrec.data import read_reviews
    from mmrec.errors import ConfigError
    from mmrec.evidence.audit import audit
    from mmrec.experiments.compare import compare
    from mmrec.experiments.report.fit_report import write_report
    from mmrec.experiments.report.html import command_line
    from mmrec.experiments.significance import assess
    from mmrec.features.builder import FeatureAudit
    from mmrec.pipeline import open_models
    from mmrec.recommender.recommender import Recommender

    which = ["baseline", "proposed", "mmrec"]
    if (policy := config.evidence.policy) != "fold":
        if config.ranker.features == "mmrec":
            raise ConfigError(
                f"--policy {policy}: mmrec needs the policy fold; add --features proposed"
            )
        which.remove("mmrec")
        console.print(f"- mmrec is left out, since it needs the policy fold, not {policy}")
    reviews = read_reviews(data, config.read)
    show_rejects(reviews, folder)
    models = open_models(config)
    result = compare(reviews, config, models, which, trained_baselines=peers)
    assessment = assess(result)
    prepared = result.prepared
    dealt = np.concatenate([prepared.split.train, prepared.split.valid, prepared.split.test])
    some = np.random.default_rng(config.seed).permutation(dealt)[:_AUDITED_ROWS]
    audits = {
        name: audit(
            prepared.dataset.data,
            prepared.split,
            prepared.evidence,
            FeatureAudit(trained.model.builder, prepared.dataset, trained.features),
            some,
        )
        for name, trained in result.trained.items()
    }
    if not quiet:
        print_scores(
            result.metrics, f"{data}: {len(prepared.split.test):,} test reviews, seed {config.seed}"
        )
    threshold, rates = assessment.operating_points[config.ranker.features]
    console.print(
        f"- recommending from {threshold:.0%} on (chosen on valid) gave {rates.tpr:.0%} of the liked and "
        f"{rates.fpr:.0%} of the disliked test reviews"
        if threshold <= 1
        else "- nothing is to be recommended: on valid no threshold keeps the bound; give a higher --max-fpr"
    )
    for remark in (*result.remarks, *(f"{name}: {found}" for name, found in audits.items())):
        console.print(f"- {remark}")
    recommender = Recommender(config, models).use_model(
        result.trained[config.ranker.features], reviews, result.metrics
    )
    recommender.save(folder)
    report = write_report(
        result,
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
        "refused": reviews.rejects.height,
        "test": result.metrics,
        "assessment": assessment.as_dict(),
        "remarks": result.remarks,
        "audit": {name: str(found) for name, found in audits.items()},
        "seconds": result.seconds,
    }
