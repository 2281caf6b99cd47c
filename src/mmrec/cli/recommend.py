"""`mmrec recommend`: the items that someone will most likely like, and why."""

from __future__ import annotations

import time
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

_KINDS = 10_000
_Many = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]


def recommend(
    model: Path,
    /,
    *,
    user: str | None = None,
    likes: str | None = None,
    liked: _Many = None,
    everyone: Path | None = None,
    n: int = 10,
    seen: bool = False,
    category: _Many = None,
    price: _Many = None,
    max_fpr: float | None = None,
    diversity: float = 0.0,
    why: bool = False,
    sentences: bool = False,
    json: AsJson = False,
) -> None:
    """Recommend items to a user, to a stranger who says what they like, or to all users at once.

    Args:
        model: folder that `mmrec fit` wrote.
        user: id of a user; one without reviews gets what is liked by most.
        likes: a stranger's words, as in "ramen, quiet places, cheap".
        liked: ids of items that a stranger likes.
        everyone: Parquet file to write the lists of all users to.
        n: number of items.
        seen: also recommend what the user has reviewed already.
        category: items must have one of these.
        price: items must have one of these: "cheap price", "fair price", "overpriced".
        max_fpr: only what is so likely to be liked that at most this share of dislikes would pass.
        diversity: 0 to 1, how much items unlike those above them are preferred.
        why: say what spoke for each item, and quote its reviews.
        sentences: have the language model of the fit make a sentence of the quotes of each item.
        json: print one JSON object instead of a table.
    """
    from mmrec.recommender.explain import with_sentences
    from mmrec.recommender.recommender import Recommender

    for name, share in (("max-fpr", max_fpr), ("diversity", diversity)):
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"--{name} {share}: a share from 0 to 1 is wanted")
    if n < 1:
        raise ConfigError(f"--n {n}: at least one item is wanted")
    if unknown := {*(price or ())} - {*PRICE_TAGS[:-1]}:
        raise ConfigError(f"--price {unknown.pop()!r}: there are {', '.join(PRICE_TAGS[:-1])}")
    if everyone is not None and not everyone.parent.is_dir():
        raise ConfigError(f"--everyone {everyone}: there is no folder {everyone.parent}")
    recommender = Recommender.load(model)
    if everyone is not None:
        if user is not None or likes or liked or category or price or diversity or why:
            raise ConfigError("--everyone goes with --n, --seen and --max-fpr alone")
        _write(recommender, everyone, n=n, seen=seen, max_fpr=max_fpr)
        return
    if user is not None and user not in recommender.corpus.data.users:
        console.print(
            f"{user} has written no review here: this is what strangers get", markup=False
        )
    kinds = recommender.catalog.common_categories(_KINDS)
    if category and {*category}.isdisjoint(kinds):
        raise ConfigError(
            f"--category {category[0]!r}: no item is one; there are {', '.join(kinds[:40])}"
        )
    asking: dict[str, Any] = {"likes": likes, "liked": liked or ()}
    how: dict[str, Any] = {"seen": seen, "max_fpr": max_fpr, "diversity": diversity}
    how |= {"categories": category or (), "prices": price or ()}
    found = recommender.recommend(user, n, **asking, **how)
    items = found["item"].to_list() if why or sentences else []
    explained = [recommender.explain(user, item, **asking) for item in items]
    if sentences:
        explained = with_sentences(explained, recommender.models.annotator.write_reasons)
    reasons = dict(zip(items, explained, strict=True))
    if json:
        rows = found.to_dicts()
        for row in rows:
            if reasons:
                row["why"] = _as_dict(reasons[row["item"]])
        print_json({"user": user, "likes": likes, "recommendations": rows})
        return
    print_recommendations(found, f"For {escape(user or likes or ', '.join(liked or ()))}")
    for place, reason in reasons.items():
        parts = ", ".join(f"{name} {value:+.3f}" for name, value in reason.contributions.items())
        stdout.print(
            f"\n[bold]{escape(place)}[/] {reason.probability:.3f} = {reason.base:.3f} and {parts}"
        )
        if reason.sentence:
            stdout.print(f"  {escape(reason.sentence)}")
        for quote in reason.quotes:
            source = quote.review_id or "a photo of it"
            stdout.print(
                f"  {'+' if quote.liked else '-'} “{escape(quote.text)}” ({escape(source)})"
            )


def _write(recommender: Recommender, path: Path, **how: Any) -> None:
    start = time.monotonic()
    found = recommender.recommend_all(**how)
    seconds = time.monotonic() - start
    try:
        found.write_parquet(path)
    except OSError as error:
        raise ConfigError(
            f"--everyone {path}: cannot be written ({error.strerror or error})"
        ) from error
    users, items = recommender.features.user.unknown_index, recommender.scorer.size
    stdout.print(
        f"{path}: {found.height:,} rows for {users:,} users, of {items:,} items, "
        f"in {seconds:.1f} s ({users / max(seconds, 1e-9):,.0f} users/s)",
        markup=False,
    )


def _as_dict(reason: Explanation) -> dict[str, Any]:
    return {
        "contributions": reason.contributions,
        "sentence": reason.sentence,
        "quotes": [quote.__dict__ for quote in reason.quotes],
    }


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
    stdout.print(table)
