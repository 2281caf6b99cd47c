"""`mmrec evaluate`: how good a saved model is, on its own test reviews or on new ones."""

from __future__ import annotations

from pathlib import Path

from mmrec.cli.options import AsJson, ReadSettings, print_json, print_scores
from mmrec.console import console

__all__ = ["evaluate"]


def evaluate(
    model: Path,
    data: Path | None = None,
    /,
    *,
    json: AsJson = False,
    read: ReadSettings = ReadSettings(),
) -> None:
    """Print what a saved model reaches on test reviews, or on reviews that it does not know yet.

    Args:
        model: folder that `mmrec fit` wrote.
        data: new reviews; those that the model knows already are left out. Without it, the figures on the
            test reviews of `mmrec fit` are shown again.
        json: print one JSON object instead of a table.
    """
    import numpy as np

    from mmrec.data import read_reviews
    from mmrec.errors import DataError
    from mmrec.evaluation.metrics import evaluate as score
    from mmrec.pipeline import config_warnings
    from mmrec.recommender.recommender import Recommender

    recommender = Recommender.load(model)
    scores = recommender.evaluation.metrics
    title = f"{model}: test reviews of the fit"
    if data is not None:
        new = read_reviews(data, read).table
        known = recommender.reviews.table
        fresh = new.join(
            known, on=["user", "item", "rating", "text"], how="anti", maintain_order="left"
        )
        if fresh.height < new.height:
            console.print(
                f"{new.height - fresh.height:,} reviews that the model knows were left out"
            )
        label = (fresh["rating"] >= recommender.config.like_rating).to_numpy()
        if not label.any() or label.all():
            raise DataError(
                f"{data}: {len(label):,} reviews are new to the model, and they are not both likes and "
                "dislikes; there is nothing to measure"
            )
        chance = recommender.predict(fresh["user"].to_list(), fresh["item"].to_list())
        always = np.full(len(label), (known["rating"] >= recommender.config.like_rating).mean())
        weights = recommender.model.class_weights
        scores = {
            "always like": score(label, always, weights),
            recommender.config.ranker.features: score(label, chance, weights),
        }
        title = f"{data}: {fresh.height:,} reviews that the model has not seen"
    remarks = config_warnings(recommender.config)
    for remark in remarks:
        console.print(f"- {remark}")
    if json:
        print_json({"model": str(model), "scores": scores, "remarks": remarks})
        return
    print_scores(scores, title)
