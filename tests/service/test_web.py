"""The web pages as plain HTTP; test_browser.py opens them in a browser."""

import html
import re

import pytest


def test_the_list_alone_is_a_part_of_the_home_page(service, user):
    home, fragment = (
        service.client.get("/", params={"user": user, "hide": 10}, headers=headers).text
        for headers in ({}, {"X-Fragment": "list"})
    )
    assert f"For {user}" in fragment
    assert "<html" not in fragment
    assert fragment.strip() in home


def test_a_name_that_has_written_nothing_is_said_to_be_unknown(service, user):
    known, unknown = (service.client.get("/", params={"user": name}).text for name in (user, "<nobody>"))
    assert "Nobody called" not in known
    assert "Nobody called &lt;nobody&gt; has written a review here" in unknown


def test_more_places_are_on_further_pages(service, user):
    names, path = [], f"/?user={user}"
    while path:
        page = html.unescape(service.client.get(path).text)
        names += re.findall(r'href="/places/([^?"]+)', page)
        path = next(iter(re.findall(r'href="([^"]+)">more places', page)), None)
    rows = service.get(f"/v1/users/{user}/recommendations", params={"n": 100})
    assert names == [row["item"] for row in rows]
    assert len(names) > 12


def test_a_review_from_the_page_is_added_and_escaped(service):
    text = "The <script>alert(1)</script> tacos were wonderful."
    sent = service.client.post("/places/tacos", data={"user": "eve & co", "rating": "5", "text": text})
    assert sent.status_code == 303
    page = service.client.get(sent.headers["location"]).text
    assert "Thank you" in page
    assert "tacos were wonderful" in page
    assert "<script>alert" not in page
    assert service.get("/v1/users/eve%20%26%20co")["reviewed"] == ["tacos"]


def test_names_of_reviewers_and_items_are_escaped(service, user):
    evil = "<b>eve</b>"
    # A review that says what is said of an item that eve will see.
    (row,) = service.get("/v1/users/eve/recommendations", params={"n": 1})
    same = service.get(f"/v1/items/{row['item']}")["summary"]["text"]
    for name, text in (("<u>hut", same), ("<u>den", "Rude staff & <i>awful</i> soup.")):
        form = {"user": evil, "rating": 5, "text": text}
        assert service.client.post(f"/places/{name}", data=form).status_code == 303
    place = service.client.get("/places/<u>hut").text
    assert "&lt;b&gt;eve&lt;/b&gt;, 5 stars, " in place
    liked = service.client.get("/", params={"user": evil, "hide": 0}).text
    assert "Because you liked &lt;u&gt;hut" in liked
    for page in (place, liked, service.client.get("/", params={"user": user, "hide": 0}).text):
        assert not any(tag in page for tag in ("<b>eve", "<u>hut", "<i>awful"))


ERRORS = [("/?hide=500", None, 422, "Not valid: hide"), ("/places/no", None, 404, "Not found")]
ERRORS += [("/places/no", user, 422, "Not valid") for user in ("a\x01b", "x" * 513)]


@pytest.mark.parametrize(("path", "user", "status", "message"), ERRORS)
def test_an_error_is_a_page(service, path, user, status, message):
    form = {"user": user, "rating": "4"} if user else None
    response = service.client.request("POST" if user else "GET", path, data=form)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert message in response.text
    assert "\x01" not in response.text


def test_pages_ask_no_other_host(service, item):
    headers = service.client.get(f"/photos/{item}").headers
    assert headers["content-type"] == "image/jpeg"
    assert service.client.get(f"/photos/{item}?index=999").status_code == 404
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "http" not in service.client.get("/static/page.js").text
