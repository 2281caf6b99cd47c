"""`mmrec evaluate`: measure a saved model on its test reviews, or on new ones."""

from __future__ import annotations

from pathlib import Path

from mmrec.cli.options import AsJson, Model, ReadSettings, print_json, print_scores
from mmrec.console import console

__all__ = ["evaluate"]


def evaluate(
    model: Model,
    data: Path | None = None,
    /,
    *,
    json: AsJson = False,
    read: ReadSettings = ReadSettings(),
) -> None:
    """Print the metrics of a saved model on its test reviews, or on reviews that it has not seen.

    Args:
        data: new reviews; those that the model has seen are left out. Without it, the metrics on the
            test reviews of `mmrec fit` are printed again.
    """
    import numpy as np

    from mmrec.data import read_reviews
    from mmrec.errors import DataError
    from mmrec.evaluation.metrics import evaluate as measure
    from mmrec.pipeline import config_warnings
    from mmrec.recommender.recommender import Recommender

    recommender = Recommender.load(model)
    like_rating, name = recommender.config.like_rating, recommender.config.ranker.features
    metrics, title = recommender.evaluation.metrics, f"{model}: test reviews of the fit"
    if data is not None:
        reviews, seen = read_reviews(data, read).table, recommender.reviews.table
        key = ["user", "item", "rating", "text"]
        fresh = reviews.join(seen, on=key, how="anti", maintain_order="left")
        if left_out := reviews.height - fresh.height:
            console.print(f"{left_out:,} reviews that the model has seen were left out")
        label = (fresh["rating"] >= like_rating).to_numpy()
        if not label.any() or label.all():
            need = "metrics need both likes and dislikes among them"
            raise DataError(f"{data}: {len(label):,} reviews are new to the model; {need}")
        probability = recommender.predict(fresh["user"].to_list(), fresh["item"].to_list())
        always = np.full(len(label), (seen["rating"] >= like_rating).mean())
        weights = recommender.state.saved.model.class_weights
        metrics = {
            "always like": measure(label, always, weights),
            name: measure(label, probability, weights),
        }
        title = f"{data}: {fresh.height:,} reviews that the model has not seen"
    remarks = config_warnings(recommender.config)
    for remark in remarks:
        console.print(f"- {remark}")
    if json:
        print_json({"model": str(model), "scores": metrics, "remarks": remarks})
    else:
        print_scores(metrics, title)
