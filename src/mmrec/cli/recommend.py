"""`mmrec recommend`: recommend items to known or new users, with reasons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import polars as pl
from cyclopts import Parameter
from pydantic import BaseModel, Field, model_validator
from rich.markup import escape

from mmrec.cli.options import AsJson, Model, Trust, print_json, print_table, stdout
from mmrec.console import console
from mmrec.errors import ConfigError

if TYPE_CHECKING:
    from mmrec.llm.types import Wish
    from mmrec.recommender.explain import Explanation
    from mmrec.recommender.recommender import Recommender

_SEVERAL = Parameter(consume_multiple=True, negative=())
_EVERYONE = {"n", "seen", "max_fpr", "caution", "explore"}


@Parameter(name="*")
class ListFlags(BaseModel, use_attribute_docstrings=True):
    """For whom a list is, and what it may hold."""

    user: str | None = None
    """Id of a user; an unknown one gets what most users choose and like."""
    likes: str | None = None
    """What a new user wishes, as in "cheap ramen, no seafood" or "a place like Noodle Bar"."""
    liked: Annotated[list[str], _SEVERAL] = []
    """Ids or names of items that a new user likes."""
    everyone: Path | None = None
    """Parquet file to write the lists of all users to."""
    n: int = Field(10, ge=1)
    """Number of items."""
    seen: bool = False
    """Include items that the user has reviewed."""
    category: Annotated[list[str], _SEVERAL] = []
    """Only items with one of these categories."""
    price: Annotated[list[Literal["cheap price", "fair price", "overpriced"]], _SEVERAL] = []
    """Only items with one of these price tags."""
    max_fpr: float | None = Field(None, ge=0, le=1)
    """Leave out items by their probability, so that at most this share of dislikes would pass: the
    list may be shorter than --n. 1 leaves out none."""
    caution: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Weight of the odds ratio of a dislike; at 0 only what people choose, or how well items match
    --likes, counts. By default that of the fit (.5 unless it was set)."""
    diversity: float = Field(0.0, ge=0, le=1)
    """How strongly items unlike those above them are preferred."""
    explore: bool = False
    """Give every third place to an item that nobody has rated, marked "new"; else these are last."""
    why: bool = False
    """Explain every item, with quotes from its reviews."""
    sentences: bool = False
    """Have the language model of the fit write a sentence about the quotes of each item."""

    @model_validator(mode="after")
    def _check_everyone(self) -> ListFlags:
        if self.everyone and self.model_fields_set - {*_EVERYONE, "everyone"}:
            allowed = "--n, --seen, --max-fpr, --caution and --explore"
            raise ValueError(f"--everyone goes with {allowed} alone")
        if self.everyone and self.everyone.suffix not in ("", ".parquet"):
            raise ValueError(f"--everyone {self.everyone}: lists are Parquet; name it .parquet")
        # Before the model is loaded and all lists are computed.
        if self.everyone and not self.everyone.parent.is_dir():
            raise ValueError(f"--everyone {self.everyone}: there is no such folder")
        if self.everyone and self.everyone.is_dir():
            raise ValueError(f"--everyone {self.everyone}: this is a folder; name a file")
        return self


