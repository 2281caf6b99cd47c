"""Features against a slow and obvious reference."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import interactions, tables
from mmrec.config import AnnotationConfig, Config, RankerConfig
from mmrec.data import arrays
from mmrec.data.schema import Interactions
from mmrec.data.split import Split
from mmrec.errors import DataError
from mmrec.evidence.policies import Evidence
from mmrec.evidence.views import EvidenceViews
from mmrec.features.annotations import EvidenceSums, rating_sums
from mmrec.features.tables import Constants, EntityFeatures, _top_categories, entity_features

SIZE = 15
"""Categories in the vocabulary."""


def heard(*sets: list[int]) -> EvidenceViews:
    return EvidenceViews.from_lists(np.arange(len(sets)), [np.array(rows, dtype=np.int64) for rows in sets])


def sums_of(
    side: EvidenceViews,
    rating: np.ndarray,
    price: np.ndarray | None = None,
    categories: np.ndarray | None = None,
) -> EvidenceSums:
    """What ratings and votes of reviews add up to."""
    price = np.zeros((len(rating), 4), dtype=np.float32) if price is None else price
    votes = np.zeros((len(rating), SIZE), dtype=np.float32) if categories is None else categories
    return replace(rating_sums(rating).over(side), price=side.sum(price), categories=side.sum(votes))


def column(made: EntityFeatures, name: str) -> list[float]:
    return made.dense[:, made.names.index(name)].tolist()


def voted(*votes: list[float], most: int = 11) -> list[list[int]]:
    """Categories of views with these votes for the first categories."""
    table = np.zeros((len(votes), SIZE), dtype=np.float32)
    for row, given_votes in enumerate(votes):
        table[row, : len(given_votes)] = given_votes
    made = _features(replace(rating_sums(np.zeros(len(votes))), categories=table), most)
    return made.categories.tolist()


def _features(sums: EvidenceSums, most: int = 11, mean: float = 4.0, prior: float = 2.0) -> EntityFeatures:
    config = Config(
        ranker=RankerConfig(features="proposed"), annotation=AnnotationConfig(max_categories=most)
    )
    return entity_features("item", sums, Constants(mean, prior, prior), config)


@given(tables(), st.integers(0, 2**32 - 1), st.floats(0.1, 50))
@settings(max_examples=100, deadline=None)
def test_dense_columns_equal_a_slow_reference(data: Interactions, seed: int, prior: float) -> None:
    rng = np.random.default_rng(seed)
    known = rng.permutation(len(data))[: max(1, len(data) * 3 // 4)]
    split = Split(np.sort(known), np.zeros(0, dtype=np.int64), np.setdiff1d(np.arange(len(data)), known))
    side = Evidence.derive(data, split, "fold", 3, rng).item
    rating = np.where(rng.random(len(data)) < 0.2, np.nan, data.rating - 1)  # zero stars are a rating
    tags = np.eye(4, dtype=np.float32)[rng.integers(4, size=len(data))]
    sums = replace(sums_of(side, rating, tags), text_count={"gist": 1 - np.arange(len(side)) % 2})
    made = _features(sums, 1, 3.7, prior)
    assert made.dense.dtype == np.float32
    for view, rows in enumerate(side.review_sets()):
        stars = [float(rating[row]) for row in rows if not np.isnan(rating[row])]
        votes = [int(np.argmax(tags[row])) for row in rows]
        said = [vote for vote in votes if vote < 3]
        expected = {
            "mean rating": (sum(stars) + prior * 3.7) / (len(stars) + prior),
            "no rating": float(not stars),
            "log count": np.log(1 + len(stars)),
            "cheap price": said.count(0) / (len(said) + 5),
            "fair price": said.count(1) / (len(said) + 5),
            "overpriced": said.count(2) / (len(said) + 5),
            "no price": 5 / (len(said) + 5),
            "no gist": float(view % 2),
        }
        assert list(made.names) == list(expected)
        assert made.dense[view].tolist() == pytest.approx(list(expected.values()), abs=1e-5)


def test_dense_columns_by_hand() -> None:
    rating = np.array([5, 2, np.nan, 1], dtype=np.float32)
    side = heard([0, 1, 2], [2], [], [3])
    tags = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float32)
    made = _features(sums_of(side, rating, tags))
    # Shrunk with two reviews' worth of 4 stars; the last view is the one of which nothing is known.
    assert column(made, "mean rating") == pytest.approx([15 / 4, 4, 4, 3, 4])
    assert column(made, "no rating") == [0, 1, 1, 0, 1]
    assert column(made, "log count") == pytest.approx([np.log(3), 0, 0, np.log(2), 0])
    # Shrunk with five votes for "none".
    assert column(made, "cheap price") == pytest.approx([1 / 8, 0, 0, 0, 0])
    assert column(made, "fair price") == [0, 0, 0, 0, 0]
    assert column(made, "overpriced") == pytest.approx([2 / 8, 1 / 6, 0, 0, 0])
    assert column(made, "no price") == pytest.approx([5 / 8, 5 / 6, 1, 1, 1])


def test_users_have_neither_count_nor_price_nor_categories() -> None:
    made = entity_features(
        "user",
        sums_of(heard([0]), np.array([5.0])),
        Constants(4.0, 2.0, 2.0),
        Config(ranker=RankerConfig(features="proposed")),
    )
    assert made.names == ("mean rating", "no rating")
    assert made.categories.shape == (2, 0)


def test_the_last_view_is_that_of_which_nothing_is_known() -> None:
    side = heard([0], [1])
    sums = sums_of(side, np.array([5.0, 1.0]), np.eye(4)[:2], np.ones((2, SIZE)))
    block = np.full((2, 3), 0.5, dtype=np.float32)
    sums = replace(sums, vectors={"gist": block}, text_count={"gist": np.array([2.0, 2.0])})
    made = _features(sums, 3, 3.25)
    assert made.unknown_index == 2 == len(made.dense) - 1
    assert dict(zip(made.names, made.dense[2].tolist(), strict=True)) == {
        "mean rating": 3.25,
        "no rating": 1,
        "log count": 0,
        "cheap price": 0,
        "fair price": 0,
        "overpriced": 0,
        "no price": 1,
        "no gist": 1,
    }
    assert made.vectors["gist"].tolist() == [[0.5] * 3, [0.5] * 3, [0.0] * 3]
    assert made.vectors["gist"].dtype == np.float16
    assert made.present["gist"].tolist() == [True, True, False]
    assert made.categories.tolist() == [[0, 1, 2], [0, 1, 2], [SIZE] * 3]


def test_large_arrays_are_mapped_to_files_that_nobody_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = heard([0, 2], [1], [])
    sums = sums_of(side, np.array([5.0, 1.0, 3.0]), np.eye(4)[:3], np.ones((3, SIZE)))
    sums = replace(
        sums, vectors={"gist": np.full((3, 3), 0.5)}, text_count={"gist": np.array([2.0, 1.0, 0.0])}
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    in_memory = _features(sums)
    monkeypatch.setattr(arrays, "_LARGE", 1)
    mapped = _features(sums)
    assert not list(tmp_path.iterdir())
    for one, other in ((in_memory.dense, mapped.dense), (in_memory.vectors["gist"], mapped.vectors["gist"])):
        assert not isinstance(one.base, np.memmap)
        assert isinstance(other.base, np.memmap)
        assert np.array_equal(one, other)


def test_a_full_disk_is_an_error_that_names_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    size = 2 * shutil.disk_usage(tmp_path).total
    with pytest.raises(DataError, match=f"^{tmp_path} has no room for {size / 1e9:.1f} GB.*set TMPDIR"):
        arrays.allocate((size,), np.uint8)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"No such file.*set TMPDIR"):
        arrays.allocate((200_000_000,), np.uint8)


def test_nothing_known_equals_a_view_without_evidence() -> None:
    side = heard([0], [])
    made = _features(sums_of(side, np.array([5.0]), np.eye(4)[:1], np.ones((1, SIZE))))
    assert made.dense[1].tolist() == made.dense[2].tolist()
    assert made.categories[1].tolist() == made.categories[2].tolist()


def test_categories_of_many_views_are_ranked_in_blocks() -> None:
    votes = np.random.default_rng(0).integers(0, 5, (9, SIZE)).astype(np.float32)
    whole = _top_categories(votes, 11)
    assert np.array_equal(_top_categories(votes, 11, block_views=2), whole)


def test_categories_are_the_most_voted_padded_with_the_size() -> None:
    top, nothing_said, nothing_known = voted([1, 3, 0, 2], [])
    assert top == [1, 3, 0] + [SIZE] * 8
    assert nothing_said == nothing_known == [SIZE] * 11


def test_at_most_eleven_categories_and_equals_by_code() -> None:
    assert voted([5.0] * 14)[0] == list(range(11))
    assert voted([1.0, 2.0, 2.0, 1.0], most=3)[0] == [1, 2, 0]


def test_a_category_needs_a_tenth_of_the_votes_of_the_first() -> None:
    assert voted([20, 1, 2, 3])[0][:4] == [0, 3, 2, SIZE]


def test_a_vocabulary_smaller_than_the_most_is_padded_too() -> None:
    side = heard([0])
    made = _features(sums_of(side, np.array([5.0]), np.eye(4)[:1], np.array([[0.0, 1.0]])), most=4)
    assert made.categories.tolist() == [[1, 2, 2, 2], [2, 2, 2, 2]]


def rated(between: float, within: float, seed: int = 0) -> Constants:
    """Constants of 300 users with 20 ratings each, whose own means deviate by `between`."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(300), 20)
    item = rng.integers(100, size=len(user))
    rating = 3.5 + rng.normal(0, between, 300)[user] + rng.normal(0, within, len(user))
    return Constants.estimate(
        interactions(user.tolist(), item.tolist(), rating.tolist()), np.arange(len(user))
    )


