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
from mmrec.data.schema import EntityKind, Interactions, Reviews
from mmrec.errors import ModelError
from mmrec.features.annotations import EvidenceSums
from mmrec.features.builder import FeatureBuilder
from mmrec.features.tables import EntityFeatures, Features
from mmrec.features.text_regression import TextRegression
from mmrec.llm.types import Note
from mmrec.pipeline import FitEvaluation, TrainedModel
from mmrec.ranker.dlrm import Ranker, RankerShape
from mmrec.recommender.online import KnownReviews

__all__ = [
    "Manifest",
    "SavedRecommender",
    "load_recommender",
    "read_manifest",
    "save_recommender",
    "strip_server_address",
]

_FORMAT = 4
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
    builder: FeatureBuilder
    shape: RankerShape
    class_weights: tuple[float, float]
    evaluation: FitEvaluation
    source: str
    user_names: list[str]
    item_names: list[str]


@dataclass(frozen=True)
class SavedRecommender:
    """All that a recommender is: settings, model, the reviews it knows, and what was read out of them."""

    config: Config
    model: TrainedModel
    reviews: Reviews
    notes: list[Note]
    known_reviews: KnownReviews
    evaluation: FitEvaluation

    def portable(self) -> SavedRecommender:
        """The same without what holds on this machine alone: paths of files, addresses of servers."""
        config = self.model.builder.config
        language = config.language.model_copy(
            update={"llm": strip_server_address(config.language.llm)}
        )
        vision = config.vision.model_copy(
            update={"captioner": strip_server_address(config.vision.captioner)}
        )
        parts = {"store": None, "read": ReadConfig(), "language": language, "vision": vision}
        config = config.model_copy(update=parts)
        model = replace(
            self.model, builder=self.model.builder.model_copy(update={"config": config})
        )
        none, known = pl.lit([], dtype=pl.List(pl.String)).alias("photos"), self.reviews
        reviews = replace(
            known, table=known.table.with_columns(none), items=known.items.with_columns(none)
        )
        return replace(self, config=config, model=model, reviews=reviews)


def strip_server_address(spelled: str) -> str:
    """A model as settings spell it, without the URL of its server."""
    return re.sub("(?is)@?https?://.*", "", spelled) or "openai:unnamed"


def save_recommender(saved: SavedRecommender, folder: Path) -> Path:
    """Write a recommender; files of an earlier one in the folder are replaced."""
    model, known = saved.model, saved.known_reviews
    features = known.features
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        format=_FORMAT,
        version=mmrec.__version__,
        config=saved.config,
        builder=model.builder,
        shape=model.ranker.shape,
        class_weights=model.class_weights,
        evaluation=saved.evaluation,
        source=Path(saved.reviews.source).name,
        user_names=list(features.user.names),
        item_names=list(features.item.names),
    )
    save_tensors(model.ranker.state_dict(), folder / "model.safetensors")
    arrays = {**_arrays(features.user, "user"), **_arrays(features.item, "item")}
    arrays |= {
        name: x
        for of, tally in known.evidence_sums.items()
        for name, x in _tally_arrays(tally, of).items()
    }
    arrays |= (
        {
            f"text_regression/{name}": np.asarray(x)
            for name, x in vars(known.text_regression).items()
        }
        if known.text_regression
        else {}
    )
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


def read_manifest(folder: Path) -> Manifest:
    """What a saved model says of itself, without its arrays and tables.

    Raises:
        ModelError: no such model, one of another format, or a damaged one.
    """
    if not (folder / "model.json").is_file():
        raise ModelError(
            f"{folder}: no model.json here; name a folder that `mmrec fit --out` wrote"
        )
    try:
        raw = json.loads((folder / "model.json").read_bytes())
        if raw.get("format") != _FORMAT:
            raise ModelError(
                f"{folder}: format {raw.get('format')!r}, this mmrec reads {_FORMAT}; fit again"
            )
        manifest = Manifest.model_validate(raw)
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    store = manifest.config.store
    if store is not None and not os.path.isdir(store.parent):  # it was another machine's
        manifest.config = manifest.config.model_copy(update={"store": None})
    return manifest


def load_recommender(folder: Path) -> SavedRecommender:
    """Read what `save` wrote.

    Raises:
        ModelError: no such model, one of another format, or a damaged one.
    """
    manifest = read_manifest(folder)
    try:
        ranker = Ranker(manifest.shape)
        ranker.load_state_dict(load_tensors(folder / "model.safetensors"))
        ranker.eval()
        arrays = load_file(folder / "features.safetensors")
        tables = {
            name: pl.read_parquet(folder / f"{name}.parquet")
            for name in ("reviews", "items", "notes")
        }
        notes = [Note.model_validate(row) for row in tables["notes"].to_dicts()]
        data = Interactions.from_table(tables["reviews"])
        sides = (
            _side(arrays, "user", manifest.user_names),
            _side(arrays, "item", manifest.item_names),
        )
        tally: dict[EntityKind, EvidenceSums] = {
            "user": _tally(arrays, "user"),
            "item": _tally(arrays, "item"),
        }
        lens = _lens(_under(arrays, "text_regression"))
        known = KnownReviews(data, Features(*sides, data.user, data.item), tally, lens)
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    return SavedRecommender(
        manifest.config,
        TrainedModel(manifest.builder, ranker, manifest.class_weights, {}),
        Reviews(tables["reviews"], tables["items"], source=manifest.source),
        notes,
        known,
        manifest.evaluation,
    )


def _damaged(folder: Path, error: Exception) -> ModelError:
    return ModelError(f"{folder}: the saved model is damaged ({error}); fit and save it again")


def _arrays(side: EntityFeatures, name: str) -> dict[str, np.ndarray]:
    named = {"dense": side.dense, "categories": side.categories, "factors": side.factors}
    named |= {f"vectors/{block}": values for block, values in side.vectors.items()}
    named |= {f"present/{block}": there for block, there in side.present.items()}
    return {f"{name}/{part}": np.ascontiguousarray(values) for part, values in named.items()}


def _tally_arrays(tally: EvidenceSums, of: EntityKind) -> dict[str, np.ndarray]:
    named = {
        name: getattr(tally, name) for name in ("rating_count", "rating_sum", "price", "categories")
    }
    named |= {f"text_count/{block}": voices for block, voices in tally.text_count.items()}
    return {f"{of}/tally/{part}": np.ascontiguousarray(values) for part, values in named.items()}


def _tally(arrays: dict[str, np.ndarray], of: EntityKind) -> EvidenceSums:
    own = _under(arrays, f"{of}/tally")
    voices = _under(own, "text_count")
    return EvidenceSums(
        own["rating_count"], own["rating_sum"], {}, voices, own["price"], own["categories"]
    )


def _lens(own: dict[str, np.ndarray]) -> TextRegression | None:
    return (
        TextRegression(
            float(own["mean_rating"]), own["mean_vector"], own["weights"], own["topic_axes"]
        )
        if own
        else None
    )


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {
        key.removeprefix(start): values for key, values in arrays.items() if key.startswith(start)
    }


def _side(arrays: dict[str, np.ndarray], of: EntityKind, names: list[str]) -> EntityFeatures:
    return EntityFeatures(
        tuple(names),
        arrays[f"{of}/dense"],
        _under(arrays, f"{of}/vectors"),
        _under(arrays, f"{of}/present"),
        arrays[f"{of}/categories"],
        arrays[f"{of}/factors"],
    )
