"""Photos from the file to the ranker: the paper's image baseline, and captions that came with the data."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.config import Config, ReadConfig, TrainingConfig, VisionConfig
from mmrec.data import Reviews, read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import ModelError
from mmrec.experiments.compare import audit_features, compare
from mmrec.pipeline import open_models
from mmrec.recommender.recommender import Recommender
from tiny_models import tiny_resnet_folder

pytestmark = pytest.mark.usefixtures("minilm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_sample_city(tmp_path_factory.mktemp("city"), seed=3, users=40, items=15, reviews=300)
    return path.parent


@pytest.fixture(scope="module")
def reviews(folder):
    return read_reviews(folder / "reviews.jsonl", ReadConfig(items=folder / "places.jsonl"))


def settings(folder, image_model=None):
    vision = VisionConfig(image_model=image_model) if image_model else VisionConfig()
    return Config(store=folder / "store.sqlite", training=TrainingConfig(epochs=2), vision=vision)


@pytest.fixture(scope="module")
def compared(folder, reviews):
    config = settings(folder, str(tiny_resnet_folder(folder / "resnet")))
    models = open_models(config)
    return config, models, compare(reviews, config, models)


def test_the_baseline_has_text_and_photos_in_one_reducer(compared):
    _, _, result = compared
    groups = {name: trained.model.ranker.shape.groups for name, trained in result.trained.items()}
    assert groups["baseline"] == {"text": {"user reviews": 384, "item reviews": 384, "item photos": 64}}
    assert groups["proposed"]["image"] == {"item photos": 384}
    assert "no photos" in result.trained["baseline"].features.item.names
    assert not [remark for remark in result.remarks if "image" in remark]


def test_features_of_photos_pass_the_audit(compared):
    audits = audit_features(compared[2], 100)
    assert list(audits) == ["baseline", "proposed", "mmrec", "lists"]
    assert not any(audit.violations for audit in audits.values())


def test_a_saved_baseline_recommends_without_the_image_model(compared, reviews, tmp_path):
    config, models, result = compared
    baseline = config.model_copy(update={"ranker": config.ranker.model_copy(update={"features": "baseline"})})
    fitted = Recommender(baseline, models).use_model(result.trained["baseline"], reviews, result.metrics)
    assert not fitted.saved.notes  # they are written when the model is saved
    user = fitted.state.dataset.data.users[0]
    expected = fitted.recommend(user, 5)
    Path(config.vision.image_model).rename(tmp_path / "elsewhere")
    try:
        again = Recommender.load(fitted.save(tmp_path / "model"), trust=True)
        assert len(again.saved.notes) == len(reviews)
        assert again.recommend(user, 5).equals(expected)
        assert again.recommend(likes="quiet places", n=3).height == 3
    finally:
        (tmp_path / "elsewhere").rename(config.vision.image_model)


def test_without_weights_a_remark_names_the_remedy(folder, reviews, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = settings(folder)
    result = compare(reviews, config, open_models(config), ["baseline"])
    assert not result.trained["baseline"].model.builder.image
    (remark,) = [remark for remark in result.remarks if "image block" in remark]
    assert re.search("microsoft/resnet-50 are not here.*--image-model", remark)
    plain = Reviews(reviews.table.with_columns(photos=pl.lit([], pl.List(pl.String))))
    result = compare(plain, config, open_models(config), ["baseline"])
    assert "baseline: no image block, since no item has a photo" in result.remarks
    missing = settings(folder, str(tmp_path / "absent"))
    with pytest.raises(ModelError, match=r"no model in .*absent: it needs config.json"):
        compare(reviews, missing, open_models(missing), ["baseline"])


def test_captions_in_the_data_replace_those_of_the_captioner(folder, reviews):
    photos = sorted(folder.glob("photos/*.jpg"))
    captions = {str(path.resolve()): f"dish number {number}" for number, path in enumerate(photos)}
    table = pl.read_ndjson(folder / "reviews.jsonl", infer_schema_length=None)
    alt = [[captions[str((folder / photo).resolve())] for photo in photos] for photos in table["photos"]]
    table.with_columns(alt=pl.Series(alt)).write_ndjson(folder / "captions.jsonl")
    columns = ReadConfig(items=folder / "places.jsonl", captions_column="alt")
    captioned = read_reviews(folder / "captions.jsonl", columns)
    config = settings(folder)
    models = open_models(config)
    fitted = Recommender(config, models).fit(captioned)
    corpus = fitted.state.dataset
    item_photos = {path for paths in corpus.item_photos for path in paths}
    assert set(corpus.captions.texts) == item_photos, "no photo of a row with captions"
    vectors = corpus.caption_vectors
    with_photos = np.flatnonzero([bool(paths) for paths in corpus.photos])
    assert len(with_photos)
    for row in with_photos:
        (photo,) = vectors.counts[row].indices
        (expected,) = models.encoder.encode([captions[corpus.photos[row][0]]])
        assert np.array_equal(vectors.vectors[photo], expected)
    # Captions need no photos at all.
    bare = Reviews(captioned.table.with_columns(photos=pl.lit([], pl.List(pl.String))))
    assert Recommender(config, models).fit(bare).saved.model.builder.image
