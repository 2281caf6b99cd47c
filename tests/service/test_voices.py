"""What one person says of an item, sent again, corrected and withdrawn; and a database that hangs."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from serving import freeze_postgresql, service_in_process, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
from mmrec.errors import StoreError
from mmrec.service.live_feed import LiveFeed
from mmrec.service.live_store import LiveStore, StoredReview


def review(user, item, rating, text="", review_id=None):
    body = {"user": user, "item": item, "rating": rating, "text": text}
    return body | ({"review_id": review_id} if review_id else {})


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path / 'live.sqlite'}"


def test_ids_are_those_of_a_user_and_no_other_review_is_taken_for_the_first(model, database, fitted):
    items = fitted.state.dataset.data.items
    with service_in_process(model, database=database) as service:
        for user, item in (("kim", items[0]), ("lee", items[1])):
            for _ in range(2):  # the second one is a repetition
                service.post("/v1/reviews", review(user, item, 5, review_id="1"), 201)
            assert service.get(f"/v1/users/{user}")["reviewed"] == [item]
        for changed in (review("kim", items[0], 4, review_id="1"), review("kim", items[2], 5, review_id="1")):
            refused = service.post("/v1/reviews", changed, 409)
            assert "another review with the id '1'" in refused["error"]
        assert service.get("/v1/users/kim")["reviewed"] == [items[0]]


def test_the_latest_review_counts_also_after_a_restart(model, database):
    pair = {"pairs": [{"user": "stranger", "item": "den"}]}
    with service_in_process(model, database=database) as service:
        service.post("/v1/reviews", review("kim", "den", 5, "Lovely noodles."), 201)
        liked = service.post("/v1/predictions", pair)
        for _ in range(3):
            service.post("/v1/reviews", review("kim", "den", 5, "Lovely noodles."), 201)
        assert service.post("/v1/predictions", pair) == pytest.approx(liked, abs=1e-7)
        service.post("/v1/reviews", review("kim", "den", 1, "Cold noodles. Rude staff."), 201)
        disliked = service.post("/v1/predictions", pair)
        assert disliked < liked
        assert service.get("/v1/users/kim")["reviewed"] == ["den"]
        quotes = [quote["text"] for quote in service.get("/v1/items/den")["dislikes"]]
        assert any("Rude staff" in quote for quote in quotes)
        assert service.get("/v1/items/den")["likes"] == []
    with service_in_process(model, database=database) as service:
        assert service.post("/v1/predictions", pair) == pytest.approx(disliked, abs=1e-7)


def test_a_withdrawn_review_is_gone_from_lists_and_from_the_database(model, database, tmp_path, fitted):
    data = fitted.state.dataset.data
    user, item = data.users[data.user[0]], data.items[data.item[0]]
    secret = "Lovely noodles, said Very Private."
    with service_in_process(model, database=database) as service:
        before = service.get("/v1/users/kim/recommendations")
        service.post("/v1/reviews", review("kim", "den", 5, secret, "mine"), 201)
        for name, place, status in (("kim", "den", 204), ("kim", "den", 404), (user, item, 204)):
            response = service.client.post("/v1/withdrawals", json={"user": name, "item": place})
            assert response.status_code == status, response.text
        assert service.get("/v1/users/kim") == {"user": "kim", "known": False, "reviewed": []}
        assert item not in service.get(f"/v1/users/{user}")["reviewed"]
        assert service.get("/v1/items/den")["likes"] == []
        after = service.get("/v1/users/kim/recommendations")
        assert [row["item"] for row in after] == [row["item"] for row in before]
        service.post("/v1/reviews", review("kim", "den", 5, secret, "mine"), 409)
    store = LiveStore(database)
    assert [entry.rating for entry in store.since(StoredReview, 0)] == [None] * 3
    store.close()
    assert b"Very Private" not in b"".join(file.read_bytes() for file in tmp_path.glob("live.sqlite*"))
    with service_in_process(model, database=database) as service:
        assert service.get("/v1/users/kim")["reviewed"] == []
        assert item not in service.get(f"/v1/users/{user}")["reviewed"]


def loaded(ask):
    """The answer to a request, which is repeated while a worker still loads its model."""
    deadline = time.monotonic() + 60
    while (answer := ask()).status_code == 503:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    return answer


def test_whichever_worker_answers_knows_what_any_has_acknowledged(model, database, fitted):
    items = fitted.state.dataset.data.items
    with serving(model, "--database", database, "--workers", "2", "--per-minute", "100000") as service:
        for number in range(30):
            user, item = f"user {number}", items[number % len(items)]
            sent = review(user, item, 5, "Good soup.")
            assert loaded(partial(service.client.post, "/v1/reviews", json=sent)).status_code == 201
            # Each on a connection of its own, so that both workers answer.
            for _ in range(3):
                with type(service.client)(base_url=service.client.base_url, timeout=30) as client:
                    answer = loaded(partial(client.get, f"/v1/users/{user}"))
                    assert answer.json()["reviewed"] == [item]


def test_nobody_waits_long_for_a_database_that_hangs():
    is_free, reads = threading.Event(), []

    def read():
        reads.append(time.monotonic())
        if len(reads) > 1 and not is_free.wait(20):
            raise StoreError("it hangs")

    feed = LiveFeed(read)
    feed.start()
    assert feed.catch_up(5)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: feed.catch_up(0.2), range(8)))
    for _ in range(20):
        assert not feed.catch_up(0.2)
    assert time.monotonic() - started < 2  # all of them together
    is_free.set()
    deadline = time.monotonic() + 10
    while not feed.catch_up(0.2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    feed.stop()


def test_lists_go_on_while_postgresql_is_frozen(model, postgres, fitted):
    import psycopg

    items = fitted.state.dataset.data.items
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP TABLE IF EXISTS live_reviews, live_items")
    with service_in_process(model, database=postgres) as service:
        service.post("/v1/reviews", review("kim", items[0], 5), 201)
        frozen = freeze_postgresql(postgres)
        try:
            for path in ("/v1/users/kim/recommendations", "/health", "/metrics"):
                service.client.get(path)
            started = time.monotonic()
            for path in ("/v1/users/kim/recommendations", "/health", "/metrics"):
                assert service.client.get(path).status_code == 200
            assert time.monotonic() - started < 2
            body = review("kim", items[1], 5, review_id="two")
            refused = service.client.post("/v1/reviews", json=body)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            with ThreadPoolExecutor(60) as pool:  # more than there are threads that answer
                bodies = [review(f"user {number}", items[1], 5) for number in range(60)]
                sent = [pool.submit(service.client.post, "/v1/reviews", json=sent) for sent in bodies]
                time.sleep(0.5)
                started = time.monotonic()
                assert service.client.get("/v1/users/kim/recommendations").status_code == 200
                assert time.monotonic() - started < 2
                assert {answer.result().status_code for answer in sent} == {503}
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + 15
        while (answer := service.client.post("/v1/reviews", json=body)).status_code != 201:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)
        assert sorted(service.get("/v1/users/kim")["reviewed"]) == sorted(items[:2])
