"""The audit passes features that keep to their evidence, and reports planted leaks."""

from copy import deepcopy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from mmrec.cache.store import Store
from mmrec.config import AnnotationConfig, Config, EvidenceConfig, RankerConfig
from mmrec.data import read_reviews
from mmrec.data.schema import Split
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import ConfigError
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence
from mmrec.features.audit import audit
from mmrec.features.builder import build_features
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import MixedEffects
from mmrec.pipeline import open_models, prepare_data
from review_tables import interactions, reviews_of

BLOCKS = ("gist", "likes", "dislikes", "photos")
CHANGED = ("mean rating", "no rating", "log count", "cheap price", "no gist", *BLOCKS)


@pytest.fixture(scope="module")
def city(encoder, tmp_path_factory):
    """Reviews with texts, prices, photos and times."""
    path = write_sample_city(tmp_path_factory.mktemp("city"), seed=1, users=30, items=12, reviews=190)
    config = Config(evidence=EvidenceConfig(folds=5))
    return prepare_data(read_reviews(path), config, open_models(config, store=Store()))


def derive(city, policy):
    return Evidence.derive(city.dataset.data, city.split, policy, 5, np.random.default_rng(7))


def fit(dataset, evidence, features, strategy="notes"):
    config = Config(ranker=RankerConfig(features=features), annotation=AnnotationConfig(strategy=strategy))
    return build_features(dataset, evidence, config)


def check(city, evidence, builder, features, rows=None):
    rows = np.arange(len(city.dataset)) if rows is None else rows
    return audit(city.dataset, city.split, evidence, builder, features, rows)


@pytest.fixture(scope="module")
def folds(city):
    """Correct evidence and features of the proposed model, under `fold`."""
    evidence = derive(city, "fold")
    builder, features = fit(city.dataset, evidence, "proposed")
    item = features.item
    assert set(item.vectors) == {*BLOCKS}
    assert item.present["photos"].any()
    assert (item.categories[:-1] < item.categories[-1, 0]).any()
    assert (item.dense[:-1, item.names.index("no price")] < 1).any()
    return evidence, builder, features


@pytest.mark.parametrize("policy", ["fold", "leave_one_out", "all", "past"])
@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_correct_features_pass_under_every_policy(city, policy, features):
    evidence = derive(city, policy)
    result = check(city, evidence, *fit(city.dataset, evidence, features))
    assert result.violations == []
    assert (result.policy, result.rows) == (policy, len(city.dataset))
    # Under `past`, the first review of all has no evidence.
    seen = sum(len(views.members(view)) for views in (evidence.user, evidence.item) for view in views.view)
    assert result.reviews == seen > 0
    assert f"`{policy}` held ({result.rows:,} rows" in str(result)


def test_correct_summaries_pass(city):
    evidence, rows = derive(city, "fold"), np.arange(0, len(city.dataset), 9)
    assert not check(city, evidence, *fit(city.dataset, evidence, "proposed", "summary"), rows).violations


def test_mixed_effects_are_checked_and_those_of_the_wrong_fold_reported(city):
    evidence, texts = derive(city, "fold"), city.dataset.rated_texts
    builder, features = fit(city.dataset, evidence, "mmrec")
    rows, train = np.arange(0, len(city.dataset), 9), evidence.visible_rows(VALIDATION_FOLD)
    assert check(city, evidence, builder, features, rows).violations == []
    for fold, leaking_rows in ((1, train), (3, train), (VALIDATION_FOLD, evidence.evidence_rows)):
        planted = MixedEffects.fit(texts, leaking_rows, builder.penalties)
        leaky = builder.model_copy(update={"mixed_effects": {**builder.mixed_effects, fold: planted}})
        result = check(city, evidence, leaky, features, rows)
        for name in ("user rating effect", "item rating effect", "factor score"):
            assert f"effects of fold {fold}: {name} was not made from its evidence" in result.violations


@pytest.mark.parametrize("policy", ["leave_one_out", "all", "past"])
def test_mixed_effects_need_the_policy_fold(city, policy):
    with pytest.raises(ConfigError, match="needs --policy fold"):
        fit(city.dataset, derive(city, policy), "mmrec")


