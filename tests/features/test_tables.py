"""Features of views against a slow reference, their constants, and their groups."""

import shutil
import tempfile
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmrec.config import AnnotationConfig, Config, RankerConfig
from mmrec.data import files
from mmrec.data.schema import NO_TIME, Split
from mmrec.errors import DataError
from mmrec.evidence.policies import Evidence, EvidenceViews, Policy
from mmrec.features.builder import FeatureBuilder, _top_categories
from mmrec.features.dataset import PhotoVectors
from mmrec.features.tables import FEATURE_GROUPS, Constants, group_of, rating_sums, visible_columns
from review_tables import interactions, tables

SIZE = 15  # categories in the vocabulary
TAGS = np.eye(4, dtype=np.float32)
seeds = st.integers(0, 2**32 - 1)


def views_of(*lists):
    return EvidenceViews.from_lists(np.arange(len(lists)), [np.array(rows, dtype=np.int64) for rows in lists])


def build(sums, limit=11, mean=4.0, prior=2.0, kind="item", features="proposed"):
    ranker, annotation = RankerConfig(features=features), AnnotationConfig(max_categories=limit)
    config, constants = Config(ranker=ranker, annotation=annotation), Constants(mean, prior, prior, 1.0, 1.0)
    builder = FeatureBuilder(config=config, constants=constants, vocabulary=[], image=False)
    return builder.from_sums(kind, sums)


def sums_over(views, rating, tags=None):
    """Sums over views of (n,) ratings, (n, 4) price tags, and one vote per review for all categories."""
    reviews = replace(rating_sums(rating), categories=np.ones((len(rating), SIZE), dtype=np.float32))
    return (reviews if tags is None else replace(reviews, price=tags)).over(views)


