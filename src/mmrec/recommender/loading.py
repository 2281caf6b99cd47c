"""Loads a saved recommender, whose folder may be damaged or made by anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmrec.data.schema import ITEM_SCHEMA, REVIEW_SCHEMA, Interactions, Reviews
from mmrec.encoder.weights import MINILM_WIDTH
from mmrec.errors import ModelError
from mmrec.features.mixed_effects import TextRegression
from mmrec.features.tables import EntityFeatures, EvidenceSums, Features
from mmrec.pipeline import TrainedModel, ranker_shape
from mmrec.ranker.dlrm import Ranker
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender import model_folder, saved_arrays
from mmrec.recommender.model_folder import translate_damage
from mmrec.recommender.persistence import Manifest, SavedRecommender
from mmrec.recommender.saved_arrays import ArraySpec, ItemColumns, ReviewColumns, read_arrays
from mmrec.recommender.trust import limit_photos, limit_settings
from mmrec.retrieval.blend import input_names
from mmrec.retrieval.proposers import PROPOSER_NAMES
from mmrec.retrieval.retrieval import Retrieval


def read_manifest(folder: Path, *, trust: bool = False, allow_links: bool = False) -> Manifest:
    """The manifest of a saved model, with the settings that hold here (see `limit_settings`).

    A ModelError is raised if it is missing, old or damaged, or needs `trust`.
    """
    content = model_folder.read_manifest_bytes(folder, allow_links=allow_links)
    with translate_damage(folder / "model.json"):
        manifest = Manifest.model_validate_json(content)
    config = limit_settings(manifest.builder.config, folder, trust=trust)
    manifest.builder = manifest.builder.model_copy(update={"config": config})
    return manifest


def load_recommender(
    folder: Path, *, trust: bool = False, allow_links: bool = False
) -> SavedRecommender:
    """Read what `save_recommender` wrote; a ModelError says which file is damaged, or needs `trust`.

    With `trust` the folder's settings hold as they are; with `allow_links` its files may be links.
    """
    while True:
        manifest = read_manifest(folder, trust=trust, allow_links=allow_links)
        options: dict[str, Any] = {"allow_links": allow_links}
        try:
            files = model_folder.check_files(folder, manifest.folder, manifest.files, **options)
            saved = _read_files(manifest, files)
            break
        except ModelError:
            # Another process may have saved a model here, and removed the files of this one.
            if read_manifest(folder, trust=trust, allow_links=allow_links) == manifest:
                raise
    return saved if trust else replace(saved, reviews=limit_photos(saved.reviews, folder))


def _read_files(manifest: Manifest, files: Path) -> SavedRecommender:
    builder = manifest.builder
    with translate_damage(files / "reviews.json"):
        table = saved_arrays.read_table(files / "reviews.json", ReviewColumns, REVIEW_SCHEMA)
        data = Interactions.from_table(table)
    with translate_damage(files / "items.json"):
        items = saved_arrays.read_table(files / "items.json", ItemColumns, ITEM_SCHEMA)
    with translate_damage(files / "notes.json"):
        notes = saved_arrays.read_notes(files / "notes.json", len(data))
    sizes = {"users": len(data.users), "items": len(data.items)}
    sizes |= {f"views of {kind}": size + 1 for kind, size in sizes.items()}
    if builder.config.encoder.encoder_model.endswith("all-MiniLM-L6-v2"):
        sizes["text width"] = MINILM_WIDTH
    with translate_damage(files / "features.safetensors"):
        specs = saved_arrays.feature_specs(builder)
        fields = _nest(read_arrays(files / "features.safetensors", specs, sizes))
    user = EntityFeatures(builder.column_names("user"), **fields["user"])
    item = EntityFeatures(builder.column_names("item"), **fields["item"])
    features = Features(user, item, data.user, data.item)
    regression = None
    if arrays := fields.get("text regression"):
        regression = TextRegression(float(arrays.pop("mean_rating")), **arrays)
    with translate_damage(files / "retrieval.safetensors"):
        specs = saved_arrays.retrieval_specs(len(data.items), len(input_names(PROPOSER_NAMES)))
        arrays = read_arrays(files / "retrieval.safetensors", specs, sizes)
        retrieval = Retrieval.from_arrays(arrays, len(data.items))
    with translate_damage(files / "model.safetensors"):
        ranker = _read_ranker(files / "model.safetensors", manifest, features)
    return SavedRecommender(
        model=TrainedModel(builder, ranker, manifest.class_weights, {}),
        reviews=Reviews(table, items, source=manifest.source),
        evaluation=manifest.evaluation,
        features=features,
        evidence_sums={
            "user": EvidenceSums(vectors={}, **fields["user sums"]),
            "item": EvidenceSums(vectors={}, **fields["item sums"]),
        },
        text_regression=regression,
        notes=notes,
        retrieval=retrieval,
        user_topics=arrays["user topics"],
    )


@torch.no_grad()
def _read_ranker(path: Path, manifest: Manifest, features: Features) -> Ranker:
    """The ranker, whose shape follows from the features; a ValueError if it gives no probabilities."""
    shape = ranker_shape(manifest.builder, features, manifest.runs)
    with torch.device("meta"):  # sizes without memory, which the file may not have
        ranker = Ranker(shape)
    specs: dict[str, ArraySpec] = {}
    for name, tensor in ranker.state_dict().items():
        specs[name] = ArraySpec("F32", tuple(tensor.shape))
    for name in ("standardiser.dense_low", "standardiser.dense_high"):  # where there is no limit
        specs[name] = specs[name]._replace(low=-np.inf, high=np.inf)
    weights = {name: torch.from_numpy(x) for name, x in read_arrays(path, specs, {}).items()}
    ranker.load_state_dict(weights, assign=True)
    inputs = RankerInputs(features)
    pairs = inputs.user_view[:1000], inputs.item_view[:1000]
    if not ranker.eval()(inputs.view_batch(*pairs)).isfinite().all():
        raise ValueError("its probabilities are no numbers")
    return ranker


def _nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dictionaries of arrays by path."""
    fields: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        mapping = fields
        for parent in parents:
            mapping = mapping.setdefault(parent, {})
        mapping[name] = array
    return fields
