"""The audit of proposers passes what was learned from evidence rows, and reports planted test visits."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mmrec.cache.store import Store
from mmrec.cli.fit import _train_and_save
from mmrec.config import Config, RankerConfig, TrainingConfig
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import AuditError
from mmrec.evaluation.list_metrics import ListTask
from mmrec.experiments import compare
from mmrec.features.dataset import Dataset
from mmrec.pipeline import fit_retrieval, open_models, prepare_data, train_model


@pytest.fixture(scope="module")
def city(encoder, tmp_path_factory):
    path = write_sample_city(tmp_path_factory.mktemp("city"), seed=1, users=40, items=15, reviews=300)
    return prepare_data(read_reviews(path), Config(), open_models(Config(), store=Store()))


def planted(city, rows):
    """The same data, whose proposers have learned from these rows."""
    copy = replace(city)
    copy.__dict__["retrieval"] = fit_retrieval(city.dataset, rows, city.config)
    return copy


def test_proposers_of_evidence_rows_pass(city):
    result = compare.audit_retrieval(city)
    assert result.violations == []
    assert (result.rows, result.reviews) == (len(city.split.test), len(city.split.evidence_rows))
    assert "`all but test` held" in str(result)


def test_one_planted_test_visit_is_caught(city):
    evidence, test = city.split.evidence_rows, city.split.test[:1]
    violations = compare.audit_retrieval(planted(city, np.append(evidence, test))).violations
    for name in ("weights", "text axes", "topics", "visit_count", "item_factors", "co-visits/data"):
        assert f"{name}: not made from the evidence rows alone" in violations
    # One visit less is not what the policy says either.
    assert compare.audit_retrieval(planted(city, evidence[1:])).violations


@pytest.mark.parametrize("name", ["item_factors", "topics", "visitor_topics", "weights", "walks/data"])
def test_one_changed_number_is_caught(city, name):
    arrays = city.retrieval.arrays()
    values = arrays[name] = arrays[name].copy()
    for value in (values.flat[2] + 0.1, np.nan):
        values.flat[2] = value
        copy = replace(city)
        copy.__dict__["retrieval"] = SimpleNamespace(arrays=lambda: arrays)
        violations = compare.audit_retrieval(copy).violations
        assert violations == [f"{name}: not made from the evidence rows alone"]


def test_other_items_ratings_and_texts_of_test_rows_change_nothing(city):
    table, rng = city.reviews.table, np.random.default_rng(0)
    columns = {name: table[name].to_list() for name in ("item", "rating", "text")}
    for row in city.split.test:
        columns["item"][row] = columns["item"][rng.integers(len(table))]
        columns["rating"][row] = 6 - columns["rating"][row]
        columns["text"][row] = "Something else altogether."
    table = table.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    dataset = Dataset.from_reviews(replace(city.reviews, table=table), city.dataset.models, city.config)
    assert (dataset.data.item != city.dataset.data.item).sum() > len(city.split.test) / 2
    again = fit_retrieval(dataset, city.split.evidence_rows, city.config).arrays()
    for name, values in city.retrieval.arrays().items():
        assert np.array_equal(values, again[name]), name


def test_judged_lists_do_not_move_when_ratings_and_texts_of_all_test_rows_change(city):
    is_test = np.isin(np.arange(len(city.reviews)), city.split.test)
    rating, other = 6 - pl.col("rating"), pl.lit("Quite another text about soup.")
    table = city.reviews.table.with_columns(
        rating=pl.when(is_test).then(rating).otherwise("rating"),
        text=pl.when(is_test).then(other).otherwise("text"),
    )
    ranker, training = RankerConfig(fallback=False, ensemble=1), TrainingConfig(epochs=2)
    config, judged = city.config.model_copy(update={"ranker": ranker, "training": training}), []
    for reviews in (city.reviews, replace(city.reviews, table=table)):
        prepared = prepare_data(reviews, config, city.dataset.models)
        task = ListTask.from_rows(city.dataset.data, city.label, city.split.evidence_rows, city.split.test)
        assert np.array_equal(prepared.split.test, city.split.test)
        judged.append(compare.judge_candidates(train_model(prepared), task))
    assert len(judged[0].items) > 10
    for name in ("items", "choice", "probability"):
        assert np.array_equal(*(getattr(candidates, name) for candidates in judged)), name


def test_a_planted_visit_fails_the_fit(tmp_path, monkeypatch):
    path = write_sample_city(tmp_path / "city", seed=1, users=40, items=15, reviews=300)

    def leaking(dataset, rows, config):
        # The first retrieval alone, of which the judged lists are made.
        monkeypatch.setattr("mmrec.pipeline.fit_retrieval", fit_retrieval)
        missing = np.setdiff1d(np.arange(len(dataset)), rows)[:1]
        return fit_retrieval(dataset, np.append(rows, missing), config)

    monkeypatch.setattr("mmrec.pipeline.fit_retrieval", leaking)
    ranker = RankerConfig(features="baseline")
    config = Config(store=tmp_path / "store.sqlite", ranker=ranker, training=TrainingConfig(epochs=1))
    with pytest.raises(AuditError, match=r"lists: .* weights: not made .*Nothing was saved"):
        _train_and_save(path, tmp_path / "model", config, ["baseline"], quiet=True)
    assert not (tmp_path / "model/model.json").exists()
