"""The service over real HTTP: a real process, a real database, a model fitted on a small Sample City."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrec.recommender.recommender import Recommender
from serving import MMREC, WAIT, Served, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with serving(model) as running:
        yield running


def test_a_user_gets_what_the_library_recommends(served: Served, fitted: Recommender) -> None:
    user = fitted.corpus.data.users[1]
    found = served.get(f"/v1/users/{user}/recommendations", params={"n": 5, "why": True})
    expected = fitted.recommend(user, 5)
    assert [one["item"] for one in found] == expected["item"].to_list()
    assert [one["probability"] for one in found] == pytest.approx(expected["probability"].to_list(), abs=1e-6)
    for one in found:
        total = one["why"]["base"] + sum(one["why"]["contributions"].values())
        assert total == pytest.approx(one["probability"], abs=1e-4)
        texts = fitted.reviews.table.filter(item=one["item"])["text"]
        assert all(any(quote["text"] in text for text in texts) for quote in one["why"]["quotes"])


def test_filters_reach_the_library(served: Served, fitted: Recommender) -> None:
    user = fitted.corpus.data.users[1]
    found = served.get(f"/v1/users/{user}/recommendations", params={"n": 100, "max_fpr": 0.1, "seen": True})
    expected = fitted.recommend(user, 100, max_fpr=0.1, seen=True)
    assert [one["item"] for one in found] == expected["item"].to_list()
    kind = fitted.recommend(user, 100, seen=True)["categories"].explode().mode().sort()[0]
    params = {"categories": [kind], "prices": ["fair price"], "n": 100}
    for one in served.get(f"/v1/users/{user}/recommendations", params=params):
        assert kind in one["categories"]
        assert one["price"] == "fair price"


def test_newcomers_say_what_they_like_or_name_it(served: Served, fitted: Recommender) -> None:
    said = served.post("/v1/recommendations", {"likes": "ramen, cheap", "n": 3})
    assert [one["item"] for one in said] == fitted.recommend(likes="ramen, cheap", n=3)["item"].to_list()
    item = fitted.corpus.data.items[0]
    named = served.post("/v1/recommendations", {"liked": [item], "n": 3, "why": True})
    assert item not in [one["item"] for one in named]
    for wrong in ({}, {"likes": "x", "liked": [item]}, {"likes": " "}, {"liked": ["nowhere"], "surprise": 1}):
        served.post("/v1/recommendations", wrong, 422)
    assert "check the id" in served.post("/v1/recommendations", {"liked": ["nowhere"]}, 404)["error"]


def test_predictions_profiles_neighbours_and_search(served: Served, fitted: Recommender) -> None:
    user, item = fitted.corpus.data.users[2], fitted.corpus.data.items[3]
    pairs = [{"user": user, "item": item}, {"user": "stranger", "item": "unknown"}]
    expected = fitted.predict([user, "stranger"], [item, "unknown"])
    assert served.post("/v1/predictions", {"pairs": pairs}) == pytest.approx(expected.tolist(), abs=1e-6)
    profile = served.get(f"/v1/items/{item}")
    assert profile["categories"]
    assert profile["likes"]
    assert served.get(f"/v1/users/{user}")["known"]
    assert not served.get("/v1/users/stranger")["known"]
    assert len(served.get(f"/v1/similar-items/{item}", params={"n": 4})) == 4
    assert len(served.get(f"/v1/similar-users/{user}", params={"n": 4})) == 4
    assert served.get("/v1/search", params={"q": profile["name"]})[0]["item"] == item


def test_what_cannot_be_is_told_without_a_trace(served: Served) -> None:
    answer = served.client.get("/v1/items/nowhere", headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == 404
    why = "no review speaks of item 'nowhere'; check the id"
    assert answer.json() == {"error": why, "request_id": "mine-1"}
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert served.client.get("/v1/users/u/recommendations", params={"n": 1000}).status_code == 422
    assert served.client.post("/v1/reviews", content=b"{").status_code == 422
    bad = {"user": "u", "item": "i", "rating": 9}
    assert served.client.post("/v1/reviews", json=bad).status_code == 422
    assert served.client.get("/v1/users/a%00b").status_code == 422
    for hostile in ('"rating": NaN', '"rating": 4, "user": "\\ud800"'):
        raw = '{"user": "u", "item": "i", ' + hostile + "}"
        assert served.client.post("/v1/reviews", content=raw, headers=JSON).status_code == 422, hostile
    nul = '{"user": "nul", "item": "i", "rating": 4, "text": "Fine soup. \\u0000"}'
    assert served.client.post("/v1/reviews", content=nul, headers=JSON).status_code == 201
    big = served.client.post("/v1/reviews", content=b" " * 70_000)
    assert big.status_code == 413
    chunks = (b" " * 10_000 for _ in range(10))
    assert served.client.post("/v1/reviews", content=chunks).status_code == 413


def test_logs_and_figures_name_routes_not_people(served: Served, fitted: Recommender) -> None:
    client, item = served.client, fitted.corpus.data.items[0]
    served.get("/v1/users/very-private/recommendations", params={"n": 1})
    for path in (
        "/",
        f"/places/{item}",
        f"/photos/{item}",
        "/static/page.js",
        "/openapi.json",
        "/very-private",
    ):
        client.get(path)
    for path in ("/static/very-private", "/places/very-private", "/v1/very-private", "/health/"):
        client.request("VERY-PRIVATE", path)
    figures = client.get("/metrics").text
    routes = {"/v1/users/{user:path}/recommendations", "/", "/places/{item:path}", "/photos/{item:path}"}
    routes |= {"/static/{path:path}", "/openapi.json", "none"}
    assert routes <= set(re.findall('route="([^"]*)"', figures))
    assert 'method="other"' in figures
    told = [json.loads(line) for line in served.log.read_text().splitlines() if line.startswith("{")]
    assert {"method", "route", "status", "request_id", "ms"} == set(told[-1])
    assert "very-private" not in (figures + served.log.read_text()).lower()


def test_the_page_lists_shows_and_takes_reviews(served: Served, fitted: Recommender) -> None:
    client, user = served.client, fitted.corpus.data.users[4]
    home = client.get("/", params={"user": user, "sure": 10})
    assert home.status_code == 200
    assert f"For {user}" in home.text
    part = client.get("/", params={"user": user, "sure": 10}, headers={"X-Fragment": "list"}).text
    assert "<html" not in part
    assert part.strip() in home.text
    item = fitted.recommend(user, 1)["item"][0]
    assert f'href="/places/{item}?' in part
    photo = client.get(f"/photos/{item}")
    assert photo.headers["content-type"] == "image/jpeg"
    assert client.get(f"/photos/{item}", params={"at": 999}).status_code == 404
    evil = "<script>alert(1)</script> The tacos were wonderful."
    form = {"user": "eve & co", "rating": "5", "text": evil}
    sent = client.post(f"/places/{item}", data=form)
    assert sent.status_code == 303
    shown = client.get(sent.headers["location"]).text
    assert "counts already" in shown
    assert "<script>alert" not in shown
    refused = client.post(f"/places/{item}", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert refused.status_code == 403
    assert served.get("/v1/users/eve%20%26%20co")["reviewed"] == [item]
    for name in ("style.css", "page.js"):
        assert client.get(f"/static/{name}").status_code == 200
    assert "http" not in client.get("/static/page.js").text


def test_keys_are_wanted_and_limits_are_kept(model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsecret-1\nsecret-2\n")
    database = f"sqlite:///{tmp_path / 'other.sqlite'}"
    with serving(model, "--keys", str(keys), "--per-minute", "30", "--database", database) as one:
        assert one.client.get("/v1/users/u").status_code == 401
        assert one.client.get("/v1/users/u", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert one.client.get("/").status_code == 404
        right = {"Authorization": "Bearer secret-2"}
        found = [one.client.get("/v1/users/u", headers=right).status_code for _ in range(40)]
        assert found[0] == 200
        assert found[-1] == 429
        other = {"Authorization": "Bearer secret-1"}
        assert one.client.get("/v1/users/u", headers=other).status_code == 200
        assert "secret" not in one.log.read_text()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_replicas_see_each_others_reviews_and_none_is_lost_to_a_kill(
    kind: str, model: Path, tmp_path: Path, fitted: Recommender, request: pytest.FixtureRequest
) -> None:
    item, database = fitted.corpus.data.items[0], f"sqlite:///{tmp_path / 'live.sqlite'}"
    if kind == "postgresql":
        database = request.getfixturevalue("postgres")
    said = {"user": "ada", "item": item, "rating": 1, "text": "Cold soup, rude staff.", "review_id": "mine"}
    pair = {"pairs": [{"user": "ada", "item": fitted.corpus.data.items[1]}]}
    with serving(model, "--database", database) as other:
        with serving(model, "--database", database) as one:
            before = one.post("/v1/predictions", pair)
            assert one.post("/v1/reviews", said, 201) == {"review_id": "mine"}
            assert one.post("/v1/reviews", said, 201) == {"review_id": "mine"}
            after = one.post("/v1/predictions", pair)
            assert after[0] < before[0]
            assert other.get("/ready") == {"heard": 1}
            assert other.post("/v1/predictions", pair) == pytest.approx(after, abs=1e-6)
            one.process.send_signal(signal.SIGKILL)
            one.process.wait()
        with serving(model, "--database", database) as again:
            assert again.get("/v1/users/ada")["reviewed"] == [item]
            assert again.post("/v1/predictions", pair) == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--keys", "/nowhere"], "cannot be read"), (["--database", "nonsense"], "sqlite:///FILE")],
)
def test_wrong_flags_are_told_in_a_sentence(model: Path, flags: list[str], said: str) -> None:
    command = [*MMREC, "serve", str(model), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_folder_that_may_only_be_read_is_served(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("live.sqlite*"))
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    folder.chmod(0o555)
    files = sorted(folder.iterdir())
    with serving(folder, "--database", f"sqlite:///{tmp_path / 'live.sqlite'}") as one:
        one.post("/v1/reviews", {"user": "ada", "item": "new", "rating": 5}, 201)
    assert sorted(folder.iterdir()) == files


def test_a_store_that_cannot_be_used_is_told_in_a_sentence(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    manifest = json.loads((folder / "model.json").read_text())
    manifest["config"]["store"] = str(tmp_path)
    (folder / "model.json").write_text(json.dumps(manifest))
    done = subprocess.run([*MMREC, "serve", str(folder)], capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 2
    assert f"the store {tmp_path} cannot be used" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_review_that_cannot_be_heard_silences_no_other(model: Path, tmp_path: Path) -> None:
    from mmrec.service.live_store import LiveStore, StoredReview

    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    ledger, good = LiveStore(database), '{"gist": "Good soup."}'
    fields = {"user": "ada", "rating": 5.0, "text": "Good soup."}
    assert ledger.add(StoredReview(review_id="broken", item="one", note="not a note", **fields))
    assert ledger.add(StoredReview(review_id="sound", item="two", note=good, **fields))
    assert [one.review_id for one in ledger.since(StoredReview, 0)] == ["broken", "sound"]
    assert not ledger.add(StoredReview(review_id="sound", item="two", note=good, **fields))
    assert len(ledger.since(StoredReview, 0)) == 2
    ledger.close()
    with serving(model, "--database", database) as one:
        assert one.get("/v1/users/ada")["reviewed"] == ["two"]
        assert "number 1 was left out" in one.log.read_text()
        assert "not a note" not in one.log.read_text()


def test_several_may_start_at_once_on_an_empty_database(postgres: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from sqlalchemy import create_engine, text

    from mmrec.service.live_store import LiveStore

    engine = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS live_reviews, live_items"))
    with ThreadPoolExecutor(8) as pool:
        for ledger in [*pool.map(LiveStore, [postgres] * 8)]:
            ledger.close()
    engine.dispose()