def test_a_prior_is_the_variance_within_over_that_between() -> None:
    constants = rated(between=0.5, within=1.0)
    assert constants.user_prior == pytest.approx(4, rel=0.25)
    assert constants.item_prior > 30
    assert constants.mean == pytest.approx(3.5, abs=0.1)


def test_pure_noise_shrinks_all_and_a_strong_effect_hardly_anything() -> None:
    noise = [rated(between=0, within=1, seed=seed).user_prior for seed in range(5)]
    assert min(noise) > 40
    assert rated(between=2, within=0.3).user_prior == pytest.approx(0.1)


def test_a_prior_by_hand() -> None:
    # Users of means 4 and 2: within = (1 + 1 + 1 + 1) / 2 = 2; spread = 4 - 2 = 2; between = 2 / (4 - 2) = 1.
    data = interactions([0, 0, 1, 1], [0, 1, 2, 3], [5, 3, 3, 1])
    constants = Constants.estimate(data, np.arange(4))
    assert constants.user_prior == pytest.approx(2)
    assert constants.item_prior == 1  # one review an item tells nothing


def test_constants_read_known_rows_only() -> None:
    data = interactions([0, 0, 1, 1, 2], [0, 1, 2, 3, 0], [5, 3, 3, 1, 1])
    known = np.arange(4)
    constants = Constants.estimate(data, known)
    assert constants.mean == 3
    data.rating[4] = 5
    data.user[4] = 1
    assert Constants.estimate(data, known) == constants


def test_sums_of_two_halves_add_up_to_the_whole() -> None:
    """A live review is added to what was known before."""
    rng = np.random.default_rng(3)
    rating, tags = rng.integers(1, 6, 6).astype(np.float32), np.eye(4)[rng.integers(4, size=6)]
    values = np.arange(12, dtype=np.float32).reshape(6, 2)

    def told(side: EvidenceViews) -> EvidenceSums:
        sums = sums_of(side, rating, tags)
        count = side.sum(np.ones((6, 1)))[:, 0]
        return replace(sums, vectors={"gist": side.sum(values) / count[:, None]}, text_count={"gist": count})

    halves = told(heard([0, 1], [4])) + told(heard([2], [3, 5]))
    whole = told(heard([0, 1, 2], [3, 4, 5]))
    for name in ("rating_count", "rating_sum", "price", "categories"):
        assert getattr(halves, name) == pytest.approx(getattr(whole, name))
    assert halves.vectors["gist"] == pytest.approx(whole.vectors["gist"])
    assert (halves + sums_of(heard([], []), rating)).text_count["gist"].tolist() == [3, 3]
