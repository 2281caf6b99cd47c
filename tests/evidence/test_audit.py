"""The audit passes features that keep to their evidence, and reports planted leaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmrec.cache.store import Store
from mmrec.config import AnnotationConfig, Config, EvidenceConfig, RankerConfig
from mmrec.data import read_reviews
from mmrec.data.schema import Split
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import Encoder
from mmrec.errors import ConfigError
from mmrec.evidence.audit import Audit, audit
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence, Policy
from mmrec.evidence.views import EvidenceViews
from mmrec.features.builder import FeatureAudit, FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import MixedEffects
from mmrec.features.tables import EntityFeatures, Features
from mmrec.pipeline import PreparedData, open_models, prepare_data
from review_tables import interactions

POLICIES: tuple[Policy, ...] = ("fold", "leave_one_out", "all", "past")
Change = Callable[[EntityFeatures, int], EntityFeatures]


@pytest.fixture(scope="module")
def city(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Reviews with words, prices, photos and times."""
    folder = tmp_path_factory.mktemp("city")
    reviews = read_reviews(write_sample_city(folder, seed=1, users=40, items=15, reviews=300))
    models = open_models(Config(), store=Store())
    return prepare_data(reviews, Config(evidence=EvidenceConfig(folds=5)), models)


def config_of(features: str, strategy: str = "notes") -> Config:
    annotation = AnnotationConfig(strategy=strategy)
    return Config(ranker=RankerConfig(features=features), annotation=annotation)


def derive(city: PreparedData, policy: Policy) -> Evidence:
    return Evidence.derive(city.dataset.data, city.split, policy, 5, np.random.default_rng(7))


def build(builder: FeatureBuilder, dataset: Dataset, evidence: Evidence) -> tuple[FeatureBuilder, Features]:
    user = builder.build("user", evidence.user, dataset)
    item = builder.build("item", evidence.item, dataset)
    return builder, Features(user, item, evidence.user.view, evidence.item.view)


def fit(dataset: Dataset, evidence: Evidence, config: Config) -> tuple[FeatureBuilder, Features]:
    return build(FeatureBuilder.fit(dataset, evidence, config), dataset, evidence)


def check(
    city: PreparedData,
    evidence: Evidence,
    builder: FeatureBuilder,
    features: Features,
    rows: np.ndarray | None = None,
) -> Audit:
    rows = np.arange(len(city.dataset)) if rows is None else rows
    audited = FeatureAudit(builder, city.dataset, features)
    return audit(city.dataset.data, city.split, evidence, audited, rows)