def recommend(
    model: Model, /, *, options: ListFlags = ListFlags(), trust: Trust = False, json: AsJson = False
) -> None:
    """Recommend items to a user, to a new user who says what they like, or to everyone."""
    from mmrec.recommender.explain import with_sentences
    from mmrec.recommender.recommender import Recommender

    recommender, user = Recommender.load(model, trust=trust), options.user
    if options.everyone:
        _write_lists(recommender, options.everyone, options)
        return
    if user is not None and user not in recommender.state.dataset.data.users:
        message = "has written no review here: this is the list of an unknown user"
        console.print(f"{user} {message}", markup=False)
    recommender.state.catalog.check_categories(options.category)
    wish = recommender.parse_wish(options.likes) if options.likes else None
    tastes: dict[str, Any] = {"likes": wish, "liked": options.liked}
    filters = options.model_dump(include={*_EVERYONE, "diversity"} - {"n"})
    filters |= {"categories": options.category, "prices": options.price}
    rows = recommender.recommend(user, options.n, **tastes, **filters)
    items = rows["item"].to_list() if options.why or options.sentences else []
    explanations = recommender.explain_list(user, items, **tastes) if items else []
    if options.sentences:
        explanations = with_sentences(explanations, recommender.models.annotator.write_reasons)
    if json:
        result = rows.to_dicts()
        for row, explanation in zip(result, explanations, strict=False):
            row["why"] = asdict(explanation)
        head = {"user": user, "likes": options.likes, "understood": wish and str(wish)}
        print_json({**head, "recommendations": result})
        return
    if wish is not None:
        _print_wish(recommender, wish)
    title = f"For {user or options.likes or ', '.join(options.liked)}"
    print_recommendations(rows, title, by_wish=wish is not None)
    names = [row["name"] or row["item"] for row in rows.to_dicts()]
    # There are no explanations if none were asked for.
    for name, explanation in zip(names, explanations, strict=False):
        _print_explanation(name, explanation)


def _print_wish(recommender: Recommender, wish: Wish) -> None:
    """Say what was understood, and what of it no item fits."""
    understood = str(wish) or "nothing, so this is what most users like"
    stdout.print(f"Understood: {understood}", markup=False)
    if not wish.description and (unmatched := recommender.state.catalog.match(wish).unmatched):
        stdout.print(f"No reviews speak for: {'; '.join(unmatched)}", markup=False)
    if failures := recommender.models.annotator.failure_summary:
        console.print(f"- read by rules: {failures}", markup=False)


def _write_lists(recommender: Recommender, path: Path, options: ListFlags) -> None:
    lists = recommender.recommend_all(**options.model_dump(include=_EVERYONE))
    try:
        lists.write_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:  # a full disk is the latter
        raise ConfigError(f"--everyone {path}: cannot be written ({error})") from error
    users = len(recommender.state.online.ids["user"])
    stdout.print(f"{path}: {lists.height:,} rows for {users:,} users", markup=False)


def _print_explanation(name: str, explanation: Explanation) -> None:
    # Names and quotes are escaped: rich would read [...] in them as markup.
    stdout.print(f"\n[bold]{escape(name)}[/]")
    for reason in explanation.reasons:
        stdout.print(f"  {'+' if reason.favourable else '-'} {escape(reason.text)}")
    if explanation.sentence:
        stdout.print(f"  {escape(explanation.sentence)}")
    for quote in explanation.quotes:
        sign = "+" if quote.liked else "-"
        stdout.print(f"  {sign} “{escape(quote.text)}” ({escape(quote.signature)})")
    terms = ", ".join(f"{name} {value:+.3f}" for name, value in explanation.contributions.items())
    total = f"Probability {explanation.probability:.3f} = {explanation.base:.3f} without evidence"
    stdout.print(f"  [dim]{total}, {terms}[/]")


def print_recommendations(rows: pl.DataFrame, title: str, *, by_wish: bool = False) -> None:
    """Print recommendations as a table, which says by what they are ordered."""
    first = "how well items match the words" if by_wish else "what people choose"
    caption = f"Ordered by {first} and by the probability of a like (--caution weighs it)"
    if rows.is_empty():
        caption = "No item fits; a higher --max-fpr, other filters, or --seen may let some in"
    cells = []
    for rank, row in enumerate(rows.to_dicts(), 1):
        probability = f"{row['probability']:.3f}{' (new)' if row.get('unproven') else ''}"
        categories = ", ".join(row["categories"][:4])
        name = row["name"] or row["item"]
        cells.append([rank, name, probability, row["price"] or "", categories])
    header = ["rank", "item", "probability", "price", "categories"]
    print_table(header, cells, title, words=(1, 3, 4), caption=caption)
