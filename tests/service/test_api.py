"""The HTTP API: what it answers is what the library answers; bad requests are refused."""

from dataclasses import asdict

import pytest


def test_a_user_gets_the_list_and_the_reasons_of_the_library(service, fitted, user):
    rows = service.get(f"/v1/users/{user}/recommendations", params={"n": 5, "why": True})
    expected = fitted.recommend(user, 5)
    assert [row["item"] for row in rows] == expected["item"].to_list()
    assert [row["probability"] for row in rows] == pytest.approx(expected["probability"].to_list(), abs=1e-6)
    assert any(row["why"]["quotes"] for row in rows)
    for row in rows:
        why = fitted.explain(user, row["item"])
        assert row["why"]["contributions"] == pytest.approx(why.contributions, abs=1e-4)
        assert row["why"]["reasons"] == [asdict(reason) for reason in why.reasons] != []
    listed = fitted.explain_list(user, [row["item"] for row in rows])
    assert [row["why"]["quotes"] for row in rows] == [[*map(asdict, why.quotes)] for why in listed]


def test_options_of_a_list_are_passed_on(service, fitted, user):
    category = fitted.recommend(user, 100, seen=True)["categories"].explode().mode().sort()[0]
    filters = {"categories": [category], "prices": ["fair price", "cheap price"]}
    for options in ({"max_fpr": 0.1, "seen": True}, filters):
        rows = service.get(f"/v1/users/{user}/recommendations", params={"n": 100, **options})
        expected = fitted.recommend(user, 100, **options)["item"].to_list()
        assert [row["item"] for row in rows] == expected != []


def test_a_list_goes_on_after_an_offset(service, user):
    path, parts = f"/v1/users/{user}/recommendations", []
    for offset in range(0, 100, 7):
        parts += service.get(path, params={"n": 7, "offset": offset, "why": offset == 7})
    whole = service.get(path, params={"n": 100})
    assert [row["item"] for row in parts] == [row["item"] for row in whole]
    assert sum(row["why"] is not None for row in parts) == 7
    assert service.get(path, params={"offset": 10_000}) == []
    assert service.client.get(path, params={"offset": -1}).status_code == 422


def test_a_category_may_be_written_in_any_letters_and_one_that_no_item_has_is_named(service, user):
    path = f"/v1/users/{user}/recommendations"
    (name, *_) = service.get(path, params={"n": 1})[0]["categories"]
    lists = [service.get(path, params={"categories": text}) for text in (name, name.upper())]
    assert lists[0] == lists[1] != []
    refused = service.client.get(path, params={"categories": ["Nonsense"]})
    assert refused.status_code == 404
    assert "'Nonsense': no item has it; categories are " in refused.json()["error"]
    assert name in refused.json()["error"]


def test_a_new_user_gets_a_list_by_either_a_text_or_liked_items(service, fitted, item):
    for options in ({"likes": "ramen, cheap"}, {"liked": [item]}):
        rows = service.post("/v1/recommendations", {**options, "n": 3, "why": True})
        assert [row["item"] for row in rows] == fitted.recommend(**options, n=3)["item"].to_list()
        assert {row["understood"] for row in rows} == {"cheap; ramen" if "likes" in options else None}
        service.post("/v1/recommendations", {**options, "surprise": 1}, 422)
    for body in ({}, {"likes": "x", "liked": ["i"]}, {"likes": " "}, {"liked": []}):
        service.post("/v1/recommendations", body, 422)


def test_predictions_include_unknown_users_and_items(service, fitted, user, item):
    pairs = [{"user": user, "item": item}, {"user": "unknown", "item": "unknown"}]
    expected = fitted.predict([user, "unknown"], [item, "unknown"])
    assert service.post("/v1/predictions", {"pairs": pairs}) == pytest.approx(expected.tolist(), abs=1e-6)


def test_profiles_neighbors_and_search(service, user, item):
    profile = service.get(f"/v1/items/{item}")
    assert profile["categories"]
    assert profile["likes"]
    assert profile["summary"]["text"]
    assert service.get(f"/v1/users/{user}")["known"]
    assert service.get("/v1/users/unknown") == {"user": "unknown", "known": False, "reviewed": []}
    assert len(service.get(f"/v1/similar-items/{item}", params={"n": 4})) == 4
    assert len(service.get(f"/v1/similar-users/{user}", params={"n": 4})) == 4
    assert service.get("/v1/search", params={"q": profile["name"]})[0]["item"] == item


@pytest.mark.parametrize(
    ("path", "body"), [("items/nowhere", None), ("recommendations", {"liked": ["nowhere"]})]
)
def test_an_unknown_item_is_not_found(service, path, body):
    method, headers = "POST" if body else "GET", {"X-Request-ID": "mine-1"}
    response = service.client.request(method, f"/v1/{path}", json=body, headers=headers)
    assert response.status_code == 404
    assert "'nowhere'; check the id" in response.json()["error"]
    assert response.json()["request_id"] == response.headers["X-Request-ID"] == "mine-1"


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/v1/users/u/recommendations?n=1000", None),
        ("GET", "/v1/users/a%00b", None),
        ("POST", "/v1/reviews", "{"),
        ("POST", "/v1/reviews", '{"user": "u", "item": "i", "rating": 9}'),
        ("POST", "/v1/reviews", '{"user": "u", "item": "i", "rating": NaN}'),
        ("POST", "/v1/reviews", '{"user": "\\ud800", "item": "i", "rating": 4}'),
    ],
)
def test_a_value_out_of_its_limits_is_refused(service, method, path, content):
    headers = {"Content-Type": "application/json"}
    response = service.client.request(method, path, content=content, headers=headers)
    assert response.status_code == 422
    assert set(response.json()) == {"detail", "request_id"}
