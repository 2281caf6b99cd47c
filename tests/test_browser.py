"""The web page in a real browser, on a phone and on a desk, with and without JavaScript."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mmrec.recommender.recommender import Recommender
from serving import Served, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian's package chromium)"
)

QUIET = ["background-networking", "component-update", "gpu", "sync"]
FLAGS = ["--no-sandbox", *(f"--disable-{one}" for one in QUIET)]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
Open = Callable[..., Any]
expect = sync_api.expect
expect.set_options(timeout=30_000)  # the first words that are asked for wait for the encoder


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    database = tmp_path_factory.mktemp("browser") / "live.sqlite"
    with serving(model, "--database", f"sqlite:///{database}", "--per-minute", "100000") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        one = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


@pytest.fixture
def wrong() -> Iterator[list[str]]:
    """What pages ask of other hosts, and what they complain of."""
    found: list[str] = []
    yield found
    assert not found


@pytest.fixture
def show(browser: Any, served: Served, wrong: list[str]) -> Iterator[Open]:
    """Opens pages."""
    home, contexts = str(served.client.base_url), []

    def note_request(request: Any) -> None:
        if not request.url.startswith(home):
            wrong.append(request.url)

    def show(path: str, **how: Any) -> Any:
        contexts.append(browser.new_context(base_url=home, **{"viewport": DESK, **how}))
        page = contexts[-1].new_page()
        page.on("request", note_request)
        page.on(
            "console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path)
        return page

    yield show
    for context in contexts:
        context.close()


@pytest.fixture
def user(fitted: Recommender) -> str:
    return fitted.corpus.data.users[4]


def test_a_name_gets_a_list_with_reasons(show: Open, fitted: Recommender, user: str) -> None:
    page = show("/?sure=40")
    page.get_by_label("Your name").fill(user)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()
    expected = fitted.recommend(user, 12, max_fpr=0.6)
    expect(page.locator(".card h2")).to_have_text(expected["name"].to_list())
    first = page.locator(".card").first
    expect(first.locator(".chance")).to_contain_text(f"{expected['probability'][0]:.0%}")
    expect(first.locator(".tag").last).to_have_text(expected["categories"][0].to_list()[:3][-1])
    expect(first.locator(".why")).to_contain_text("ratings")
    expect(first.locator("blockquote").first).not_to_be_empty()
    prices = [price for price in expected["price"] if price]
    expect(page.locator(".tag.price")).to_have_text(prices)


def test_words_get_a_list(show: Open, fitted: Recommender) -> None:
    page = show("/?sure=40")
    page.get_by_label("What you like").fill("ramen, cheap")
    expect(page.get_by_role("heading", level=1)).to_have_text("For someone who likes ramen, cheap")
    names = fitted.recommend(likes="ramen, cheap", n=12, max_fpr=0.6)["name"].to_list()
    expect(page.locator(".card h2")).to_have_text(names)
    page.get_by_label("Your name").fill("ann")
    expect(page.get_by_role("alert")).to_contain_text("only the name counts")


def test_the_slider_changes_the_list_in_place(show: Open, user: str) -> None:
    page = show(f"/?user={user}&sure=0")
    page.evaluate("window.same = true")
    before = page.locator(".card").count()
    slider = page.get_by_label("How sure?")
    for sure, passes in ((90, "10%"), (100, "0%")):
        slider.fill(str(sure))
        expect(page.locator("#sure")).to_contain_text(f"at most {passes} of what you would dislike")
    assert page.locator(".card").count() < before
    assert page.evaluate("window.same")
    assert parse_qs(urlsplit(page.url).query)["sure"] == ["100"]
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#sure")).to_contain_text("at most 1% of")


def test_what_cannot_be_had_is_told(show: Open, wrong: list[str]) -> None:
    page = show("/places/nowhere")
    expect(page.get_by_role("main")).to_contain_text("no review speaks of item 'nowhere'")
    page.get_by_text("to the list").click()
    page.route(re.compile(r"/\?"), lambda route: route.fulfill(status=503, body="sorry"))
    page.get_by_label("Variety").fill("50")
    expect(page.locator("#list")).to_have_text("The service does not answer; try again in a moment.")
    assert [said[-15:] for said in wrong] == ["404 (Not Found)", "ce Unavailable)"]
    wrong.clear()


def test_a_place_shows_what_is_said_of_it(show: Open, fitted: Recommender, user: str) -> None:
    page = show(f"/?user={user}&sure=40")
    name = page.locator(".card h2").first.inner_text()
    page.locator(".card a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    item = urlsplit(page.url).path.rpartition("/")[2]
    for title in ("What people like", "What they do not"):
        assert page.locator("section", has_text=title).locator("blockquote").count()
    photos = fitted.catalog.photos(fitted.online.codes["item"][item])
    expect(page.locator("figcaption")).to_have_text([caption for _, caption in photos])
    pictures = page.locator("figure img")
    assert [picture.get_attribute("alt") for picture in pictures.all()] == [caption for _, caption in photos]
    page.wait_for_function("document.querySelector('figure img').naturalWidth > 0")
    expect(page.locator(".near a")).to_have_count(6)
    page.locator(".near a").first.click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text(name)
    page.get_by_text("back to the list").click()
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_a_review_changes_the_list(show: Open, fitted: Recommender, script: bool) -> None:
    user = fitted.corpus.data.users[6 if script else 7]
    page = show("/?sure=20", java_script_enabled=script)
    page.get_by_label("Your name").fill(user)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()
    chances = page.locator(".chance").all_inner_texts()
    reviewed = page.locator(".card h2").first.inner_text()
    page.locator(".card a").first.click()
    expect(page.get_by_label("Your name")).to_have_value(user)
    page.get_by_label("1", exact=True).check()
    page.get_by_label("In your words").fill("Cold soup, rude staff.")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_contain_text("counts already")
    assert parse_qs(urlsplit(page.url).query)["taken"] == ["true"]
    page.get_by_text("See how your list has changed.").click()
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()
    assert reviewed not in page.locator(".card h2").all_inner_texts()
    assert page.locator(".chance").all_inner_texts() != chances[1:]


def test_the_keyboard_is_enough(show: Open, user: str) -> None:
    page = show("/?sure=40")
    for label in ("Skip to the content", "mmrec"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == label
    page.keyboard.press("Tab")
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.type(user)
    for label in ("What you like", "How sure?", "Variety", "Price", "Kind"):
        page.keyboard.press("Tab")
        expect(page.get_by_label(label)).to_be_focused()
    page.get_by_label("What you like").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()
    page.get_by_role("button", name="Show").focus()
    page.keyboard.press("Tab")
    assert "/places/" in page.evaluate("document.activeElement.href")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/places/"))


UNNAMED = """[
    ...[...document.querySelectorAll("input, select, textarea, button")].filter(
        (one) => !(one.labels?.length || one.innerText?.trim())),
    ...[...document.querySelectorAll("img")].filter((one) => !one.alt.trim()),
].map((one) => one.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_all_fits_and_has_a_name(
    show: Open, fitted: Recommender, user: str, size: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    item = fitted.recommend(user, 1)["item"][0]
    page = show("/", viewport=size, color_scheme=scheme)
    for number, path in enumerate((f"/?user={user}&sure=40", f"/?user={user}&sure=100", f"/places/{item}")):
        page.goto(path, wait_until="networkidle")
        page.screenshot(path=tmp_path / f"{number}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert not page.evaluate(UNNAMED), path
        assert page.locator("html").get_attribute("lang") == "en"
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
