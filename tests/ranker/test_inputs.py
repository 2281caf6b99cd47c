"""Batches of features, and cold-start dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.features.tables import EntityFeatures, Features
from mmrec.ranker.dlrm import TrainingRun
from mmrec.ranker.inputs import ColdStartDropout, RankerInputs, category_bag
from toys import ranker_of, toy

EQUAL = (0.5, 0.5)


def test_the_padding_of_categories_is_no_category() -> None:
    assert category_bag(torch.tensor([[0, 2, 3], [3, 3, 3]]), 3).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_inputs_are_standardised_on_the_rows_of_train() -> None:
    task = toy()
    ranker = ranker_of(task, [TrainingRun(0, 0.2, EQUAL)])
    dense = task.inputs.row_batch(torch.from_numpy(task.train_rows)).dense
    scaled = (dense - ranker.dense_mean) * ranker.dense_scale
    assert scaled.mean(0).tolist() == pytest.approx([0] * 6, abs=1e-4)
    # The third column of either side never changes, and so says nothing.
    assert scaled.std(0, correction=0).tolist() == pytest.approx([1, 1, 0, 1, 1, 0], abs=1e-4)


def test_rows_are_gathered_from_their_views() -> None:
    task = toy()
    inputs = task.inputs
    batch = inputs.row_batch(torch.tensor([5, 0]))
    for at, row in enumerate((5, 0)):
        user, item = int(inputs.user_view[row]), int(inputs.item_view[row])
        assert batch.dense[at].tolist() == [
            *inputs.user.dense[user].tolist(),
            *inputs.item.dense[item].tolist(),
        ]
        assert torch.equal(batch.vectors["user gist"][at], inputs.user.vectors["user gist"][user].float())
        assert torch.equal(batch.vectors["item gist"][at], inputs.item.vectors["item gist"][item].float())
        assert torch.equal(batch.categories[at], inputs.item.categories[item])


def test_forgetting_hides_its_share_of_ratings_and_words_apart() -> None:
    inputs = toy(rows=4000).inputs
    rows = torch.arange(4000)
    whole = inputs.row_batch(rows)
    part = ColdStartDropout(inputs, 0.3, torch.Generator().manual_seed(0)).row_batch(rows)
    hidden = {
        "user": (part.dense[:, :3] == 0).all(1),
        "item": (part.dense[:, 3:] == 0).all(1),
        "categories": (part.categories == 4).all(1),
        "user gist": (part.present["user gist"] == 0)[:, 0] & (whole.present["user gist"] == 1)[:, 0],
    }
    assert [float(hidden[name].float().mean()) for name in ("user", "item", "categories")] == pytest.approx(
        [0.3] * 3, abs=0.03
    )
    both = (hidden["user"] & hidden["user gist"]).float().mean()
    assert float(both) == pytest.approx(0.3 * float(hidden["user gist"].float().mean()), abs=0.02)
    spoken = (whole.present["item gist"] == 1)[:, 0]
    assert torch.equal(hidden["categories"][spoken], (part.present["item gist"] == 0)[spoken, 0])
    kept = ~hidden["user"] & ~hidden["item"]
    assert torch.equal(part.dense[kept], whole.dense[kept])


def test_nothing_is_forgotten_at_a_share_of_zero() -> None:
    inputs, rows = toy().inputs, torch.arange(300)
    part, whole = (ColdStartDropout(inputs, 0.0, torch.Generator()).row_batch(rows), inputs.row_batch(rows))
    assert torch.equal(part.dense, whole.dense)
    assert torch.equal(part.categories, whole.categories)
    for name, values in whole.vectors.items():
        assert torch.equal(part.vectors[name], values)
        assert torch.equal(part.present[name], whole.present[name])


def test_columns_that_come_out_of_words_follow_the_words() -> None:
    """A stranger's ratings with an item's words: prices are words, averages are not."""
    names = ("mean rating", "cheap price")
    dense = np.array([[5, 0.5], [3, 0.0]], dtype=np.float32)
    none = np.zeros((2, 0), dtype=np.int64)
    side = EntityFeatures(names, dense, {}, {}, none)
    inputs = RankerInputs(Features(side, side, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)))
    known, nothing = torch.tensor([0]), torch.tensor([1])
    mixed = inputs.view_batch(known, nothing, user_text_view=nothing, item_text_view=known).dense
    assert mixed.tolist() == [[5, 0, 3, 0.5]]