@pytest.mark.parametrize("policy", ["all", "leave_one_out"])
@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_features_of_a_leaking_policy_are_reported_under_fold(city, policy, features):
    result = check(city, derive(city, "fold"), *fit(city.dataset, derive(city, policy), features))
    for kind, of_texts in (("user", ["gist"]), ("item", ["gist", "no price", "categories"])):
        for name in ("mean rating", *(["reviews"] if features == "baseline" else of_texts)):
            ending = f"{name} was not made from its evidence ({kind})"
            assert any(violation.endswith(ending) for violation in result.violations)
    assert not any("own evidence" in violation for violation in result.violations)
    assert "broken" in str(result)


@pytest.mark.parametrize(
    ("name", "value"),
    [*product(CHANGED, [0.01]), ("gist", np.nan), ("presence of dislikes", -1.0), ("categories", 1)],
)
def test_one_changed_value_is_reported_for_the_rows_of_its_view(city, folds, name, value):
    evidence, builder, correct = folds
    view, item = correct.item_view[city.split.train[0]], deepcopy(correct.item)
    cells = {name: (block, 100) for name, block in item.vectors.items()}
    cells |= {name: (item.dense, column) for column, name in enumerate(item.names)}
    cells |= {"presence of dislikes": (item.present["dislikes"], ...), "categories": (item.categories, 0)}
    array, column = cells[name]
    array[view, column] += array.dtype.type(value)
    result = check(city, evidence, builder, replace(correct, item=item))
    rows = np.flatnonzero(correct.item_view == view)
    assert result.violations == [f"row {row}: {name} was not made from its evidence (item)" for row in rows]


@pytest.mark.parametrize(("kind", "other_kind"), [("user", "item"), ("item", "user")])
def test_views_that_include_the_row_itself_are_reported(city, kind, other_kind):
    leaky = replace(derive(city, "fold"), **{kind: getattr(derive(city, "all"), kind)})
    result = check(city, leaky, *fit(city.dataset, leaky, "baseline"))
    rows = set(city.split.evidence_rows)
    problems = "is in its own evidence", "sees other reviews than the policy allows"
    expected = {f"row {row} {problem} ({kind})" for row, problem in product(rows, problems)}
    assert expected <= {*result.violations}
    for violation in result.violations:
        assert not violation.endswith(f"({other_kind})")
        assert not any(violation.startswith(f"row {row} is in") for row in city.split.test)


def test_test_rows_among_the_evidence_are_reported(city, folds):
    row = int(city.split.test[0])
    evidence = replace(folds[0], evidence_rows=np.append(folds[0].evidence_rows, row))
    result = check(city, evidence, *folds[1:], city.split.test[:1])
    assert f"test rows are evidence: 1, the first is row {row}" in result.violations


def test_a_row_that_uses_the_view_of_another_user_is_reported(city, folds):
    evidence, builder, correct = folds
    user, train = city.dataset.data.user, city.split.train
    row = int(train[0])
    view = correct.user_view.copy()
    view[row] = view[train[user[train] != user[row]][0]]
    result = check(city, evidence, builder, replace(correct, user_view=view))
    assert {(text.split(":")[0], text[-6:]) for text in result.violations} == {(f"row {row}", "(user)")}


def test_a_leak_is_reported_even_for_an_item_with_thousands_of_reviews(encoder):
    """One review of thousands moves the mean rating by little, which the tolerance must not hide."""
    size = 2200
    data = interactions(list(range(size)), [0] * size, np.where(np.arange(size) % 2, 5, 1).tolist())
    models = open_models(Config(), store=Store())
    dataset = Dataset.from_reviews(reviews_of(data, ["Nice."] * size), models, Config())
    split = Split(np.arange(2000), np.arange(2000, 2100), np.arange(2100, size))
    rng = np.random.default_rng(0)
    correct = Evidence.derive(dataset.data, split, "leave_one_out", 5, rng)
    leaky = Evidence.derive(dataset.data, split, "all", 5, rng)
    result = audit(dataset, split, correct, *fit(dataset, leaky, "baseline"), np.arange(20))
    reported = {violation.split(":")[0] for violation in result.violations if "item" in violation}
    assert reported == {f"row {row}" for row in range(20)}
