"""`mmrec recommend`: recommend items to known or new users, with reasons."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from mmrec.cli.options import AsJson, print_json, stdout
from mmrec.console import console
from mmrec.errors import ConfigError
from mmrec.llm.types import PRICE_TAGS

if TYPE_CHECKING:
    from mmrec.recommender.explain import Explanation
    from mmrec.recommender.recommender import Recommender

__all__ = ["print_recommendations", "recommend"]

_Several = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]


def recommend(
    model: Path,
    /,
    *,
    user: str | None = None,
    likes: str | None = None,
    liked: _Several = None,
    everyone: Path | None = None,
    n: int = 10,
    seen: bool = False,
    category: _Several = None,
    price: _Several = None,
    max_fpr: float | None = None,
    diversity: float = 0.0,
    why: bool = False,
    sentences: bool = False,
    json: AsJson = False,
) -> None:
    """Recommend items to a user, to a new user who says what they like, or to all users at once.

    Args:
        model: folder that `mmrec fit` wrote.
        user: id of a user; an unknown one gets what most users like.
        likes: what a new user likes, as in "ramen, quiet places, cheap".
        liked: ids of items that a new user likes.
        everyone: Parquet file to write the lists of all users to.
        n: number of items.
        seen: include items that the user has reviewed.
        category: only items with one of these categories.
        price: only items with one of these price tags: "cheap price", "fair price", "overpriced".
        max_fpr: recommend at most this share of the items that the user would dislike.
        diversity: 0 to 1, how strongly items unlike those above them are preferred.
        why: explain every item, with quotes from its reviews.
        sentences: have the language model of the fit write a sentence about the quotes of each item.
        json: print one JSON object instead of a table.
    """
    from mmrec.recommender.explain import with_sentences
    from mmrec.recommender.recommender import Recommender

    _check_options(n, price, everyone, {"max-fpr": max_fpr, "diversity": diversity})
    if everyone and (user is not None or likes or liked or category or price or diversity or why):
        raise ConfigError("--everyone goes with --n, --seen and --max-fpr alone")
    recommender = Recommender.load(model)
    if everyone:
        _write_lists(recommender, everyone, n=n, seen=seen, max_fpr=max_fpr)
        return
    if user is not None and user not in recommender.state.dataset.data.users:
        message = f"{user} has written no review here: this is the list of an unknown user"
        console.print(message, markup=False)
    _check_categories(category, recommender)
    taste: dict[str, Any] = {"likes": likes, "liked": liked or ()}
    rows = recommender.recommend(
        user,
        n,
        **taste,
        seen=seen,
        max_fpr=max_fpr,
        diversity=diversity,
        categories=category or (),
        prices=price or (),
    )
    items = rows["item"].to_list() if why or sentences else []
    explanations = [recommender.explain(user, item, **taste) for item in items]
    if sentences:
        explanations = with_sentences(explanations, recommender.models.annotator.write_reasons)
    if json:
        result = rows.to_dicts()
        for row, explanation in zip(result, explanations, strict=False):
            row["why"] = asdict(explanation)
        print_json({"user": user, "likes": likes, "recommendations": result})
        return
    print_recommendations(rows, f"For {escape(user or likes or ', '.join(liked or ()))}")
    for item, explanation in zip(items, explanations, strict=True):
        _print_explanation(item, explanation)


def _check_options(
    n: int, prices: list[str] | None, everyone: Path | None, shares: dict[str, float | None]
) -> None:
    """Check what can be wrong before the model is loaded."""
    for name, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"--{name} {share}: it must be a share from 0 to 1")
    if n < 1:
        raise ConfigError(f"--n {n}: it must be at least 1")
    tags = PRICE_TAGS[:-1]  # without the tag of an unknown price
    for price in prices or ():
        if price not in tags:
            raise ConfigError(f"--price {price!r}: it must be one of {', '.join(tags)}")
    if everyone is not None and not everyone.parent.is_dir():
        raise ConfigError(f"--everyone {everyone}: there is no folder {everyone.parent}")


def _check_categories(categories: list[str] | None, recommender: Recommender) -> None:
    known = recommender.state.catalog.common_categories(10_000)
    if categories and {*categories}.isdisjoint(known):
        message = f"no item has it; categories are {', '.join(known[:40])}"
        raise ConfigError(f"--category {categories[0]!r}: {message}")


def _write_lists(recommender: Recommender, path: Path, **options: Any) -> None:
    start = time.monotonic()
    lists = recommender.recommend_all(**options)
    seconds = time.monotonic() - start
    try:
        lists.write_parquet(path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--everyone {path}: cannot be written ({reason})") from error
    users, items = (
        recommender.state.online.features.user.unknown_index,
        recommender.state.scorer.size,
    )
    rate = users / max(seconds, 1e-9)
    stdout.print(
        f"{path}: {lists.height:,} rows for {users:,} users, of {items:,} items, "
        f"in {seconds:.1f} s ({rate:,.0f} users/s)",
        markup=False,
    )


def _print_explanation(item: str, explanation: Explanation) -> None:
    terms = ", ".join(f"{name} {value:+.3f}" for name, value in explanation.contributions.items())
    total = f"{explanation.probability:.3f} = {explanation.base:.3f} and {terms}"
    stdout.print(f"\n[bold]{escape(item)}[/] {total}")
    if explanation.sentence:
        stdout.print(f"  {escape(explanation.sentence)}")
    for quote in explanation.quotes:
        sign, source = "+" if quote.liked else "-", quote.review_id or "photo"
        stdout.print(f"  {sign} “{escape(quote.text)}” ({escape(source)})")


def print_recommendations(rows: pl.DataFrame, title: str) -> None:
    """Print recommendations as a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("", justify="right")
    table.add_column("item")
    table.add_column("probability", justify="right")
    table.add_column("price")
    table.add_column("categories")
    for rank, row in enumerate(rows.to_dicts(), 1):
        name, price = escape(row["name"] or row["item"]), row["price"] or ""
        categories = escape(", ".join(row["categories"][:4]))
        table.add_row(str(rank), name, f"{row['probability']:.3f}", price, categories)
    stdout.print(table)
