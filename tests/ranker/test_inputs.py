"""Batches of features, cold-start dropout, and standardisation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmrec.features.tables import EntityFeatures, Features, dense_columns
from mmrec.ranker import inputs as inputs_module
from mmrec.ranker.inputs import ColdStartDropout, RankerInputs, Standardiser
from toys import toy, toy_features

NO_CATEGORIES = np.zeros((2, 0), dtype=np.int64)


def test_rows_are_gathered_from_their_views():
    features = toy_features(300, np.random.default_rng(0))
    user, item = features.user, features.item
    batch = RankerInputs(features).row_batch(torch.tensor([5, 0]))
    user_views, item_views = features.user_view[[5, 0]], features.item_view[[5, 0]]
    assert np.array_equal(batch.dense, np.hstack([user.dense[user_views], item.dense[item_views]]))
    for name, entity, views in (("user gist", user, user_views), ("item gist", item, item_views)):
        assert np.array_equal(batch.vectors[name], entity.vectors["gist"][views])
        assert np.array_equal(batch.present[name][:, 0], entity.present["gist"][views])
    assert np.array_equal(batch.categories, item.categories[item_views])


def test_cold_start_dropout_hides_ratings_and_texts_independently_at_its_rate():
    inputs, rows = toy(rows=4000).inputs, torch.arange(4000)
    whole = inputs.row_batch(rows)
    dropped = inputs.row_batch(rows, ColdStartDropout(0.3, torch.Generator().manual_seed(0)))
    had_gist = {name: (whole.present[name] == 1)[:, 0] for name in ("user gist", "item gist")}
    hidden = {
        "user": (dropped.dense[:, :3] == 0).all(1),
        "item": (dropped.dense[:, 3:] == 0).all(1),
        "categories": (dropped.categories == 4).all(1),
        "user gist": (dropped.present["user gist"] == 0)[:, 0] & had_gist["user gist"],
    }
    shares = [float(hidden[name].float().mean()) for name in ("user", "item", "categories")]
    assert shares == pytest.approx([0.3] * 3, abs=0.03)
    together = (hidden["user"] & hidden["user gist"]).float().mean()
    assert float(together) == pytest.approx(0.3 * float(hidden["user gist"].float().mean()), abs=0.02)
    missing = (dropped.present["item gist"] == 0)[:, 0]
    assert torch.equal(hidden["categories"][had_gist["item gist"]], missing[had_gist["item gist"]])
    visible = ~hidden["user"] & ~hidden["item"]
    assert torch.equal(dropped.dense[visible], whole.dense[visible])


def test_columns_made_from_text_are_those_of_the_text_views():
    """An unknown user's ratings with a known user's text: prices are of the text, means are not."""
    dense = np.array([[5, 0.5], [3, 0.0]], dtype=np.float32)
    entity = EntityFeatures(("mean rating", "cheap price"), dense, {}, {}, NO_CATEGORIES)
    row = np.zeros(1, dtype=np.int64)
    known, unknown = torch.tensor([0]), torch.tensor([1])
    inputs = RankerInputs(Features(entity, entity, row, row))
    mixed = inputs.view_batch(known, unknown, unknown, known).dense
    assert mixed.tolist() == [[5, 0, 3, 0.5]]


def test_the_factor_score_is_a_column_of_the_pair_and_zero_for_unknown_users():
    def entity(rows):
        factors = np.array(rows, dtype=np.float16)
        dense = np.zeros((len(factors), 1), dtype=np.float32)
        return EntityFeatures(("mean rating",), dense, {}, {}, NO_CATEGORIES[:, :0], factors)

    user, item = entity([[1, 2], [3, 0], [0, 0]]), entity([[5, 1], [0, 0]])
    features = Features(user, item, np.array([0, 1]), np.array([0, 0]))
    inputs = RankerInputs(features)
    assert inputs.dense_size == 3
    assert inputs.row_batch(torch.arange(2)).dense[:, 2].tolist() == [7, 15]
    assert inputs.view_batch(torch.tensor([2, 0]), torch.tensor([0, 1])).dense[:, 2].tolist() == [0, 0]
    assert dense_columns(features) == ["user mean rating", "item mean rating", "factor score"]


@pytest.mark.parametrize("rows_at_once", [7, 1 << 14])
def test_inputs_are_standardised_on_the_given_rows(monkeypatch, rows_at_once):
    """Moments of blocks are weighted by presence, over the views of the rows, each counted once."""
    monkeypatch.setattr(inputs_module, "_CHUNK_ROWS", rows_at_once)
    rng, rows = np.random.default_rng(1), np.arange(0, 200, 2)
    features = toy_features(300, rng, factors=2)
    entities = {}
    for kind, entity in (("user", features.user), ("item", features.item)):
        weight = entity.present["gist"] * rng.random(len(entity.dense)).astype(np.float32)
        entities[kind] = replace(entity, present={"gist": weight})
    inputs = RankerInputs(replace(features, **entities))
    standardiser = Standardiser(inputs.dense_size, inputs.block_sizes)
    standardiser.fit(inputs, rows)
    batch = inputs.row_batch(torch.from_numpy(rows))
    dense = standardiser.dense_columns(batch).double().numpy()
    assert dense.mean(0) == pytest.approx(np.zeros(7), abs=1e-4)
    # The third column of either entity never changes, and so is left out.
    assert dense.std(0) == pytest.approx([1, 1, 0, 1, 1, 0, 1], abs=1e-4)
    columns = standardiser.block_columns(batch, ["user gist", "item gist"]).double().numpy()
    for position, (kind, view) in enumerate((("user", features.user_view), ("item", features.item_view))):
        seen, weight = np.unique(view[rows]), entities[kind].present["gist"][:, None].astype(float)
        vectors = entities[kind].vectors["gist"].astype(float)
        mean = (weight * vectors)[seen].sum(0) / weight[seen].sum()
        deviation = (weight * (vectors - mean))[seen][weight[seen, 0] > 0].std(0, mean=np.zeros((1, 5)))
        scaled = (weight * (vectors - mean) / np.sqrt(np.square(deviation).sum()))[view[rows]]
        assert columns[:, 5 * position : 5 * position + 5] == pytest.approx(scaled, abs=1e-5)
        assert columns[:, 10 + position] == pytest.approx(1 - weight[view[rows], 0], abs=1e-6)
