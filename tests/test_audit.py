"""The audit passes what is honest, and catches leaks that were planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import interactions
from mmrec.cache.store import Store
from mmrec.config import AnnotationConfig, Config, EvidenceConfig, RankerConfig
from mmrec.data import read_reviews
from mmrec.data.split import Split
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import Encoder
from mmrec.errors import ConfigError
from mmrec.evidence.audit import Audit, audit
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence, EvidenceViews, Policy
from mmrec.experiments.compare import Prepared, prepare
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import MixedEffects
from mmrec.features.tables import EntityFeatures, Features
from mmrec.pipeline import open_models

POLICIES: tuple[Policy, ...] = ("fold", "leave_one_out", "all", "past")


@pytest.fixture(scope="module")
def town(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Reviews with words, prices, photos and times."""
    folder = tmp_path_factory.mktemp("city")
    reviews = read_reviews(write_sample_city(folder, seed=1, users=40, items=15, reviews=300))
    models = open_models(Config(), store=Store())
    return prepare(reviews, Config(evidence=EvidenceConfig(folds=5)), models)


def config_of(features: str, strategy: str = "notes") -> Config:
    return Config(ranker=RankerConfig(features=features), annotation=AnnotationConfig(strategy=strategy))


def derive(town: Prepared, policy: Policy) -> Evidence:
    return Evidence.derive(town.corpus.data, town.split, policy, 5, np.random.default_rng(7))


def make(corpus: Dataset, evidence: Evidence, config: Config) -> tuple[FeatureBuilder, Features]:
    assembler = FeatureBuilder.fit(corpus, evidence, config)
    sides = assembler.build_user(evidence.user, corpus), assembler.build_item(evidence.item, corpus)
    return assembler, Features.from_views(evidence, *sides)


def check(
    town: Prepared,
    evidence: Evidence,
    assembler: FeatureBuilder,
    features: Features,
    rows: np.ndarray | None = None,
) -> Audit:
    every = np.arange(len(town.corpus)) if rows is None else rows
    return audit(town.corpus, town.split, evidence, assembler, features, every)


