"""The web pages in a real browser, on a phone and on a desktop, with and without JavaScript."""

import re
import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from serving import serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed")

FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-gpu"]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
expect = sync_api.expect
expect.set_options(timeout=30_000)  # the first search loads the encoder


@pytest.fixture(scope="module")
def served(model):
    with serving(model, "--trust", "--per-minute", "100000") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def problems():
    """Requests of pages to other hosts, and messages on their console; there must be none."""
    messages = []
    yield messages
    assert messages == []


@pytest.fixture
def show(browser, served, problems):
    """A function that opens a page."""
    home, contexts = str(served.client.base_url), []

    def note_request(request):
        problems.extend([] if request.url.startswith(home) else [request.url])

    def note_message(message):
        problems.extend([message.text] if message.type in ("error", "warning") else [])

    def show(path, **options):
        contexts.append(browser.new_context(base_url=home, **{"viewport": DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.on("request", note_request)
        page.on("console", note_message)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path)
        return page

    yield show
    for context in contexts:
        context.close()


def submit_name(page, user):
    page.get_by_label("Your name").fill(user)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()


def test_a_name_or_a_text_gets_a_list(show, fitted, user):
    page = show("/?hide=40")
    submit_name(page, user)
    expected = fitted.recommend(user, 12, max_fpr=0.6)
    expect(page.locator(".card h2")).to_have_text(expected["name"].to_list())
    first = page.locator(".card").first
    expect(first.locator(".probability")).to_contain_text(f"{expected['probability'][0]:.0%}")
    expect(first.locator(".tag").last).to_have_text(expected["categories"][0].to_list()[:3][-1])
    expect(first.locator(".reasons")).to_contain_text("Because you liked")
    expect(first.locator("details ul")).to_be_hidden()
    first.get_by_text("How the chance adds up").click()
    expect(first.locator("details ul")).to_contain_text("its ratings")
    expect(first.locator("blockquote").first).not_to_be_empty()
    expect(page.locator(".tag.price")).to_have_text(expected["price"].drop_nulls().to_list())
    page.get_by_label("What you like").fill("ramen, cheap")
    expect(page.get_by_role("alert")).to_contain_text("Only the name is used")
    page.get_by_label("Your name").fill("")
    expect(page.get_by_role("heading", level=1)).to_have_text("For somebody who likes ramen, cheap")
    names = fitted.recommend(likes="ramen, cheap", n=12, max_fpr=0.6)["name"].to_list()
    expect(page.locator(".card h2")).to_have_text(names)


def test_the_slider_changes_the_list_in_place(show, fitted, user):
    page = show(f"/?user={user}&hide=0")
    page.evaluate("window.same = true")
    before, after = (fitted.recommend(user, 12, max_fpr=bound)["name"].to_list() for bound in (1, 0))
    expect(page.locator(".card h2")).to_have_text(before)
    assert before != after
    slider = page.get_by_label("Hide more dislikes")
    slider.fill("100")
    expect(page.locator("#hint")).to_contain_text("about 100% of the places you would dislike")
    expect(page.locator(".card h2")).to_have_text(after)
    assert page.evaluate("window.same")
    assert parse_qs(urlsplit(page.url).query)["hide"] == ["100"]
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#hint")).to_contain_text("about 99% of")


def test_an_error_is_shown(show, problems):
    page = show("/places/nowhere")
    expect(page.get_by_role("main")).to_contain_text("no review of item 'nowhere'")
    page.get_by_text("to the list").click()
    page.route(re.compile(r"/\?"), lambda route: route.fulfill(status=503, body="no"))
    page.get_by_label("Variety").fill("50")
    expect(page.locator("#list")).to_have_text("The service does not respond. Try again later.")
    assert [message[-15:] for message in problems] == ["404 (Not Found)", "ce Unavailable)"]
    problems.clear()


def test_a_place_shows_photos_quotes_and_similar_places(show, fitted, user):
    page = show(f"/?user={user}&hide=40")
    name = page.locator(".card h2").first.inner_text()
    page.locator(".card a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    item = urlsplit(page.url).path.rpartition("/")[2]
    for title in ("What people like", "What people dislike"):
        assert page.locator("section", has_text=title).locator("blockquote").count()
    photos = fitted.state.catalog.source.photos(fitted.state.online.codes["item"][item])
    pictures = page.locator("figure img").all()
    assert len(pictures) == len(photos) > 1
    assert {picture.get_attribute("alt") for picture in pictures} == {f"photo of {name}"}
    expect(page.locator("figcaption")).to_have_count(0)  # the builtin captioner's are not for visitors
    page.wait_for_function("document.querySelector('figure img').naturalWidth > 0")
    expect(page.locator(".similar a")).to_have_count(6)
    page.locator(".similar a").first.click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text(name)
    page.get_by_text("back to the list").click()
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_a_review_changes_the_list(show, fitted, script):
    user = fitted.state.dataset.data.users[6 if script else 7]
    page = show("/?hide=20", java_script_enabled=script)
    submit_name(page, user)
    chances = page.locator(".probability").all_inner_texts()
    reviewed = page.locator(".card h2").first.inner_text()
    page.locator(".card a").first.click()
    expect(page.get_by_label("Your name")).to_have_value(user)
    page.get_by_label("1", exact=True).check()
    page.get_by_label("Text").fill("Cold soup, rude staff.")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_contain_text("already taken into account")
    assert parse_qs(urlsplit(page.url).query)["added"] == ["true"]
    page.get_by_text("See how your list has changed.").click()
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()
    assert reviewed not in page.locator(".card h2").all_inner_texts()
    assert page.locator(".probability").all_inner_texts() != chances[1:]


def test_the_pages_can_be_used_with_the_keyboard_alone(show, user):
    page = show("/?hide=40")
    for label in ("Skip to the content", "mmrec"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == label
    for label in ("Your name", "What you like", "Hide more dislikes", "Variety", "Price", "Category"):
        page.keyboard.press("Tab")
        expect(page.get_by_label(label)).to_be_focused()
    page.get_by_label("Your name").focus()
    page.keyboard.type(f"{user}\n")
    expect(page.get_by_role("heading", name=f"For {user}")).to_be_visible()
    page.get_by_role("button", name="Show").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/places/"))


UNNAMED = """[
    ...[...document.querySelectorAll("input, select, textarea, button")].filter(
        (element) => !(element.labels?.length || element.innerText?.trim())),
    ...[...document.querySelectorAll("img")].filter((image) => !image.alt.trim()),
].map((element) => element.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_page_fits_the_screen_and_names_its_elements(show, fitted, user, size, scheme):
    item = fitted.recommend(user, 1)["item"][0]
    page = show("/", viewport=size, color_scheme=scheme)
    for path in (f"/?user={user}&hide=40", f"/?user={user}&hide=100", f"/places/{item}"):
        page.goto(path, wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert not page.evaluate(UNNAMED), path
        assert page.locator("html").get_attribute("lang") == "en"
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
