"""A recommender in a folder: safetensors, settings as JSON, reviews as Parquet; no pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

import mmrec
from mmrec.config import Config
from mmrec.data.schema import EntityKind, Interactions, Reviews
from mmrec.errors import ModelError
from mmrec.evaluation.metrics import FitEvaluation
from mmrec.evidence.policies import NO_GROUP, EvidenceViews
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import TextRegression
from mmrec.features.tables import EntityFeatures, EvidenceSums, Features
from mmrec.llm.types import Note
from mmrec.pipeline import TrainedModel, fit_retrieval, list_visits
from mmrec.ranker.dlrm import Ranker, RankerShape
from mmrec.retrieval.histories import Histories, sum_topics, visit_matrix
from mmrec.retrieval.retrieval import Retrieval

_FORMAT = 9


class Manifest(BaseModel):
    """`model.json`: everything but arrays and tables."""

    # JSON has no inf, which is the threshold that recommends nothing.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    format: int
    version: str
    builder: FeatureBuilder
    shape: RankerShape
    class_weights: tuple[float, float]
    evaluation: FitEvaluation
    source: str
    user_names: list[str]
    item_names: list[str]


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
    """Write a recommender; files of an earlier one in the folder are replaced."""
    model, user, item = saved.model, saved.features.user, saved.features.item
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        format=_FORMAT,
        version=mmrec.__version__,
        builder=model.builder,
        shape=model.ranker.shape,
        class_weights=model.class_weights,
        evaluation=saved.evaluation,
        source=Path(saved.reviews.source).name,
        user_names=list(user.names),
        item_names=list(item.names),
    )
    save_tensors(model.ranker.state_dict(), folder / "model.safetensors")
    fields = {"user": vars(user), "item": vars(item)}
    fields |= {f"{kind} sums": vars(sums) for kind, sums in saved.evidence_sums.items()}
    if saved.text_regression is not None:
        fields["text regression"] = vars(saved.text_regression)
    save_file(_flatten(fields), folder / "features.safetensors")
    arrays = saved.retrieval.arrays()
    save_file(arrays | {"user topics": saved.user_topics}, folder / "retrieval.safetensors")
    saved.reviews.table.write_parquet(folder / "reviews.parquet")
    saved.reviews.items.write_parquet(folder / "items.parquet")
    # The types are named for a model without notes.
    text, texts = pl.String(), pl.List(pl.String)
    types = {"gist": text, "likes": texts, "dislikes": texts, "price": text, "categories": texts}
    notes = pl.DataFrame([note.model_dump() for note in saved.notes], types)
    notes.write_parquet(folder / "notes.parquet")
    # The manifest makes the folder a model, so it is written last.
    (folder / "model.json").write_text(manifest.model_dump_json(indent=2))
    # Safetensors are written for the owner alone, but a server must read them.
    for path in folder.glob("*.safetensors"):
        shutil.copymode(folder / "model.json", path)
    return folder


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a saved model; a ModelError if it is missing, old or damaged."""
    if not (folder / "model.json").is_file():
        message = "no model.json here; name a folder that `mmrec fit --out` wrote"
        raise ModelError(f"{folder}: {message}")
    with _translate_damage(folder):
        values = json.loads((folder / "model.json").read_bytes())
        if values.get("format") != _FORMAT:
            message = f"format {values.get('format')!r}, this mmrec reads {_FORMAT}; fit again"
            raise ModelError(f"{folder}: {message}")
        manifest = Manifest.model_validate(values)
    config = manifest.builder.config
    # A store of another machine is of no use here.
    if config.store is not None and not config.store.parent.is_dir():
        config = config.model_copy(update={"store": None})
        manifest.builder = manifest.builder.model_copy(update={"config": config})
    return manifest


def load_recommender(folder: Path) -> SavedRecommender:
    """Read what `save_recommender` wrote; raises what `read_manifest` does."""
    manifest = read_manifest(folder)
    with _translate_damage(folder):
        ranker = Ranker(manifest.shape)
        ranker.load_state_dict(load_tensors(folder / "model.safetensors"))
        table = pl.read_parquet(folder / "reviews.parquet")
        items = pl.read_parquet(folder / "items.parquet")
        notes = pl.read_parquet(folder / "notes.parquet").to_dicts()
        fields: dict[str, Any] = {}
        for path, array in load_file(folder / "features.safetensors").items():
            *parents, name = path.split("/")
            mapping = fields
            for parent in parents:
                mapping = mapping.setdefault(parent, {})
            mapping[name] = array
        user = EntityFeatures(tuple(manifest.user_names), **fields["user"])
        item = EntityFeatures(tuple(manifest.item_names), **fields["item"])
        user_sums = EvidenceSums(vectors={}, **fields["user sums"])
        item_sums = EvidenceSums(vectors={}, **fields["item sums"])
        regression = None
        if arrays := fields.get("text regression"):
            regression = TextRegression(float(arrays.pop("mean_rating")), **arrays)
        data = Interactions.from_table(table)
        arrays = load_file(folder / "retrieval.safetensors")
        user_topics = arrays.pop("user topics")
        retrieval = Retrieval.from_arrays(arrays, len(data.items))
        shape = len(data.users), retrieval.proposers.topics.shape[1]
        is_finite = user_topics.dtype == np.float32 and np.isfinite(user_topics).all()
        if user_topics.shape != shape or not is_finite:
            raise ValueError(f"topics of users are not {shape} finite float32 numbers")
        return SavedRecommender(
            model=TrainedModel(manifest.builder, ranker.eval(), manifest.class_weights, {}),
            reviews=Reviews(table, items, source=manifest.source),
            evaluation=manifest.evaluation,
            features=Features(user, item, data.user, data.item),
            evidence_sums={"user": user_sums, "item": item_sums},
            text_regression=regression,
            notes=[Note.model_validate(note) for note in notes],
            retrieval=retrieval,
            user_topics=user_topics,
        )


@contextmanager
def _translate_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # readers of four formats raise all kinds of errors
        message = f"{folder}: the saved model is damaged ({error}); fit and save it again"
        raise ModelError(message) from error


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays of nested mappings by path, as in `user/vectors/gist`."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            arrays |= _flatten(value, f"{prefix}{name}/")
        elif name != "names":  # text, which the manifest has
            arrays[prefix + name] = np.asarray(value, order="C")
    return arrays
