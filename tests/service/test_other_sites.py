"""Pages of other sites can neither read nor write, by plain HTTP and in a real browser."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving import service_in_process, serving

REVIEW = {"user": "eve", "item": "trap", "rating": 5}
WRITES = {
    "/v1/reviews": {"json": REVIEW},
    "/v1/items": {"files": {"item": (None, "trap"), "description": (None, "Ramen bar.")}},
    "/places/trap": {"data": {"user": "eve", "rating": "5"}},
}


@pytest.fixture
def item_count(service):
    return lambda: len(service.client.app.state.service._recommender.state.online.ids["item"])


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8080"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    ],
)
def test_pages_of_other_sites_write_nothing(service, item_count, path, headers):
    before = item_count()
    refused = service.client.post(path, headers=headers, **WRITES[path])
    assert refused.status_code == 403, refused.text
    assert item_count() == before
    assert service.get("/v1/users/eve")["reviewed"] == []


def test_our_own_page_and_programs_write(model, tmp_path):
    with service_in_process(model, database=f"sqlite:///{tmp_path / 'live.sqlite'}") as service:
        own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        for number, headers in enumerate(({}, own, {"Origin": "http://LOCALHOST:80"})):
            service.client.headers = headers
            review = {"json": REVIEW | {"item": f"item-{number}"}}
            assert service.client.post("/v1/reviews", **review).status_code == 201


NAMES = [
    ("127.0.0.1", "", "127.0.0.1:8000", 200),
    ("127.0.0.1", "", "[::1]:8000", 200),
    ("127.0.0.1", "", "localhost", 200),
    ("127.0.0.1", "", "town.localhost:80", 200),
    ("127.0.0.1", "", "evil.example", 400),
    ("127.0.0.1", "", "127.0.0.1.evil.example:8000", 400),
    ("127.0.0.1", "", "192.0.2.1", 400),
    ("192.0.2.1", "", "192.0.2.1:8000", 200),
    ("0.0.0.0", "", "192.0.2.1:8000", 200),
    ("0.0.0.0", "", "[2001:db8::1]", 200),
    ("0.0.0.0", "", "evil.example", 400),
    ("127.0.0.1", "Town.example, *.city.example", "town.EXAMPLE.", 200),
    ("127.0.0.1", "Town.example, *.city.example", "a.city.example:443", 200),
    ("127.0.0.1", "Town.example, *.city.example", "evilcity.example", 400),
    ("127.0.0.1", "*", "evil.example", 200),
]


@pytest.mark.parametrize(("host", "allowed", "name", "status"), NAMES)
def test_a_service_without_keys_answers_to_its_own_names(model, host, allowed, name, status):
    from starlette.datastructures import Headers
    from starlette.exceptions import HTTPException

    from mmrec.config import ServeConfig
    from mmrec.service.browsers import BrowserGuard

    guard, answer = BrowserGuard(ServeConfig(host=host, allowed_hosts=allowed)), 200
    try:
        guard.check("GET", Headers({"host": name}))
    except HTTPException as error:
        answer = error.status_code
    assert answer == status


def test_other_names_read_and_write_nothing(service):
    for path in ("/", "/health", "/v1/search?q=ramen", "/openapi.json", "/static/page.js"):
        refused = service.client.get(path, headers={"Host": "evil.example"})
        assert refused.status_code == 400, path
        assert "--allowed-hosts" in refused.json()["error"]
    same = {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}
    assert service.client.post("/v1/reviews", json=REVIEW, headers=same).status_code == 400


def test_with_keys_any_name_is_served_since_a_browser_has_no_key(model, tmp_path):
    (tmp_path / "keys").write_text("open-sesame")
    with service_in_process(model, keys=tmp_path / "keys") as service:
        headers = {"Host": "mmrec.example", "Origin": "https://app.example"}
        assert service.client.get("/health", headers=headers).status_code == 200
        assert service.client.get("/v1/search?q=ramen", headers=headers).status_code == 401


# What a page of another site tries: to read, to write by fetch and by forms, and to frame the page.
ATTACK = """<!doctype html><body><script>
const target = "TARGET", review = JSON.stringify({user: "eve", item: "trap", rating: 5});
const form = new FormData(); form.append("item", "trap"); form.append("description", "Ramen bar.");
const tries = {
  read: () => fetch(target + "/v1/search?q=ramen").then((answer) => answer.text()),
  page: () => fetch(target + "/").then((answer) => answer.text()),
  items: () => fetch(target + "/v1/items", {method: "POST", body: form, mode: MODE}),
  reviews: () => fetch(target + "/v1/reviews", {method: "POST", body: review, mode: MODE,
    headers: {"Content-Type": "TYPE"}}),
  review_form: () => fetch(target + "/places/trap", {method: "POST", mode: MODE,
    body: new URLSearchParams({user: "eve", rating: "5"})}),
  photo: () => new Promise((done, fail) => { const image = new Image();
    image.onload = () => done("seen"); image.onerror = fail; image.src = target + "PHOTO"; }),
};
(async () => {
  const got = {};
  for (const [name, attempt] of Object.entries(tries)) {
    try { const answer = await attempt(); got[name] = answer.type ?? answer; }
    catch (error) { got[name] = null; }
  }
  const frame = document.createElement("iframe"); frame.src = target + "/";
  frame.onload = () => {
    try { got.frame = frame.contentDocument.body.innerText; } catch (error) { got.frame = null; }
    window.result = got; };
  document.body.append(frame);
})();
</script></body>"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.page.encode())

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Debian's package chromium is not installed")
    with sync_api.sync_playwright() as play:
        # Not every browser asks before a page may reach loopback, so this one does not either.
        flags = ["--no-sandbox", "--disable-gpu", "--disable-features=LocalNetworkAccessChecks"]
        flags.append("--host-resolver-rules=MAP *.example 127.0.0.1")
        chromium = play.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("attack", ["foreign", "rebinding"])
def test_a_hostile_page_in_a_browser_reads_and_writes_nothing(browser, model, tmp_path, item, attack):
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    with (
        serving(model, "--database", database) as served,
        ThreadingHTTPServer(("127.0.0.1", 0), _Page) as evil,
    ):
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        port = served.client.base_url.port
        foreign = attack == "foreign"
        # After rebinding, the page's own name leads to the service, so all is of the same origin.
        target = f"http://127.0.0.1:{port}" if foreign else f"http://evil.example:{port}"
        evil.page = ATTACK.replace("TARGET", target).replace("PHOTO", f"/photos/{item}?index=0")
        evil.page = evil.page.replace("MODE", '"no-cors"' if foreign else '"same-origin"')
        evil.page = evil.page.replace("TYPE", "text/plain" if foreign else "application/json")
        page = browser.new_page()
        if foreign:
            page.goto(f"http://evil.example:{evil.server_port}/")
        else:
            # What the browser has loaded before the name was bound anew.
            page.route(
                f"{target}/start", lambda route: route.fulfill(content_type="text/html", body=evil.page)
            )
            page.goto(f"{target}/start")
        page.wait_for_function("window.result")
        result = page.evaluate("window.result")
        page.close()
        evil.shutdown()
        for name in ("read", "page", "frame"):
            assert not result[name] or "not served" in result[name], name
        assert result["photo"] is None
        assert served.get("/v1/users/eve")["reviewed"] == []
        assert served.client.get("/v1/items/trap").status_code == 404
