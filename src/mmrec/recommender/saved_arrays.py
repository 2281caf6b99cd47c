"""Arrays and tables of a saved model: what each file holds, and checks before and after it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.numpy import load_file

from mmrec.features.builder import FeatureBuilder
from mmrec.llm.types import PRICE_TAGS, Note
from mmrec.retrieval.proposers import SIMILARITIES

_LIMIT = 1e9  # of numbers, so that no product of a few overflows
_FIRST_TIME, _LAST_TIME = -5_364_662_400_000_000, 253_402_300_799_999_999  # years 1800 to 9999


class ArraySpec(NamedTuple):
    """What an array must be: a type as safetensors name it, or several; sizes; and a range."""

    dtype: str
    shape: tuple[int | str, ...]  # a size that is not known is named; it is what the file says
    low: float = -_LIMIT
    high: float = _LIMIT


def read_arrays(
    path: Path, specs: Mapping[str, ArraySpec], sizes: dict[str, int]
) -> dict[str, np.ndarray]:
    """Read a safetensors file, once its header is known to fit; sizes that were not known are added.

    Arrays are in the order of their specs, since that of a ranker's blocks matters. A ValueError
    names an array that is missing, not known, or has another type, shape or range.
    """
    with safe_open(path, "numpy") as file:
        names = set(file.keys())
        if odd := names ^ specs.keys():
            state = "not known" if odd & names else "missing"
            raise ValueError(f"{sorted(odd)[0]} is {state}")
        for name, spec in specs.items():
            header = file.get_slice(name)
            found = tuple(header.get_shape())
            if header.get_dtype() not in spec.dtype.split():
                raise ValueError(f"{name} is {header.get_dtype()} instead of {spec.dtype}")
            wanted = spec.shape
            if len(found) == len(wanted):
                for size, actual in zip(wanted, found, strict=True):
                    if isinstance(size, str):
                        sizes.setdefault(size, actual)
                wanted = tuple(sizes[size] if isinstance(size, str) else size for size in wanted)
            if found != wanted:
                raise ValueError(f"{name} has the shape {found} instead of {wanted}")
    loaded = load_file(path)
    arrays = {name: loaded[name] for name in specs}
    for name, values in arrays.items():
        spec = specs[name]
        if values.size:  # not by NumPy, which is slow with float16
            low, high = map(float, torch.from_numpy(values).aminmax())
            if not (spec.low <= low and high <= spec.high):  # nor NaN
                raise ValueError(f"{name} has numbers outside of {spec.low:g} to {spec.high:g}")
    return arrays


def feature_specs(builder: FeatureBuilder) -> dict[str, ArraySpec]:
    """Arrays of `features.safetensors`: of users and items, the last row of an unknown one; their sums."""
    specs: dict[str, ArraySpec] = {}
    config, vocabulary = builder.config, len(builder.vocabulary)
    is_baseline, is_mmrec = (config.ranker.features == name for name in ("baseline", "mmrec"))
    for kind in ("user", "item"):
        rows, views = f"{kind}s", f"views of {kind}s"
        columns, blocks = builder.column_names(kind), builder.block_names(kind)
        slots = config.annotation.max_categories if kind == "item" and not is_baseline else 0
        factors = (views, builder.factor_count) if is_mmrec else (0, 0)
        votes = 0 if is_baseline else vocabulary
        specs |= {
            f"{kind}/dense": ArraySpec("F32", (views, len(columns))),
            f"{kind}/categories": ArraySpec("I64", (views, slots), 0, vocabulary),
            f"{kind}/factors": ArraySpec("F16", factors),
            f"{kind} sums/rating_count": ArraySpec("F64", (rows,), 0),
            f"{kind} sums/rating_sum": ArraySpec("F64", (rows,)),
            f"{kind} sums/price": ArraySpec("F32", (rows, len(PRICE_TAGS)), 0),
            f"{kind} sums/categories": ArraySpec("F32", (rows, votes), 0),
        }
        for block in blocks:
            width = "image width" if is_baseline and block == "photos" else "text width"
            specs[f"{kind}/vectors/{block}"] = ArraySpec("F16", (views, width))
            specs[f"{kind}/present/{block}"] = ArraySpec("F32", (views,), 0, 1)
            specs[f"{kind} sums/text_count/{block}"] = ArraySpec("F32", (rows,), 0)
    if is_mmrec:
        width, topics = "text width", builder.factor_count
        specs["text regression/mean_rating"] = ArraySpec("F64", ())
        for name in ("mean_vector", "weights"):
            specs[f"text regression/{name}"] = ArraySpec("F64", (width,))
        specs["text regression/topic_axes"] = ArraySpec("F64", (width, topics))
    return specs


def retrieval_specs(items: int, inputs: int) -> dict[str, ArraySpec]:
    """Arrays of `retrieval.safetensors`, with the number of inputs of the blend."""
    specs = {
        "weights": ArraySpec("F32", (inputs,)),
        "text mean": ArraySpec("F32", ("text width",)),
        "text axes": ArraySpec("F32", ("text width", "topics")),
        "user topics": ArraySpec("F32", ("users", "topics")),
        "item_factors": ArraySpec("F32", (items, "item factors")),
        "topics": ArraySpec("F32", (items, "topics")),
        "visitor_topics": ArraySpec("F32", (items, "topics")),
        "visit_count": ArraySpec("F32", (items,), 0),
        "like_count": ArraySpec("F32", (items,), 0),
    }
    for name in SIMILARITIES:
        pairs = f"pairs of {name}"
        specs[f"{name}/data"] = ArraySpec("F32", (pairs,))
        specs[f"{name}/indices"] = ArraySpec("I32 I64", (pairs,), 0, items - 1)
        specs[f"{name}/indptr"] = ArraySpec("I32 I64", (items + 1,), 0)
    return specs


class _Columns(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_Column = Field(fail_fast=True)  # of a million errors, the first is enough
_Texts = Annotated[list[str], _Column]
_Lists = Annotated[list[_Texts], _Column]


class ReviewColumns(_Columns):
    """`reviews.json`: the columns of `REVIEW_SCHEMA`, of at least one review."""

    review_id: _Texts = Field(min_length=1)
    user: _Texts
    item: _Texts
    rating: Annotated[list[Annotated[float, Field(ge=-_LIMIT, le=_LIMIT)]], _Column]
    text: _Texts
    # Microseconds since 1970.
    time: Annotated[list[Annotated[int, Field(ge=_FIRST_TIME, le=_LAST_TIME)] | None], _Column]
    photos: _Lists
    captions: _Lists


class ItemColumns(_Columns):
    """`items.json`: the columns of `ITEM_SCHEMA`."""

    item: _Texts
    name: Annotated[list[str | None], _Column]
    photos: _Lists
    captions: _Lists


class NoteColumns(_Columns):
    """`notes.json`: the notes of all reviews; no rows where the model was not made of notes."""

    notes: Annotated[list[Note], _Column]


def read_table(
    path: Path, columns: type[_Columns], schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Read a table, whose columns must be as long as each other; or a ValueError."""
    values = vars(columns.model_validate_json(path.read_bytes()))
    if len(set(map(len, values.values()))) != 1:
        raise ValueError("its columns differ in length")
    series = []
    for name, dtype in schema.items():
        physical = pl.Int64() if dtype == pl.Datetime else dtype
        series.append(pl.Series(name, values[name], physical).cast(dtype))
    return pl.DataFrame(series)


def read_notes(path: Path, reviews: int) -> list[Note]:
    """Read the notes of all reviews, or of none; or a ValueError."""
    notes = NoteColumns.model_validate_json(path.read_bytes()).notes
    if len(notes) not in (0, reviews):
        raise ValueError(f"it has {len(notes):,} notes of {reviews:,} reviews")
    return notes