@given(tables(), seeds, st.floats(0.1, 50))
@settings(max_examples=100, deadline=None)
def test_dense_columns_equal_a_slow_reference(data, seed, prior):
    rng = np.random.default_rng(seed)
    evidence_rows = rng.permutation(len(data))[: max(1, len(data) * 3 // 4)]
    test = np.setdiff1d(np.arange(len(data)), evidence_rows)
    split = Split(np.sort(evidence_rows), np.zeros(0, dtype=np.int64), test)
    views = Evidence.derive(data, split, "fold", 3, rng).item
    rating = np.where(rng.random(len(data)) < 0.2, np.nan, data.rating - 1)  # zero stars are a rating
    tags = TAGS[rng.integers(4, size=len(data))]
    text_count = {"gist": 1 - np.arange(len(views)) % 2}
    features = build(replace(sums_over(views, rating, tags), text_count=text_count), 1, 3.7, prior)
    assert features.dense.dtype == np.float32
    names = "mean rating,no rating,log count,cheap price,fair price,overpriced,no price,no gist"
    assert ",".join(features.names) == names
    for view, rows in enumerate(views.review_sets()):
        stars = [float(rating[row]) for row in rows if not np.isnan(rating[row])]
        votes = [*tags[rows].sum(0)[:3], 5]  # five votes for no price
        mean, prices = (sum(stars) + prior * 3.7) / (len(stars) + prior), np.divide(votes, sum(votes))
        expected = [mean, float(not stars), np.log(1 + len(stars)), *prices, view % 2]
        assert features.dense[view].tolist() == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(tables(), st.sampled_from(get_args(Policy)), st.sampled_from([0, 6]), seeds)
def test_means_are_of_the_photos_of_the_evidence_and_the_items_own(data, policy, encoded, seed):
    rng = np.random.default_rng(seed)
    names = [f"p{number}" for number in range(8)]
    vectors = {name: rng.normal(size=150).astype(np.float16) for name in names[:encoded]}

    def photo_names(count):
        return [list(rng.choice(names, rng.integers(0, 4))) for _ in range(count)]

    assume(policy != "past" or (data.time != NO_TIME).any())
    reviews, items = photo_names(len(data)), photo_names(len(data.items))
    part = rng.integers(3, size=len(data))
    split = Split(*(np.flatnonzero(part == number) for number in range(3)))
    views = Evidence.derive(data, split, policy, 3, rng).item
    means, counts = PhotoVectors.build(reviews, items, vectors, 150).view_means(views)
    for view, rows in enumerate(views.review_sets()):
        shown = [name for row in rows for name in reviews[row]] + items[views.entity[view]]
        expected = [vectors[name].astype(np.float64) for name in shown if name in vectors]
        assert counts[view] == len(expected)
        mean = sum(expected, np.zeros(150)) / max(len(expected), 1)
        assert np.abs(means[view] - mean).max() < 2e-3


def test_in_the_paper_users_have_neither_count_nor_price_nor_categories():
    sums = sums_over(views_of([0]), np.array([5.0]), TAGS[:1])
    features, baseline = build(sums, kind="user"), build(sums, features="baseline")
    assert features.names == ("mean rating", "no rating")
    assert features.categories.shape == baseline.categories.shape == (2, 0)
    ours = build(sums, kind="user", features="mmrec")
    assert ours.names == baseline.names == (*features.names, "log count")


@pytest.mark.parametrize(("features", "present"), [("proposed", 1.0), ("mmrec", 2 / 6)])
def test_the_last_view_is_unknown_and_large_arrays_are_mapped_to_files_without_a_name(
    features, present, tmp_path, monkeypatch
):
    mapped = features == "proposed"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(files, "_LARGE", 1 if mapped else 1 << 30)
    sums = sums_over(views_of([0], [1]), np.array([5.0, 1.0]), TAGS[:2])
    blocks = {"gist": np.full((2, 3), 0.5, dtype=np.float32)}
    sums = replace(sums, vectors=blocks, text_count={"gist": np.array([2.0, 2.0])})
    result = build(sums, 3, 3.25, features=features)
    for values in (result.dense, result.vectors["gist"]):
        assert isinstance(values.base, np.memmap) == mapped
    assert not list(tmp_path.iterdir())
    assert result.unknown_index == 2 == len(result.dense) - 1
    # Nothing is known, there is no price, and the number of reviews is a usual one.
    assert result.dense[2].tolist() == [3.25, 1, 1, 0, 0, 0, 1, 1]
    assert result.vectors["gist"].tolist() == [[0.5] * 3, [0.5] * 3, [0.0] * 3]
    assert result.vectors["gist"].dtype == np.float16
    assert result.present["gist"].tolist() == pytest.approx([present, present, 0])
    assert result.categories.tolist() == [[0, 1, 2], [0, 1, 2], [SIZE] * 3]


def test_a_full_disk_is_an_error_that_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    size = 2 * shutil.disk_usage(tmp_path).total
    with pytest.raises(DataError, match=f"^{tmp_path} has no room for {size / 1e9:.1f} GB.*set TMPDIR"):
        files.allocate((size,), np.uint8)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"No such file.*set TMPDIR"):
        files.allocate((200_000_000,), np.uint8)


@pytest.mark.parametrize(
    ("votes", "limit", "expected"),
    [
        ([1, 3, 0, 2], 11, [1, 3, 0] + [15] * 8),
        ([0] * 14 + [1], 17, [14] + [15] * 16),  # more than there are
        ([5] * 14, 11, [*range(11)]),
        ([1, 2, 2, 1], 3, [1, 2, 0]),
        ([20, 1, 2, 3], 11, [0, 3, 2] + [15] * 8),  # a tenth of the first one's votes
        ([0, 0], 11, [15] * 11),
    ],
)
def test_categories_are_those_with_most_votes(votes, limit, expected):
    table = np.zeros((4, SIZE), dtype=np.float32)
    table[1:, : len(votes)] = votes
    none = [SIZE] * limit
    assert _top_categories(table, limit).tolist() == [none, *[expected] * 3, none]
    assert _top_categories(table, limit, block_views=2).tolist() == [none, *[expected] * 3, none]


@pytest.mark.parametrize(("between", "within", "prior"), [(0.5, 1.0, 4), (0, 1.0, 100), (2, 0.3, 0.1)])
def test_a_prior_is_the_variance_within_over_that_between_users(between, within, prior):
    """Of 300 users with 20 ratings each, whose means deviate by `between`; from .1 to 100."""
    rng, user = np.random.default_rng(2), np.repeat(np.arange(300), 20)
    rating = 3.5 + rng.normal(0, between, 300)[user] + rng.normal(0, within, 6000)
    data = interactions(user.tolist(), rng.integers(100, size=6000).tolist(), rating.tolist())
    constants = Constants.estimate(data, np.arange(6000), np.arange(6000))
    assert constants.user_prior == pytest.approx(prior, rel=0.25)
    assert constants.item_prior > 30
    assert constants.mean == pytest.approx(3.5, abs=0.3)


def test_constants_by_hand_depend_on_the_given_rows_only():
    # Means 4 and 2: within = (1 + 1 + 1 + 1) / 2 = 2, spread = 4 - 2 = 2, between = 2 / (4 - 2) = 1.
    data = interactions([0, 0, 1, 1, 2], [0, 1, 2, 3, 0], [5, 3, 3, 1, 1])
    constants = Constants.estimate(data, np.arange(4), np.arange(1, 4))
    # The prior is undefined for items, which have one review each. Users have one more.
    assert constants == Constants(3, pytest.approx(2), 1, pytest.approx(np.log(2)), 0)
    data.rating[4], data.user[4] = 5, 1
    assert Constants.estimate(data, np.arange(4), np.arange(1, 4)) == constants


def test_numbers_of_reviews_are_comparable_where_more_are_known_and_say_nothing_of_a_new_item():
    sums = sums_over(views_of([0, 1, 2], [3]), np.full(4, 5.0))
    constants = Constants(4.0, 2.0, 2.0, 1.5, 2.5)
    builder = FeatureBuilder(
        config=Config(), constants=constants, vocabulary=[], image=False, trained_reviews=2, known_reviews=4
    )

    def log_counts(kind, **options):
        features = builder.from_sums(kind, sums, **options)
        return features.dense[:, features.names.index("log count")].tolist()

    # Three reviews, one review, none known: half of them would be known to a train row.
    assert log_counts("item") == pytest.approx([np.log(2.5), np.log(1.5), 2.5])
    assert log_counts("user", sees_all=np.array([True, False])) == pytest.approx(
        [np.log(2.5), np.log(2), 1.5]
    )
    assert log_counts("item", new=True) == [2.5] * 3


def test_sums_of_two_halves_add_up_to_the_whole():
    rng = np.random.default_rng(3)
    rating, tags = rng.integers(1, 6, 6).astype(np.float32), TAGS[rng.integers(4, size=6)]
    vectors = {"gist": np.arange(12, dtype=np.float32).reshape(6, 2)}
    reviews = replace(rating_sums(rating), price=tags, vectors=vectors, text_count={"gist": np.ones(6)})
    halves = reviews.over(views_of([0, 1], [4])) + reviews.over(views_of([2], [3, 5]))
    whole = reviews.over(views_of([0, 1, 2], [3, 4, 5]))
    for name in ("rating_count", "rating_sum", "price", "categories"):
        assert getattr(halves, name) == pytest.approx(getattr(whole, name))
    assert halves.vectors["gist"] == pytest.approx(whole.vectors["gist"], rel=1e-3)
    without_texts = rating_sums(rating).over(views_of([], []))
    assert (halves + without_texts).text_count["gist"].tolist() == [3, 3]
    assert (halves + whole.map(np.zeros_like)).vectors["gist"] == pytest.approx(halves.vectors["gist"])
    assert halves.map(lambda values: values[[1]]).rating_sum == halves.rating_sum[1]


@pytest.mark.parametrize(
    ("names", "group"),
    [
        ("mean rating|no rating|rating effect|spread|stars to 1.5|stars to 4.9", "ratings"),
        ("gist|likes|dislikes|summary|reviews|text rating effect|log length|blank|no gist", "item text"),
        ("cheap price|fair price|overpriced|no price", "price"),
        ("photos|no photos", "photos"),
        ("log count", "counts"),
    ],
)
def test_every_column_has_its_group(names, group):
    assert {group_of(f"item {name}") for name in names.split("|")} == {group}
    if group not in ("price", "photos"):  # of items only
        assert {group_of(f"user {name}") for name in names.split("|")} == {group.replace("item", "user")}


def test_a_run_sees_the_columns_of_all_groups_but_the_masked_ones():
    columns = ["user gist", "item gist", "categories", "factor score", "user text rating effect"]
    masked = [*map(frozenset, ([], ["ratings"], ["user text"], ["item text"], FEATURE_GROUPS))]
    expected = [[1] * 5, [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [1, 0, 1, 0, 1], [0] * 5]
    assert visible_columns(columns, masked).tolist() == expected
