"""`mmrec recommend`: the items that someone will most likely like, and why."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.markup import escape
from rich.table import Table

from mmrec.cli.options import AsJson, out, print_json
from mmrec.progress import console

__all__ = ["print_recommendations", "recommend"]


def recommend(
    model: Path,
    /,
    *,
    user: str | None = None,
    likes: str | None = None,
    n: int = 10,
    seen: bool = False,
    why: bool = False,
    json: AsJson = False,
) -> None:
    """Recommend items to a user, or to a stranger who says what they like.

    Args:
        model: folder that `mmrec fit` wrote.
        user: id of a user; one without reviews gets what is liked by most.
        likes: a stranger's words, as in "ramen, quiet places, cheap".
        n: number of items.
        seen: also recommend what the user has reviewed already.
        why: say what spoke for each item, and quote its reviews.
        json: print one JSON object instead of a table.
    """
    from mmrec.recommend import Recommender

    recommender = Recommender.load(model)
    if user is not None and user not in recommender.corpus.data.users:
        console.print(f"{user} has written no review here: this is what strangers get")
    found = recommender.recommend(user, n, likes=likes, seen=seen)
    reasons = {item: recommender.explain(user, item, likes=likes) for item in found["item"]} if why else {}
    if json:
        rows = found.to_dicts()
        for row in rows:
            if why:
                reason = reasons[row["item"]]
                row["why"] = {
                    "contributions": reason.contributions,
                    "quotes": [q.__dict__ for q in reason.quotes],
                }
        print_json({"user": user, "likes": likes, "recommendations": rows})
        return
    print_recommendations(found, f"For {escape(user or likes or '')}")
    for place, reason in reasons.items():
        parts = ", ".join(f"{name} {value:+.3f}" for name, value in reason.contributions.items())
        out.print(f"\n[bold]{escape(place)}[/] {reason.probability:.3f} = {reason.base:.3f} and {parts}")
        for quote in reason.quotes:
            out.print(f"  {'+' if quote.liked else '-'} “{escape(quote.text)}” ({escape(quote.review_id)})")


def print_recommendations(found: pl.DataFrame, title: str) -> None:
    """Print recommendations as a table."""
    table = Table(title=title, title_justify="left")
    for column, justify in (
        ("", "right"),
        ("item", "left"),
        ("chance", "right"),
        ("price", "left"),
        ("categories", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for place, row in enumerate(found.to_dicts(), 1):
        name = escape(row["name"] or row["item"])
        categories = escape(", ".join(row["categories"][:4]))
        table.add_row(str(place), name, f"{row['probability']:.3f}", row["price"] or "", categories)
    out.print(table)
