"""`mmrec recommend`: recommend items to known or new users, with reasons."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from cyclopts import Parameter
from pydantic import BaseModel
from rich.markup import escape

from mmrec.cli.options import AsJson, Model, print_json, result_table, stdout
from mmrec.console import console
from mmrec.errors import ConfigError
from mmrec.llm.types import PRICE_TAGS

if TYPE_CHECKING:
    from mmrec.recommender.explain import Explanation
    from mmrec.recommender.recommender import Recommender

__all__ = ["print_recommendations", "recommend"]

Several = Annotated[list[str], Parameter(consume_multiple=True, negative=())]


@Parameter(name="*")
class ListFlags(BaseModel, use_attribute_docstrings=True):
    """For whom a list is, and what it may hold."""

    user: str | None = None
    """Id of a user; an unknown one gets what most users like."""
    likes: str | None = None
    """What a new user likes, as in "ramen, quiet places, cheap"."""
    liked: Several = []
    """Ids of items that a new user likes."""
    everyone: Path | None = None
    """Parquet file to write the lists of all users to."""
    n: int = 10
    """Number of items."""
    seen: bool = False
    """Include items that the user has reviewed."""
    category: Several = []
    """Only items with one of these categories."""
    price: Several = []
    """Only items with one of these price tags: "cheap price", "fair price", "overpriced"."""
    max_fpr: float | None = None
    """Recommend at most this share of the items that the user would dislike."""
    diversity: float = 0.0
    """0 to 1, how strongly items unlike those above them are preferred."""
    why: bool = False
    """Explain every item, with quotes from its reviews."""
    sentences: bool = False
    """Have the language model of the fit write a sentence about the quotes of each item."""

    def check(self) -> None:
        """Raise a ConfigError for what can be wrong before the model is loaded."""
        for name, share in (("max-fpr", self.max_fpr), ("diversity", self.diversity)):
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"--{name} {share}: it must be a share from 0 to 1")
        if self.n < 1:
            raise ConfigError(f"--n {self.n}: it must be at least 1")
        tags = PRICE_TAGS[:-1]  # without the tag of an unknown price
        for price in self.price:
            if price not in tags:
                raise ConfigError(f"--price {price!r}: it must be one of {', '.join(tags)}")
        if self.everyone is None:
            return
        if not self.everyone.parent.is_dir():
            raise ConfigError(
                f"--everyone {self.everyone}: there is no folder {self.everyone.parent}"
            )
        if self.model_fields_set - {"everyone", "n", "seen", "max_fpr"}:
            raise ConfigError("--everyone goes with --n, --seen and --max-fpr alone")


_DEFAULTS = ListFlags()


def recommend(model: Model, /, *, options: ListFlags = _DEFAULTS, json: AsJson = False) -> None:
    """Recommend items to a user, to a new user who says what they like, or to all users at once."""
    from mmrec.recommender.explain import with_sentences
    from mmrec.recommender.recommender import Recommender

    options.check()
    recommender = Recommender.load(model)
    if options.everyone:
        _write_lists(recommender, options.everyone, options)
        return
    user = options.user
    if user is not None and user not in recommender.state.dataset.data.users:
        message = f"{user} has written no review here: this is the list of an unknown user"
        console.print(message, markup=False)
    _check_categories(options.category, recommender)
    tastes: dict[str, Any] = {"likes": options.likes, "liked": options.liked}
    filters = options.model_dump(include={"seen", "max_fpr", "diversity"})
    filters |= {"categories": options.category, "prices": options.price}
    rows = recommender.recommend(user, options.n, **tastes, **filters)
    items = rows["item"].to_list() if options.why or options.sentences else []
    explanations = [recommender.explain(user, item, **tastes) for item in items]
    if options.sentences:
        explanations = with_sentences(explanations, recommender.models.annotator.write_reasons)
    if json:
        result = rows.to_dicts()
        for row, explanation in zip(result, explanations, strict=False):
            row["why"] = asdict(explanation)
        print_json({"user": user, "likes": options.likes, "recommendations": result})
        return
    print_recommendations(rows, f"For {user or options.likes or ', '.join(options.liked)}")
    for item, explanation in zip(items, explanations, strict=True):
        _print_explanation(item, explanation)


def _check_categories(categories: list[str], recommender: Recommender) -> None:
    common = recommender.state.catalog.common_categories(10_000)
    if categories and {*categories}.isdisjoint(common):
        message = f"no item has it; categories are {', '.join(common[:40])}"
        raise ConfigError(f"--category {categories[0]!r}: {message}")


def _write_lists(recommender: Recommender, path: Path, options: ListFlags) -> None:
    start = time.monotonic()
    lists = recommender.recommend_all(n=options.n, seen=options.seen, max_fpr=options.max_fpr)
    seconds = time.monotonic() - start
    try:
        lists.write_parquet(path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--everyone {path}: cannot be written ({reason})") from error
    users = recommender.state.online.features.user.unknown_index
    items, rate = recommender.state.scorer.size, users / max(seconds, 1e-9)
    text = f"{path}: {lists.height:,} rows for {users:,} users, of {items:,} items, "
    stdout.print(f"{text}in {seconds:.1f} s ({rate:,.0f} users/s)", markup=False)


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
    cells = []
    for rank, row in enumerate(rows.to_dicts(), 1):
        name, categories = row["name"] or row["item"], ", ".join(row["categories"][:4])
        cells.append([str(rank), name, f"{row['probability']:.3f}", row["price"] or "", categories])
    header = ["rank", "item", "probability", "price", "categories"]
    stdout.print(result_table(header, cells, title, words=(1, 3, 4)))
