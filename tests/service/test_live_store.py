"""The database of live reviews, and processes that share it."""

import logging
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmrec.errors import ConfigError, StoreError
from serving import service_in_process, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
import sqlalchemy

from mmrec.service.live_store import LiveStore, StoredReview


def review(item, note='{"gist": "Good soup."}'):
    return StoredReview(review_id=item, user="ada", item=item, rating=5.0, text="Good soup.", note=note)


def test_a_database_that_cannot_be_used_is_reported_without_the_review(tmp_path):
    with pytest.raises(ConfigError, match="sqlite:///FILE"):
        LiveStore("nonsense")
    store = LiveStore(f"sqlite:///{tmp_path / 'live.sqlite'}")
    store.add(review("spam"))
    with sqlite3.connect(tmp_path / "live.sqlite") as database:
        database.execute("DELETE FROM live_reviews")
    store.add(review("good"))
    assert [entry.number for entry in store.since(StoredReview, 1)] == [2]  # readers know 1 already
    with sqlite3.connect(tmp_path / "live.sqlite") as database:
        database.execute("DROP TABLE live_reviews")
    with pytest.raises(StoreError) as error:
        store.add(review("first"))
    assert "Good soup" not in str(error.value)
    store.close()


def test_a_broken_entry_does_not_keep_out_later_ones(model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    store = LiveStore(database)
    store.add(review("broken", note="not a note"))
    store.add(review("sound"))
    store.close()
    with service_in_process(model, database=database) as service:
        assert service.get("/v1/users/ada")["reviewed"] == ["sound"]
    assert "number 1 was left out" in caplog.text
    assert "not a note" not in caplog.text


CLOCKS = {"0001-01-01 00:00:00": "0001-01-01", "9999-12-31 23:59:59.999999": "9999-12-31"}
OTHER_CLOCKS = {
    "sqlite": {
        "2024-05-01T09:30:00+05:00": "2024-05-01",
        -1: "",
        1e300: "",
        "nan": "",
        "": "",
        "2024-02-30": "",
    },
    "postgresql": {"infinity": "", "-infinity": "", "0044-03-15 BC": "", "294276-12-31 23:59:59": ""},
}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_reviews_of_any_clock_are_read_and_count(kind, model, tmp_path, fitted, request):
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    if kind == "postgresql":
        database = request.getfixturevalue("postgres")
    clocks, store = CLOCKS | OTHER_CLOCKS[kind], LiveStore(database)
    items = fitted.state.dataset.data.items[: len(clocks)]
    for item, clock in zip(items, clocks, strict=True):
        store.add(review(item))
        with store._engine.begin() as connection:
            change = sqlalchemy.text("UPDATE live_reviews SET created = :clock WHERE item_id = :item")
            if kind == "postgresql":
                change = sqlalchemy.text(f"UPDATE live_reviews SET created = '{clock}' WHERE item_id = :item")
            connection.execute(change, {"clock": clock, "item": item})
    assert [entry.day for entry in store.since(StoredReview, 0)] == [*clocks.values()]
    store.close()
    with service_in_process(model, database=database) as service:
        assert service.get("/v1/users/ada")["reviewed"] == sorted(items)


def test_several_processes_may_create_the_tables_at_once(postgres):
    import psycopg

    with psycopg.connect(postgres) as connection:
        connection.execute("DROP TABLE IF EXISTS live_reviews, live_items")
    with ThreadPoolExecutor(8) as pool:
        for store in pool.map(LiveStore, [postgres] * 8):
            store.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_replicas_share_reviews_and_a_kill_loses_none(kind, model, tmp_path, fitted, request):
    item, database = fitted.state.dataset.data.items[0], f"sqlite:///{tmp_path / 'live.sqlite'}"
    if kind == "postgresql":
        database = request.getfixturevalue("postgres")
    text = "Cold soup, rude staff.\0"  # PostgreSQL cannot store NUL
    sent = {"user": "ada", "item": item, "rating": 1, "text": text, "review_id": "mine"}
    pair = {"pairs": [{"user": "ada", "item": fitted.state.dataset.data.items[1]}]}
    with service_in_process(model, database=database) as replica:
        with serving(model, "--database", database) as killed:
            before = killed.post("/v1/predictions", pair)
            for _ in range(2):  # the second one is a repetition
                assert killed.post("/v1/reviews", sent, 201) == {"review_id": "mine"}
            after = killed.post("/v1/predictions", pair)
            assert after[0] < before[0]
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait()
        assert replica.get("/ready") == {"last_review": 1}
        assert replica.post("/v1/predictions", pair) == pytest.approx(after, abs=1e-6)
    with service_in_process(model, database=database) as restarted:
        assert restarted.get("/v1/users/ada")["reviewed"] == [item]
        assert restarted.post("/v1/predictions", pair) == pytest.approx(after, abs=1e-6)
