"""Held-out items and users, their live reviews, and what the models make of these."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from checkerboard import SMALL, checkerboard
from mmrec.cache.store import Store
from mmrec.config import Config, SplitConfig
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import DataError
from mmrec.experiments import cold_start as experiment
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.cold_start import REVIEW_COUNTS, cold_start, cold_start_tables, curve, hold_out
from mmrec.experiments.cold_start_scorers import live_scores, peer_scores
from mmrec.pipeline import open_models
from pages import assert_shown, read_page
from serving import command


@pytest.fixture(scope="module")
def models(encoder):
    return open_models(SMALL, store=Store(None))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.mark.parametrize("kind", ["item", "user"])
def test_every_review_is_known_or_revealed_or_judged(reviews, kind):
    held_out = []
    for split in range(3):
        task = hold_out(reviews, kind, Config(), split, 3, 4)
        entity, revealed = task.entity, task.revealed(10)
        rows = np.concatenate([task.known, revealed, task.judged])
        assert np.array_equal(np.sort(rows), np.arange(len(reviews)))  # everyone else is known here
        codes = np.unique(entity[task.judged])
        held_out += codes.tolist()
        assert not np.isin(entity[task.known], codes).any()
        for code in codes:
            count = np.sum(entity == code)
            assert np.sum(entity[revealed] == code) == min(10, count // 2)
            assert [np.sum(entity[task.revealed(k)] == code) for k in (0, 1, 3)] == [0, 1, 3]
        steps = [task.revealed(last, first) for first, last in ((0, 2), (2, 10))]
        assert np.array_equal(np.union1d(*steps), revealed)
        assert len(steps[0]) + len(steps[1]) == len(revealed)
    assert len(held_out) == len(set(held_out)) == 12


def test_the_earliest_reviews_are_revealed_and_a_review_of_two_new_sides_is_not_judged(reviews):
    days = np.random.default_rng(5).permutation(len(reviews)).tolist()
    times = (pl.Series(days) * 86_400_000_000).cast(pl.Datetime("us"))
    # A user who knows one item alone.
    table = reviews.table.with_columns(time=times).with_columns(
        user=pl.when((pl.col("item") == "i0") & (pl.int_range(pl.len()).over("item") == 0))
        .then(pl.lit("hermit"))
        .otherwise("user")
    )
    by_time = Config(split=SplitConfig(split_by="time"))
    judged_by_hermit = 0
    for split in range(5):
        task = hold_out(replace(reviews, table=table), "item", by_time, split, 5, 100)
        for code in np.unique(task.entity[task.judged]):
            revealed = [row for row in task.revealed(10) if task.entity[row] == code]
            later = task.judged[task.entity[task.judged] == code]
            assert task.data.time[revealed].max() < task.data.time[later].min()
        judged_by_hermit += (task.data.user[task.judged] == task.data.users.index("hermit")).sum()
    assert judged_by_hermit == 0


def test_on_the_checkerboard_live_words_tell_what_a_new_item_is_and_ratings_do_not(reviews, models, tmp_path):
    checkpoint = Checkpoint(tmp_path / "cold.json", reviews, SMALL, models)
    results = cold_start(checkpoint, ["item"], 1, 5)
    (result,) = results["item"]
    assert (result["entities"], result["shown"][:4]) == (5, [0, 1, 2, 3])
    values = {name: [auc.mean for auc in curve([result], "auc", name)] for name in result["values"]}
    assert min(values["proposed"][1:]) > 0.85
    assert values["proposed"][0] == pytest.approx(0.5, abs=0.15)
    assert min(values["LightGBM"][2:]) > 0.8
    for name in ("proposed without words", "bias model"):
        assert values[name] == pytest.approx([0.5] * len(REVIEW_COUNTS), abs=0.15), name
    gaps = curve([result], "auc", "proposed", "bias model")
    assert gaps[1].low > 0.1
    assert gaps[1].mean == pytest.approx(values["proposed"][1] - values["bias model"][1])
    # Items without reviews are in no list; 23 of 28 items are known.
    assert curve([result], "recall", "proposed")[0].mean == 0
    assert curve([result], "recall", "proposed")[5].mean > 0.8
    tables = cold_start_tables(results)
    assert [row[0] for row in tables[0].rows] == ["0", "1", "2", "3", "5", "10"]
    page = experiment.cold_start_page(results, tmp_path / "cold.html", "mmrec cold-start")
    descriptions, text = read_page(page)
    assert_shown(tables, text)
    assert len(descriptions) == 3
    assert "proposed at 1 0." in descriptions[0]


@pytest.mark.parametrize("kind", ["item", "user"])
def test_no_judged_review_is_evidence(reviews, models, kind):
    task = hold_out(reviews, kind, SMALL, 0, 5, 4)
    is_judged = np.isin(np.arange(len(reviews)), task.judged)
    changed = reviews.table.with_columns(
        rating=pl.when(is_judged).then(6 - pl.col("rating")).otherwise("rating").cast(pl.Float32),
        text=pl.when(is_judged).then(pl.lit("Dreadful.")).otherwise("text"),
    )
    other = hold_out(replace(reviews, table=changed), kind, SMALL, 0, 5, 4)
    assert np.array_equal(task.judged, other.judged)
    other = replace(other, list_users=task.list_users)
    config = SMALL.model_copy(update={"training": SMALL.training.model_copy(update={"epochs": 3})})

    def scores(task):
        models_scores = peer_scores(task, config, models) | {"ours": live_scores(task, config, models)}
        return {name: [*by_count] for name, by_count in models_scores.items()}

    before, after = scores(task), scores(other)
    assert before.keys() >= {"ours", "bias model"}
    for name, by_count in before.items():
        assert len(by_count) == len(REVIEW_COUNTS)
        for (p, lists), (changed_p, changed_lists) in zip(by_count, after[name], strict=True):
            assert np.array_equal(p, changed_p), name
            assert lists == changed_lists, name
        assert not np.array_equal(by_count[1][0], by_count[3][0]), name  # live reviews do count


def test_finished_splits_are_found_again_and_too_few_reviews_are_an_error(
    reviews, models, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        experiment, "_measure_split", lambda *values: asked.append(values[1:]) or {"values": {}}
    )
    for _ in range(2):
        checkpoint = Checkpoint(tmp_path / "cold.json", reviews, SMALL, models)
        cold_start(checkpoint, ["item", "user"], 2, 7)
    assert asked == [(kind, split, 2, 7) for kind in ("item", "user") for split in (0, 1)]
    liked = replace(reviews, table=reviews.table.with_columns(rating=pl.lit(5.0)))
    with pytest.raises(DataError, match="held-out items are too few to judge"):
        hold_out(liked, "item", SMALL, 0, 5, 7)
    few = replace(reviews, table=reviews.table.head(40))
    with pytest.raises(DataError, match="0 items have 4 reviews or more, and 5 are needed"):
        hold_out(few, "item", SMALL, 0, 5, 7)
    four = replace(reviews, table=reviews.table.filter(pl.col("user").rank("dense") < 5))
    with pytest.raises(DataError, match="4 users have 4 reviews or more, and 5 are needed"):
        hold_out(four, "user", SMALL, 0, 1, 7)


def test_cold_start_as_a_command(minilm, tmp_path):
    data = write_sample_city(tmp_path / "city", users=60, items=25, reviews=500)
    flags = [
        "--hold-out",
        "users",
        "--splits",
        "1",
        "--epochs",
        "2",
        "--folds",
        "2",
        "--ensemble",
        "1",
        "--json",
    ]
    done = command("cold-start", str(data), *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]["user"]
    assert [*result["values"]][:3] == ["mmrec", "mmrec without words", "bias model"]
    assert (tmp_path / "cold-start" / "cold-start.html").is_file()