@pytest.fixture(scope="module")
def folds(town: Prepared) -> tuple[Evidence, FeatureBuilder, Features]:
    """Honest evidence and features of the proposed model."""
    evidence = derive(town, "fold")
    return evidence, *make(town.corpus, evidence, config_of("proposed"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_honest_features_pass_under_every_policy(town: Prepared, policy: Policy, features: str) -> None:
    evidence = derive(town, policy)
    found = check(town, evidence, *make(town.corpus, evidence, config_of(features)))
    assert found.violations == []
    assert found.passed
    assert (found.policy, found.rows) == (policy, len(town.corpus))
    heard = sum(len(side.members(int(view))) for side in (evidence.user, evidence.item) for view in side.view)
    assert found.reviews == heard > 0
    assert f"`{policy}` held ({found.rows:,} rows" in str(found)


def test_honest_summaries_pass(town: Prepared) -> None:
    evidence = derive(town, "fold")
    rows = np.arange(0, len(town.corpus), 9)
    assert check(town, evidence, *make(town.corpus, evidence, config_of("proposed", "summary")), rows).passed


def test_our_effects_are_proved_too_and_those_of_the_wrong_fold_are_caught(town: Prepared) -> None:
    evidence = derive(town, "fold")
    assembler, features = make(town.corpus, evidence, config_of("mmrec"))
    rows = np.arange(0, len(town.corpus), 9)
    assert check(town, evidence, assembler, features, rows).violations == []
    penalties = assembler.penalties
    for fold, careless in (
        (1, evidence.visible_rows(VALIDATION_FOLD)),
        (3, evidence.visible_rows(VALIDATION_FOLD)),
        (VALIDATION_FOLD, evidence.evidence_rows),
    ):
        planted = MixedEffects.fit(town.corpus.rated_texts, careless, penalties)
        leaky = assembler.model_copy(update={"mixed_effects": {**assembler.mixed_effects, fold: planted}})
        sides = (leaky.build_user(evidence.user, town.corpus), leaky.build_item(evidence.item, town.corpus))
        found = check(town, evidence, leaky, Features.from_views(evidence, *sides), rows)
        for what in ("rating effect", "affinity"):
            assert any(f"effects of fold {fold}: {what}" in one for one in found.violations)


@pytest.mark.parametrize("policy", ["leave_one_out", "all", "past"])
def test_our_effects_need_folds(town: Prepared, policy: Policy) -> None:
    with pytest.raises(ConfigError, match="needs --policy fold"):
        make(town.corpus, derive(town, policy), config_of("mmrec"))


def test_the_town_has_something_to_leak(folds: tuple[Evidence, FeatureBuilder, Features]) -> None:
    _, _, features = folds
    assert set(features.item.vectors) == {"gist", "likes", "dislikes", "photos"}
    assert features.item.present["photos"].any()
    assert (features.item.categories[:-1] < features.item.categories[-1, 0]).any()
    assert (features.item.dense[:-1, features.item.names.index("no price")] < 1).any()


@pytest.mark.parametrize("careless", ["all", "leave_one_out"])
@pytest.mark.parametrize("features", ["baseline", "proposed"])
def test_features_of_a_careless_policy_are_caught_when_sold_as_folds(
    town: Prepared, careless: Policy, features: str
) -> None:
    evidence = derive(town, "fold")
    assembler, leaky = make(town.corpus, derive(town, careless), config_of(features))
    found = check(town, evidence, assembler, leaky)
    assert not found.passed
    for side in ("user", "item"):
        for part in ("mean rating", "reviews" if features == "baseline" else "gist"):
            assert any(f"{part} was not made from its evidence ({side})" in one for one in found.violations)
    assert not any("own evidence" in one for one in found.violations)
    assert "broken" in str(found)


def test_one_altered_coordinate_is_caught_in_the_rows_of_its_view(
    town: Prepared, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, assembler, honest = folds
    view = int(honest.item_view[town.split.train[0]])
    for name, block in honest.item.vectors.items():
        altered = block.copy()
        altered[view, 100] += np.float16(0.01)
        item = replace(honest.item, vectors={**honest.item.vectors, name: altered})
        found = check(town, evidence, assembler, replace(honest, item=item))
        rows = np.flatnonzero(honest.item_view == view)
        assert found.violations == [
            f"row {row}: {name} was not made from its evidence (item)" for row in rows
        ]


@pytest.mark.parametrize("column", ["mean rating", "no rating", "log count", "cheap price", "no gist"])
def test_an_altered_number_is_caught(
    town: Prepared, folds: tuple[Evidence, FeatureBuilder, Features], column: str
) -> None:
    evidence, assembler, honest = folds
    view = int(honest.item_view[town.split.train[0]])
    dense = honest.item.dense.copy()
    dense[view, honest.item.names.index(column)] += 0.01
    found = check(town, evidence, assembler, replace(honest, item=replace(honest.item, dense=dense)))
    assert {one.split(": ")[1] for one in found.violations} == {
        f"{column} was not made from its evidence (item)"
    }
    assert len(found.violations) == int((honest.item_view == view).sum())


def _of_all(town: Prepared, evidence: Evidence, assembler: FeatureBuilder) -> EntityFeatures:
    """Item features that hear the row's own fold too, in the order of the evidence's views."""
    leaky = assembler.build_item(
        EvidenceViews.excluding(
            town.corpus.data.item, evidence.evidence_rows, np.full(len(town.corpus), -1, dtype=np.int64)
        ),
        town.corpus,
    )
    order = np.append(evidence.item.entity, len(leaky.dense) - 1)
    return EntityFeatures(leaky.names, leaky.dense[order], {}, {}, leaky.categories[order])


def test_categories_from_the_row_s_own_fold_are_caught(
    town: Prepared, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, assembler, honest = folds
    leaky = replace(honest.item, categories=_of_all(town, evidence, assembler).categories)
    found = check(town, evidence, assembler, replace(honest, item=leaky))
    differ = (leaky.categories != honest.item.categories).any(axis=1)[honest.item_view]
    assert differ.any()
    assert found.violations == [
        f"row {row}: categories was not made from its evidence (item)" for row in np.flatnonzero(differ)
    ]
    assert not set(np.flatnonzero(differ).tolist()) & set(town.split.test.tolist())


def test_prices_from_the_row_s_own_fold_are_caught(
    town: Prepared, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, assembler, honest = folds
    dense = honest.item.dense.copy()
    columns = [honest.item.names.index(name) for name in ("cheap price", "fair price", "overpriced")]
    dense[:, columns] = _of_all(town, evidence, assembler).dense[:, columns]
    found = check(town, evidence, assembler, replace(honest, item=replace(honest.item, dense=dense)))
    assert len(found.violations) > 20
    assert all("price" in one and one.endswith("(item)") for one in found.violations)


@pytest.mark.parametrize("side", ["user", "item"])
def test_evidence_that_hears_the_row_itself_is_caught(town: Prepared, side: str) -> None:
    honest, every = derive(town, "fold"), derive(town, "all")
    leaky = replace(honest, **{side: getattr(every, side)})
    assembler, features = make(town.corpus, leaky, config_of("baseline"))
    found = check(town, leaky, assembler, features)
    for row in town.split.evidence_rows.tolist():
        assert f"row {row} is in its own evidence ({side})" in found.violations
        assert f"row {row} hears other reviews than the policy allows ({side})" in found.violations
    assert not any(f"row {row} is in" in one for row in town.split.test for one in found.violations)
    other = "item" if side == "user" else "user"
    assert not any(one.endswith(f"({other})") for one in found.violations)


def test_rows_that_point_at_another_s_view_are_caught(
    town: Prepared, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, assembler, honest = folds
    view = honest.user_view.copy()
    row = int(town.split.train[0])
    view[row] = view[
        next(at for at in town.split.train if town.corpus.data.user[at] != town.corpus.data.user[row])
    ]
    found = check(town, evidence, assembler, replace(honest, user_view=view))
    assert found.violations
    assert all(one.startswith(f"row {row}:") and one.endswith("(user)") for one in found.violations)


def test_only_the_rows_asked_for_are_looked_at(town: Prepared) -> None:
    evidence = derive(town, "fold")
    assembler, leaky = make(town.corpus, derive(town, "all"), config_of("baseline"))
    rows = town.split.evidence_rows[:3]
    found = check(town, evidence, assembler, leaky, rows)
    assert found.rows == 3
    assert {int(one.split(":")[0].split()[1]) for one in found.violations} == set(rows.tolist())


def test_features_that_are_no_numbers_are_caught(
    town: Prepared, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, assembler, honest = folds
    block = honest.user.vectors["gist"].copy()
    block[int(honest.user_view[0])] = np.nan
    user = replace(honest.user, vectors={**honest.user.vectors, "gist": block})
    assert not check(town, evidence, assembler, replace(honest, user=user)).passed


def test_a_mask_of_presence_that_was_altered_is_caught(
    town: Prepared, folds: tuple[Evidence, FeatureBuilder, Features]
) -> None:
    evidence, assembler, honest = folds
    there = honest.item.present["dislikes"].copy()
    at = int(honest.item_view[0])
    there[at] = 1 - there[at]
    item = replace(honest.item, present={**honest.item.present, "dislikes": there})
    assert not check(town, evidence, assembler, replace(honest, item=item)).passed


def test_an_audit_of_rows_without_any_evidence_passes(town: Prepared) -> None:
    evidence = derive(town, "past")
    first = np.array([int(np.argmin(town.corpus.data.time))])
    assert check(town, evidence, *make(town.corpus, evidence, config_of("baseline")), first).passed


def test_popular_items_hide_no_leak(encoder: Encoder) -> None:
    """One review of thousands moves a mean by less than float16 can tell, but not by nothing."""
    size = 2200
    rating = np.where(np.arange(size) % 2, 5, 1).tolist()
    data = interactions(list(range(size)), [0] * size, rating)
    models = open_models(Config(), store=Store())
    empty: list[list[str]] = [[] for _ in rating]
    corpus = Dataset(data, ["Nice."] * size, empty, empty[:1], models, 0)
    split = Split(np.arange(2000), np.arange(2000, 2100), np.arange(2100, size))
    rng = np.random.default_rng(0)
    honest, careless = (Evidence.derive(data, split, policy, 5, rng) for policy in ("leave_one_out", "all"))
    assembler, leaky = make(corpus, careless, config_of("baseline"))
    found = audit(corpus, split, honest, assembler, leaky, np.arange(20))
    rows = {one.split(":")[0] for one in found.violations if one.endswith("(item)")}
    assert rows == {f"row {row}" for row in range(20)}
