"""Saves a recommender in a folder: arrays as safetensors, settings and tables as JSON; no pickle.

`model.json` names a subfolder `model-...` with all other files, their sizes and SHA-256, and begins
with the SHA-256 of the rest of itself. A new model is written to a new subfolder, and takes the place
of the old one when `model.json` is replaced, which is one step for a file system. So a process that
is killed leaves the old model or the new one, and what else lies in the folder stays.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import mmrec
from mmrec.config import Config
from mmrec.data.schema import ITEM_SCHEMA, REVIEW_SCHEMA, EntityKind, Reviews
from mmrec.encoder.weights import file_digest
from mmrec.errors import ModelError
from mmrec.evaluation.metrics import METRICS, FitEvaluation
from mmrec.evaluation.simple_baselines import BIAS_MODEL
from mmrec.evidence.policies import NO_GROUP, EvidenceViews
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import EFFECT_COLUMNS, TextRegression
from mmrec.features.tables import EntityFeatures, EvidenceSums, Features
from mmrec.llm.types import Note
from mmrec.pipeline import TrainedModel, fit_retrieval, list_visits
from mmrec.retrieval.histories import Histories, sum_topics, visit_matrix
from mmrec.retrieval.retrieval import Retrieval

FORMAT = 10
SUBFOLDER = "^model-[0-9a-f]{16}$"
_FILES = ["model.safetensors", "features.safetensors", "retrieval.safetensors"]
_FILES += ["reviews.json", "items.json", "notes.json"]
_Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FileEntry(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(extra="forbid")

    size: int  # in bytes
    sha256: str


class Manifest(BaseModel):
    """`model.json`: everything but arrays and tables."""

    # JSON has no inf, which is the threshold that recommends nothing.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    format: int
    version: str
    folder: Annotated[str, Field(pattern=SUBFOLDER)]  # with the files
    files: dict[str, FileEntry]
    builder: FeatureBuilder
    runs: Annotated[int, Field(ge=1, le=1000)]  # of the ranker, side by side
    class_weights: tuple[_Weight, _Weight]
    evaluation: FitEvaluation
    source: str

    @model_validator(mode="after")
    def _check_consistency(self) -> Manifest:
        features, evaluation = self.builder.config.ranker.features, self.evaluation
        if self.files.keys() != {*_FILES}:
            raise ValueError(f"its files are not {', '.join(_FILES)}")
        used = evaluation.verdict.model if evaluation.verdict else features
        wanted = {*(metric.name for metric in METRICS), "rows", "likes"}
        has_metrics = all(wanted <= values.keys() for values in evaluation.metrics.values())
        if used not in (features, BIAS_MODEL) or used not in evaluation.metrics or not has_metrics:
            raise ValueError("metrics are missing")
        if any(len(values) != 101 for values in evaluation.curve):
            raise ValueError("the curve of thresholds has not 101 points")
        columns = {*EFFECT_COLUMNS} if features == "mmrec" else set()
        for kind in ("user", "item"):
            if self.builder.unknown_effects.get(kind, {}).keys() != columns:
                raise ValueError(f"effects of an unknown {kind} are missing")
        return self


@dataclass(frozen=True)
class SavedRecommender:
    """A fitted recommender: its model with all settings, reviews, and what is stored of them."""

    model: TrainedModel
    reviews: Reviews
    evaluation: FitEvaluation
    features: Features  # of every user and every item by code; rows are the reviews
    # Live reviews are added to these sums over the reviews of each user and item. They have no
    # vectors, whose means are in the features.
    evidence_sums: dict[EntityKind, EvidenceSums]
    text_regression: TextRegression | None
    notes: list[Note]  # of the reviews; none where the model was not made of notes
    retrieval: Retrieval
    user_topics: np.ndarray  # (users, t) float32 sums over the texts of each user

    @property
    def name(self) -> str:
        """Whose probabilities these are: the trained model, or the bias model in its place."""
        verdict = self.evaluation.verdict
        return verdict.model if verdict else self.config.ranker.features

    @property
    def config(self) -> Config:
        """All settings; `ranker.features` names the model, also where several were compared."""
        return self.model.builder.config

    @property
    def histories(self) -> Histories:
        """What all users have visited."""
        table, shape = self.features, (len(self.user_topics), self.retrieval.proposers.items)
        liked = (self.reviews.table["rating"] >= self.config.like_rating).to_numpy()
        user, item = table.user_view, table.item_view
        likes = visit_matrix(user[liked], item[liked], shape)
        return Histories(visit_matrix(user, item, shape), likes, self.user_topics)

    @classmethod
    def from_training(
        cls, model: TrainedModel, reviews: Reviews, evaluation: FitEvaluation, dataset: Dataset
    ) -> SavedRecommender:
        """A model whose builder was refitted on all reviews, as a `dataset`; so are proposers here."""
        builder, data = model.builder, dataset.data
        features: dict[EntityKind, EntityFeatures] = {}
        evidence_sums: dict[EntityKind, EvidenceSums] = {}
        entities: dict[EntityKind, np.ndarray] = {"user": data.user, "item": data.item}
        for kind, entity in entities.items():
            views = EvidenceViews.all_reviews(entity)
            sums = builder.evidence_sums(kind, views, dataset)
            features[kind] = builder.from_sums(kind, sums, *builder.entity_effects(kind, views))
            evidence_sums[kind] = replace(sums, vectors={})
        effects = builder.mixed_effects.get(NO_GROUP)
        regression = effects.text_regression if effects else None
        uses_notes = builder.config.ranker.features != "baseline"
        uses_notes &= builder.config.annotation.strategy == "notes"
        notes = dataset.notes if uses_notes else []
        table = Features(features["user"], features["item"], data.user, data.item)
        retrieval = fit_retrieval(dataset, np.arange(len(dataset)), builder.config)
        visits = list_visits(dataset, retrieval.axes, builder.config.like_rating)
        topics = sum_topics(visits.user, visits.topics, visits.users)
        stored = evaluation, table, evidence_sums, regression, notes
        return cls(model, reviews, *stored, retrieval, topics)


def save_recommender(saved: SavedRecommender, folder: Path) -> Path:
    """Write a recommender, all or nothing, in place of an earlier one; a ModelError if it fails."""
    model, tables = saved.model, saved.reviews
    fields = {"user": vars(saved.features.user), "item": vars(saved.features.item)}
    fields |= {f"{kind} sums": vars(sums) for kind, sums in saved.evidence_sums.items()}
    if saved.text_regression is not None:
        fields["text regression"] = vars(saved.text_regression)
    retrieval = saved.retrieval.arrays() | {"user topics": saved.user_topics}
    columns: dict[str, dict[str, list[Any]]] = {
        "reviews": _to_columns(tables.table, REVIEW_SCHEMA),
        "items": _to_columns(tables.items, ITEM_SCHEMA),
        "notes": {"notes": [note.model_dump() for note in saved.notes]},
    }
    with replace_model(folder) as files:
        save_tensors(model.ranker.state_dict(), files / "model.safetensors")
        save_file(_flatten(fields), files / "features.safetensors")
        save_file(retrieval, files / "retrieval.safetensors")
        for name, values in columns.items():
            text = json.dumps(values, ensure_ascii=False, allow_nan=False)
            (files / f"{name}.json").write_text(text, encoding="utf-8")
        manifest = Manifest(
            format=FORMAT,
            version=mmrec.__version__,
            folder=files.name,
            files=describe_files(files),
            builder=model.builder,
            runs=model.ranker.shape.runs,
            class_weights=model.class_weights,
            evaluation=saved.evaluation,
            source=Path(tables.source).name,
        )
        content = manifest_bytes(manifest.model_dump_json(indent=2))
        (files / "model.json").write_bytes(content)
    return folder


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays of nested mappings by path, as in `user/vectors/gist`."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            arrays |= _flatten(value, f"{prefix}{name}/")
        elif name != "names":  # text, which the builder knows
            arrays[prefix + name] = np.asarray(value, order="C")
    return arrays


def _to_columns(table: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> dict[str, list[Any]]:
    """The columns of a schema as lists; lists that a table lacks are empty."""
    columns: dict[str, list[Any]] = {}
    for name, dtype in schema.items():
        if name not in table.columns:
            columns[name] = [[] if dtype == pl.List else None] * len(table)
            continue
        values = table[name].to_physical()
        columns[name] = (values.fill_null([]) if dtype == pl.List else values).to_list()
    return columns


@contextmanager
def replace_model(folder: Path) -> Iterator[Path]:
    """A new subfolder to write all files of a model to, also `model.json`, as `manifest_bytes`.

    When the block ends they are the model, and the files of the earlier one are removed; if it
    fails, the earlier one stays. A ModelError is raised if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two processes that save here take turns.
        with FileLock(folder / ".model.lock"):
            files = folder / f"model-{secrets.token_hex(8)}"
            files.mkdir()
            try:
                yield files
                for path in files.iterdir():
                    # Safetensors are written for the owner alone, but a server must read them.
                    shutil.copymode(files / "model.json", path)
                    _flush(path)
                _flush(files)
            except BaseException:
                shutil.rmtree(files, ignore_errors=True)
                raise
            os.replace(files / "model.json", folder / "model.json")
            _flush(folder)
            for path in folder.iterdir():  # also of saves that were killed
                if re.fullmatch(SUBFOLDER, path.name) and path != files and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # a full disk may be either
        message = f"the model cannot be saved ({error}); what was saved before is unchanged"
        raise ModelError(f"{folder}: {message}") from error


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a killed process, or a link of somebody else
    with new.open("x", encoding="utf-8") as file:
        file.write(text)
    _flush(new)
    os.replace(new, path)


def _flush(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # which Windows cannot open
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def describe_files(files: Path) -> dict[str, FileEntry]:
    """All files of a folder by name."""
    entries = {}
    for path in sorted(files.iterdir()):
        entries[path.name] = FileEntry(size=path.stat().st_size, sha256=file_digest(path))
    return entries


def manifest_bytes(manifest: str) -> bytes:
    """Content of `model.json`: a JSON object with the SHA-256 of what follows it as its first member."""
    rest = manifest.encode().removeprefix(b"{")
    return f'{{"sha256": "{sha256(rest).hexdigest()}",'.encode() + rest
