"""Reading pages as a browser would, and the results of experiments, for tests of them."""

import html
import json
import re
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """Tags with their attributes, and the text, as a browser would see them."""

    def __init__(self, page):
        super().__init__()
        self.page = page
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs: list[tuple[str, str | None]]):
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data):
        self.text += data

    def headings(self):
        """Tag and text of every heading, in order."""
        found = re.findall(r"<(h[1-6])\b[^>]*>(.*?)</\1>", self.page, re.DOTALL)
        return [(tag, html.unescape(text)) for tag, text in found]

    def shown(self):
        """The text with single spaces."""
        return " ".join(self.text.split())

    def check(self):
        """The page is inert, needs nothing but itself, and its ids are unique."""
        assert not {tag for tag, _ in self.tags} & {"script", "img", "iframe", "object", "embed", "base"}
        assert not [name for _, attrs in self.tags for name in attrs if name.startswith("on")]
        for tag, attrs in self.tags:
            for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                value = attrs.get(name)
                assert value is None or value.startswith(("#", "data:")), (tag, value)
        for outside in ("@import", "http://", "https://"):
            assert outside not in self.page
        assert "default-src 'none'" in self.page
        ids = Counter(attrs["id"] for _, attrs in self.tags if "id" in attrs)
        assert not ids or ids.most_common(1)[0][1] == 1
        assert not re.search(r"#(0\d)\1\1", self.page)  # every colour comes from the variables


def svgs(page):
    """The pictures of a page."""
    return [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", page, re.DOTALL)]


def descriptions(page):
    """Of its charts, each of which must have one, and text."""
    labels = []
    for svg in svgs(page):
        labels.append(svg.get("aria-label", ""))
        assert svg.get("role") == "img"
        assert len(labels[-1]) > 20
        assert "nan" not in labels[-1]
        assert svg.findtext("title") == labels[-1]
        assert svg.findall(".//text")
    return labels


def read_page(path):
    """Descriptions of the charts of a page, and its text; the page must be inert."""
    reader = Reader(path.read_text(encoding="utf-8"))
    reader.check()
    return descriptions(reader.page), reader.shown()


def assert_shown(tables, text):
    assert tables
    for table in tables:
        cells = [cell for row in table.rows for cell in row]
        for words in (table.title, *table.notes, *table.header, *cells):
            assert " ".join(words.split()) in text


def latest_results(path):
    """The results in a file of a `Checkpoint` that were written last."""
    return [*json.loads(path.read_bytes())["runs"].values()][-1]
