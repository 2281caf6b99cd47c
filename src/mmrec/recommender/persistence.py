"""A recommender in a folder: weights and features as safetensors, settings as JSON, reviews as Parquet."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

import mmrec
from mmrec.config import Config, ReadConfig
from mmrec.data.schema import Interactions, Reviews
from mmrec.errors import ModelError
from mmrec.evaluation import Curve, Outcome, Scores
from mmrec.features.annotations import Sums
from mmrec.features.builder import Assembler
from mmrec.features.tables import Features, SideFeatures
from mmrec.features.text_regression import Lens
from mmrec.llm.prompts import Of
from mmrec.llm.types import Note
from mmrec.pipeline import Model
from mmrec.ranker.dlrm import Ranker, Shape
from mmrec.recommender.online import Known

__all__ = ["Manifest", "Saved", "load", "manifest_of", "save", "without_address"]

_FORMAT = 3
_DAMAGE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pl.exceptions.PolarsError)
_NOTE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "gist": pl.String,
    "likes": pl.List(pl.String),
    "dislikes": pl.List(pl.String),
    "price": pl.String,
    "categories": pl.List(pl.String),
}


class Manifest(BaseModel):
    """`model.json`: everything but arrays and tables."""

    # JSON has no inf, which is the threshold that recommends nothing.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    format: int
    version: str
    config: Config
    assembler: Assembler
    shape: Shape
    weights: tuple[float, float]
    scores: dict[str, Scores]
    threshold: float
    outcome: Outcome
    curve: Curve
    source: str
    user_names: list[str]
    item_names: list[str]


@dataclass(frozen=True)
class Saved:
    """All that a recommender is: settings, model, the reviews it knows, and what was read out of them."""

    config: Config
    model: Model
    reviews: Reviews
    notes: list[Note]
    known: Known
    scores: dict[str, Scores]
    threshold: float
    outcome: Outcome
    curve: Curve

    def portable(self) -> Saved:
        """The same without what holds on this machine alone: paths of files, addresses of servers."""
        config = self.model.assembler.config
        language = config.language.model_copy(update={"llm": without_address(config.language.llm)})
        vision = config.vision.model_copy(update={"captioner": without_address(config.vision.captioner)})
        parts = {"store": None, "read": ReadConfig(), "language": language, "vision": vision}
        config = config.model_copy(update=parts)
        model = replace(self.model, assembler=self.model.assembler.model_copy(update={"config": config}))
        none, known = pl.lit([], dtype=pl.List(pl.String)).alias("photos"), self.reviews
        reviews = replace(known, table=known.table.with_columns(none), items=known.items.with_columns(none))
        return replace(self, config=config, model=model, reviews=reviews)


def without_address(spelled: str) -> str:
    """A model as settings spell it, without the URL of its server."""
    return re.sub("(?is)@?https?://.*", "", spelled) or "openai:unnamed"


def save(saved: Saved, folder: Path) -> Path:
    """Write a recommender; files of an earlier one in the folder are replaced."""
    model, known = saved.model, saved.known
    features = known.features
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        format=_FORMAT,
        version=mmrec.__version__,
        config=saved.config,
        assembler=model.assembler,
        shape=model.ranker.shape,
        weights=model.weights,
        scores=saved.scores,
        threshold=saved.threshold,
        outcome=saved.outcome,
        curve=saved.curve,
        source=Path(saved.reviews.source).name,
        user_names=list(features.user.names),
        item_names=list(features.item.names),
    )
    save_tensors(model.ranker.state_dict(), folder / "model.safetensors")
    arrays = {**_arrays(features.user, "user"), **_arrays(features.item, "item")}
    arrays |= {name: x for of, tally in known.tally.items() for name, x in _tally_arrays(tally, of).items()}
    arrays |= {f"lens/{name}": np.asarray(x) for name, x in vars(known.lens).items()} if known.lens else {}
    save_file(arrays, folder / "features.safetensors")
    saved.reviews.table.write_parquet(folder / "reviews.parquet")
    saved.reviews.items.write_parquet(folder / "items.parquet")
    notes = pl.DataFrame([note.model_dump() for note in saved.notes], schema=_NOTE_SCHEMA)
    notes.write_parquet(folder / "notes.parquet")
    # Last, since a folder is a model only when it has a manifest.
    (folder / "model.json").write_text(manifest.model_dump_json(indent=2))
    for path in folder.glob("*.safetensors"):  # else nobody but their owner could serve them
        shutil.copymode(folder / "model.json", path)
    return folder


def manifest_of(folder: Path) -> Manifest:
    """What a saved model says of itself, without its arrays and tables.

    Raises:
        ModelError: no such model, one of another format, or a damaged one.
    """
    if not (folder / "model.json").is_file():
        raise ModelError(f"{folder}: no model.json here; name a folder that `mmrec fit --out` wrote")
    try:
        raw = json.loads((folder / "model.json").read_bytes())
        if raw.get("format") != _FORMAT:
            raise ModelError(f"{folder}: format {raw.get('format')!r}, this mmrec reads {_FORMAT}; fit again")
        manifest = Manifest.model_validate(raw)
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    store = manifest.config.store
    if store is not None and not os.path.isdir(store.parent):  # it was another machine's
        manifest.config = manifest.config.model_copy(update={"store": None})
    return manifest


def load(folder: Path) -> Saved:
    """Read what `save` wrote.

    Raises:
        ModelError: no such model, one of another format, or a damaged one.
    """
    manifest = manifest_of(folder)
    try:
        ranker = Ranker(manifest.shape)
        ranker.load_state_dict(load_tensors(folder / "model.safetensors"))
        ranker.eval()
        arrays = load_file(folder / "features.safetensors")
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("reviews", "items", "notes")}
        notes = [Note.model_validate(row) for row in tables["notes"].to_dicts()]
        data = Interactions.of(tables["reviews"])
        sides = (_side(arrays, "user", manifest.user_names), _side(arrays, "item", manifest.item_names))
        tally: dict[Of, Sums] = {"user": _tally(arrays, "user"), "item": _tally(arrays, "item")}
        lens = _lens(_under(arrays, "lens"))
        known = Known(data, Features(*sides, data.user, data.item), tally, lens)
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    return Saved(
        manifest.config,
        Model(manifest.assembler, ranker, manifest.weights, {}),
        Reviews(tables["reviews"], tables["items"], source=manifest.source),
        notes,
        known,
        manifest.scores,
        manifest.threshold,
        manifest.outcome,
        manifest.curve,
    )


def _damaged(folder: Path, error: Exception) -> ModelError:
    return ModelError(f"{folder}: the saved model is damaged ({error}); fit and save it again")


def _arrays(side: SideFeatures, name: str) -> dict[str, np.ndarray]:
    named = {"dense": side.dense, "categories": side.categories, "taste": side.taste}
    named |= {f"vectors/{block}": values for block, values in side.vectors.items()}
    named |= {f"present/{block}": there for block, there in side.present.items()}
    return {f"{name}/{part}": np.ascontiguousarray(values) for part, values in named.items()}


def _tally_arrays(tally: Sums, of: Of) -> dict[str, np.ndarray]:
    named = {name: getattr(tally, name) for name in ("ratings", "stars", "price", "categories")}
    named |= {f"voices/{block}": voices for block, voices in tally.voices.items()}
    return {f"{of}/tally/{part}": np.ascontiguousarray(values) for part, values in named.items()}


def _tally(arrays: dict[str, np.ndarray], of: Of) -> Sums:
    own = _under(arrays, f"{of}/tally")
    voices = _under(own, "voices")
    return Sums(own["ratings"], own["stars"], {}, voices, own["price"], own["categories"])


def _lens(own: dict[str, np.ndarray]) -> Lens | None:
    return Lens(float(own["mean"]), own["centre"], own["tone"], own["axes"]) if own else None


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {key.removeprefix(start): values for key, values in arrays.items() if key.startswith(start)}


def _side(arrays: dict[str, np.ndarray], of: Of, names: list[str]) -> SideFeatures:
    return SideFeatures(
        tuple(names),
        arrays[f"{of}/dense"],
        _under(arrays, f"{of}/vectors"),
        _under(arrays, f"{of}/present"),
        arrays[f"{of}/categories"],
        arrays[f"{of}/taste"],
    )