@pytest.fixture(scope="module")
def folds(city: PreparedData) -> tuple[Evidence, FeatureBuilder, Features]:
    """Correct evidence and features of the proposed model, under `fold`."""
    evidence = derive(city, "fold")
    return evidence, *fit(city.dataset, evidence, config_of("proposed"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_correct_features_pass_under_every_policy(city: PreparedData, policy: Policy, features: str) -> None:
    evidence = derive(city, policy)
    result = check(city, evidence, *fit(city.dataset, evidence, config_of(features)))
    assert result.violations == []
    assert result.passed
    assert (result.policy, result.rows) == (policy, len(city.dataset))
    seen = 0
    for views in (evidence.user, evidence.item):
        seen += sum(len(views.members(int(view))) for view in views.view)
    assert result.reviews == seen > 0
    assert f"`{policy}` held ({result.rows:,} rows" in str(result)


def test_correct_summaries_pass(city: PreparedData) -> None:
    evidence = derive(city, "fold")
    rows = np.arange(0, len(city.dataset), 9)
    features = fit(city.dataset, evidence, config_of("proposed", "summary"))
    assert check(city, evidence, *features, rows).passed


def test_mixed_effects_are_checked_and_those_of_the_wrong_fold_reported(city: PreparedData) -> None:
    evidence, texts = derive(city, "fold"), city.dataset.rated_texts
    builder, features = fit(city.dataset, evidence, config_of("mmrec"))
    rows = np.arange(0, len(city.dataset), 9)
    assert check(city, evidence, builder, features, rows).violations == []
    without_validation = evidence.visible_rows(VALIDATION_FOLD)
    for fold, leaking_rows in (
        (1, without_validation),
        (3, without_validation),
        (VALIDATION_FOLD, evidence.evidence_rows),
    ):
        planted = MixedEffects.fit(texts, leaking_rows, builder.penalties)
        effects = {**builder.mixed_effects, fold: planted}
        leaky = builder.model_copy(update={"mixed_effects": effects})
        result = check(city, evidence, *build(leaky, city.dataset, evidence), rows)
        for name in ("user rating effect", "item rating effect", "factor score"):
            expected = f"effects of fold {fold}: {name} was not made from its evidence"
            assert expected in result.violations


@pytest.mark.parametrize("policy", ["leave_one_out", "all", "past"])
def test_mixed_effects_need_the_policy_fold(city: PreparedData, policy: Policy) -> None:
    with pytest.raises(ConfigError, match="needs --policy fold"):
        fit(city.dataset, derive(city, policy), config_of("mmrec"))


def test_the_city_has_every_kind_of_feature(folds: tuple[Evidence, FeatureBuilder, Features]) -> None:
    item = folds[2].item
    assert set(item.vectors) == {"gist", "likes", "dislikes", "photos"}
    assert item.present["photos"].any()
    assert (item.categories[:-1] < item.categories[-1, 0]).any()
    assert (item.dense[:-1, item.names.index("no price")] < 1).any()


@pytest.mark.parametrize("policy", ["all", "leave_one_out"])
@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_features_of_a_leaking_policy_are_reported_under_fold(
    city: PreparedData, policy: Policy, features: str
) -> None:
    evidence = derive(city, "fold")
    result = check(city, evidence, *fit(city.dataset, derive(city, policy), config_of(features)))
    for kind in ("user", "item"):
        for name in ("mean rating", "reviews" if features == "baseline" else "gist"):
            ending = f"{name} was not made from its evidence ({kind})"
            assert any(violation.endswith(ending) for violation in result.violations)
    assert not any("own evidence" in violation for violation in result.violations)
    assert not result.passed
    assert "broken" in str(result)


def change_column(name: str) -> Change:
    def change(features: EntityFeatures, view: int) -> EntityFeatures:
        dense = features.dense.copy()
        dense[view, features.names.index(name)] += 0.01
        return replace(features, dense=dense)

    return change


def change_vector(name: str, value: float) -> Change:
    def change(features: EntityFeatures, view: int) -> EntityFeatures:
        block = features.vectors[name].copy()
        block[view, 100] += np.float16(value)
        return replace(features, vectors={**features.vectors, name: block})

    return change


def change_presence(features: EntityFeatures, view: int) -> EntityFeatures:
    present = features.present["dislikes"].copy()
    present[view] = 1 - present[view]
    return replace(features, present={**features.present, "dislikes": present})


CHANGES: dict[str, Change] = {
    **{
        name: change_column(name)
        for name in ("mean rating", "no rating", "log count", "cheap price", "no gist")
    },
    **{name: change_vector(name, 0.01) for name in ("gist", "likes", "dislikes", "photos")},
    "gist ": change_vector("gist", np.nan),
    "presence of dislikes": change_presence,
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_value_is_reported_for_the_rows_of_its_view(
    city: PreparedData, folds: tuple[Evidence, FeatureBuilder, Features], name: str
) -> None:
    evidence, builder, correct = folds
    view = int(correct.item_view[city.split.train[0]])
    changed = replace(correct, item=CHANGES[name](correct.item, view))
    result = check(city, evidence, builder, changed)
    rows = np.flatnonzero(correct.item_view == view)
    assert result.violations == [
        f"row {row}: {name.strip()} was not made from its evidence (item)" for row in rows
    ]


def test_prices_and_categories_from_the_row_s_own_fold_are_reported(
    city: PreparedData, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, builder, correct = folds
    all_reviews = EvidenceViews.all_reviews(city.dataset.data.item, evidence.evidence_rows)
    leaky = builder.build("item", all_reviews, city.dataset)
    # One view per item, in the order of the views of the evidence; the last is the unknown item.
    order = np.append(evidence.item.entity, leaky.unknown_index)
    item = replace(correct.item, categories=leaky.categories[order])
    result = check(city, evidence, builder, replace(correct, item=item))
    differs = (item.categories != correct.item.categories).any(axis=1)[correct.item_view]
    leaking_rows = np.flatnonzero(differs)
    assert len(leaking_rows)
    assert not np.isin(leaking_rows, city.split.test).any()
    assert result.violations == [
        f"row {row}: categories was not made from its evidence (item)" for row in leaking_rows
    ]
    dense = correct.item.dense.copy()
    columns = [correct.item.names.index(tag) for tag in ("cheap price", "fair price", "overpriced")]
    dense[:, columns] = leaky.dense[order][:, columns]
    item = replace(correct.item, dense=dense)
    result = check(city, evidence, builder, replace(correct, item=item))
    assert len(result.violations) > 20
    assert all("price" in violation for violation in result.violations)


@pytest.mark.parametrize(("kind", "other_kind"), [("user", "item"), ("item", "user")])
def test_views_that_include_the_row_itself_are_reported(
    city: PreparedData, kind: str, other_kind: str
) -> None:
    leaky = replace(derive(city, "fold"), **{kind: getattr(derive(city, "all"), kind)})
    result = check(city, leaky, *fit(city.dataset, leaky, config_of("baseline")))
    assert len(city.split.evidence_rows)
    for row in city.split.evidence_rows.tolist():
        assert f"row {row} is in its own evidence ({kind})" in result.violations
        assert f"row {row} sees other reviews than the policy allows ({kind})" in result.violations
    for violation in result.violations:
        assert not violation.endswith(f"({other_kind})")
        assert not any(violation.startswith(f"row {row} is in") for row in city.split.test)


def test_test_rows_among_the_evidence_are_reported(
    city: PreparedData, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    row = int(city.split.test[0])
    evidence = replace(folds[0], evidence_rows=np.append(folds[0].evidence_rows, row))
    result = check(city, evidence, *folds[1:], city.split.test[:1])
    assert f"test rows are evidence: 1, the first is row {row}" in result.violations


def test_a_row_that_uses_another_user_s_view_is_reported(
    city: PreparedData, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, builder, correct = folds
    user, train = city.dataset.data.user, city.split.train
    row = int(train[0])
    view = correct.user_view.copy()
    view[row] = view[train[user[train] != user[row]][0]]
    result = check(city, evidence, builder, replace(correct, user_view=view))
    assert result.violations
    for violation in result.violations:
        assert violation.startswith(f"row {row}:")
        assert violation.endswith("(user)")


def test_only_the_given_rows_are_audited(city: PreparedData) -> None:
    evidence, rows = derive(city, "fold"), city.split.evidence_rows[:3]
    leaky = fit(city.dataset, derive(city, "all"), config_of("baseline"))
    result = check(city, evidence, *leaky, rows)
    assert result.rows == 3
    reported = {int(violation.split(":")[0].split()[1]) for violation in result.violations}
    assert reported == set(rows.tolist())


def test_rows_without_any_evidence_pass(city: PreparedData) -> None:
    evidence = derive(city, "past")
    first = np.array([int(np.argmin(city.dataset.data.time))])
    assert check(city, evidence, *fit(city.dataset, evidence, config_of("baseline")), first).passed


def test_a_leak_is_reported_even_for_an_item_with_thousands_of_reviews(encoder: Encoder) -> None:
    """One review of thousands moves the mean rating by little, which the tolerance must not hide."""
    size = 2200
    rating = np.where(np.arange(size) % 2, 5, 1).tolist()
    data = interactions(list(range(size)), [0] * size, rating)
    models = open_models(Config(), store=Store())
    no_photos: list[list[str]] = [[] for _ in rating]
    dataset = Dataset(data, ["Nice."] * size, no_photos, no_photos[:1], models, 0)
    split = Split(np.arange(2000), np.arange(2000, 2100), np.arange(2100, size))
    rng = np.random.default_rng(0)
    correct = Evidence.derive(data, split, "leave_one_out", 5, rng)
    builder, leaky = fit(dataset, Evidence.derive(data, split, "all", 5, rng), config_of("baseline"))
    audited = FeatureAudit(builder, dataset, leaky)
    result = audit(data, split, correct, audited, np.arange(20))
    reported = {violation.split(":")[0] for violation in result.violations if "item" in violation}
    assert reported == {f"row {row}" for row in range(20)}
