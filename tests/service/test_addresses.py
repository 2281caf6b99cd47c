"""Whatever is in an id that `fit` takes, pages and the API find what it stands for; and all below a path."""

import html
import re
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest
from pydantic import TypeAdapter, ValidationError

from mmrec.data.schema import EntityId
from mmrec.service.schemas import Identifier
from serving import service_in_process

ROOT = "/shown/here"
IDS = [
    "100%25",
    "50%41",
    "%",
    "%2F",
    "%2e%2e",
    ".",
    "..",
    "...",
    "x/../y",
    "/",
    "//host/x",
    "a//b",
    "ann/recommendations",
]
IDS += [
    "recommendations",
    "?user=x#y",
    "#",
    "a b",
    "\"q\" 'q' <b>&amp;",
    "\\",
    "a\\..\\b",
    ";",
    "+",
    "=&",
    "l" * 512,
]
IDS += ["\U0001f35c" * 512, "e\u0301", "\u202eabc", "a\u2028b", "\ufeff", "http://x", "{item}"]
REFUSED = ["", " ", "\u2003", "a\nb", "a\x00b", "a\x7f", "a\x85b", "l" * 513, "\ud800"]


@pytest.fixture(scope="module", params=[ROOT])
def below(request, model, tmp_path_factory):
    """A service that a proxy shows at the root, or below a path that it passes on."""
    database = f"sqlite:///{tmp_path_factory.mktemp('live') / 'live.sqlite'}"
    with service_in_process(model, root_path=request.param, database=database) as service:
        yield service, request.param


def follow(service, page, pattern):
    """Open a link as a browser does, which resolves dots, also escaped ones, and makes `\\` a slash."""
    link = html.unescape(re.search(pattern, page)[1])
    path = urlsplit(link).path
    assert not {".", ".."} & {unquote(part) for part in path.split("/")}
    assert "\\" not in path
    return service.client.get(urljoin("http://localhost/", link))


@pytest.mark.parametrize("id", IDS)
def test_every_id_that_fit_takes_can_be_opened_reviewed_and_asked_for(below, id):
    service, root = below
    shown = html.escape(id).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    review = {"user": id, "item": id, "rating": 5, "text": "Good soup."}
    service.post(f"{root}/v1/reviews", review, 201)
    escaped = quote(id, safe="")
    for kind, name in (("items", "item"), ("users", "user")):
        paths = [f"{root}/v1/{kind}/?{name}={escaped}"]
        if id not in (".", ".."):
            paths.append(f"{root}/v1/{kind}/{escaped}")
        for path in paths:
            assert service.get(path)[name] == id
    assert service.get(f"{root}/v1/users/?user={escaped}")["reviewed"] == [id]
    paths = [f"recommendations/?user={escaped}", f"users/{escaped}/recommendations?"][: len(paths)]
    lists = [service.get(f"{root}/v1/{path}&seen=true") for path in paths]
    assert lists[0]
    assert lists[-1] == lists[0]
    service.get(f"{root}/v1/similar-items/?item={escaped}")
    service.get(f"{root}/v1/similar-users/?user={escaped}")
    page = service.client.get(f"{root}/places/?item={escaped}&user={escaped}")
    assert f"<h1>{shown}</h1>" in page.text
    action = html.unescape(re.search('class="review" action="([^"]+)"', page.text)[1])
    assert action.startswith(f"{root}/places/")
    sent = service.client.post(action, data={"user": id, "rating": "4"})
    assert sent.status_code == 303
    thanks = service.client.get(sent.headers["location"])
    assert f"<h1>{shown}</h1>" in thanks.text
    assert "Thank you" in thanks.text
    again = follow(service, page.text, '<form class="review" action="([^"]+)"')
    assert f"<h1>{shown}</h1>" in again.text


@pytest.mark.parametrize("id", REFUSED)
def test_what_is_no_id_for_fit_is_none_for_the_service(id):
    for kind in (EntityId, Identifier):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(id)


def test_space_around_an_id_is_no_part_of_it(below):
    service, root = below
    service.post(f"{root}/v1/reviews", {"user": " outer ", "item": "\u3000inn", "rating": 4}, 201)
    assert service.get(f"{root}/v1/users/%20outer")["reviewed"] == ["inn"]
    assert service.get(f"{root}/v1/items/inn%20")["item"] == "inn"


def test_all_addresses_are_below_the_path_of_the_proxy(model):
    with service_in_process(model, root_path=f"{ROOT}/") as service:
        for path in (f"{ROOT}/?user=x", "/?user=x"):  # whether the proxy passes the path on or not
            home = service.client.get(path).text
            links = re.findall('(?:href|src|action)="([^"]*)"', home)
            assert len(links) > 15
            assert all(link.startswith((f"{ROOT}/", "#")) for link in links)
            for link in {link.partition("?")[0]: link for link in links}.values():
                assert service.client.get(html.unescape(link)).status_code in (200, 404)
        assert service.client.get(f"{ROOT}/static/style.css").status_code == 200
        assert service.client.get(ROOT).status_code == 200
        assert service.client.get(f"{ROOT}/v1/search/").headers["location"].endswith(f"{ROOT}/v1/search")
        assert service.get(f"{ROOT}/openapi.json")["servers"] == [{"url": ROOT}]
        assert f'href="{ROOT}/"' in service.client.get(f"{ROOT}/places/nowhere").text
        assert service.client.get("/elsewhere/").status_code == 404
        assert 'handler="/places/{item:id}"' in service.client.get(f"{ROOT}/metrics").text


def test_keys_are_asked_for_below_a_path(model, tmp_path):
    (tmp_path / "keys").write_text("sesame")
    with service_in_process(model, root_path=ROOT, keys=tmp_path / "keys") as service:
        for path in (
            f"{ROOT}/v1/search?q=x",
            "/v1/search?q=x",
            f"{ROOT}/%761/search?q=x",
            "/%76%31/search?q=x",
        ):
            assert service.client.get(path).status_code == 401
        key = {"Authorization": "Bearer sesame"}
        assert service.client.get(f"{ROOT}/v1/search?q=x", headers=key).status_code == 200
