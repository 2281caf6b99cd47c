"""Photos by URL arrive once; addresses, servers and bodies that are not allowed are refused."""

import asyncio
import gzip
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpcore2
import polars as pl
import pytest
from PIL import Image

from mmrec.config import ReadConfig
from mmrec.data import http_download as downloading
from mmrec.data import image_download as fetching
from mmrec.data import read_reviews
from mmrec.data.http_download import DownloadLimits, TransientError, connection_pool, download, is_public
from mmrec.data.image_download import download_photos, photo_urls
from mmrec.errors import ConfigError, DataError, PhotoError

PUBLIC = "93.184.215.14"


def picture(kind="JPEG", size=(8, 6), **more):
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind, **more)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path's route; counts what was asked and keeps the headers."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self):
        self.server.hits[self.path] += 1
        self.server.headers.append(dict(self.headers))
        self.close_connection = True
        with suppress(OSError):  # the client has seen enough
            self.server.routes.get(self.path, Handler.missing)(self)

    def answer(self, body=b"", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def missing(self):
        self.answer(status=404)

    def log_message(self, *_):
        pass


Route = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hits = Counter()
        self.headers = []
        self.routes = {"/a.jpg": photo()}

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


def photo(kind="JPEG"):
    return lambda request: request.answer(picture(kind))


def moved(target):
    return lambda request: request.answer(status=302, Location=target, Set_Cookie="spy=1")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Reading the certificates of this machine takes longer than most tests here, and so does waiting."""
    monkeypatch.setattr(httpcore2, "default_ssl_context", _context)
    monkeypatch.setattr(downloading, "_RETRY_DELAYS", (0.01, 0.02))


_context = cache(httpcore2.default_ssl_context)


@pytest.fixture
def server():
    one = Server()
    threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


class FakeNetwork:
    """Connects every address that passed the checks to the test server, and records it."""

    def __init__(self, server):
        self.addresses = []
        self.dead = set()
        self._port = server.server_port

    def patched(self, connect):
        async def connect_tcp(backend, host, port, **options):
            self.addresses.append(host)
            if host in self.dead:
                raise httpcore2.ConnectError("no route")
            return await connect(backend, "127.0.0.1", self._port, **options)

        return connect_tcp


@pytest.fixture
def network(server, monkeypatch):
    fake, backend = FakeNetwork(server), httpcore2.AnyIOBackend
    monkeypatch.setattr(backend, "connect_tcp", fake.patched(backend.connect_tcp))
    return fake


def names(monkeypatch, *answers, only=""):
    """Let the resolver give these answers in turn, the last one for ever; returns the hosts it is asked."""
    asked = []

    def resolve(host, port, *rest, **options):
        asked.append(bytes(host).decode())
        if only not in asked[-1]:
            return real(host, port, *rest, **options)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def get(url, **limits):
    async def run():
        chosen = DownloadLimits(**{"timeout": 5.0} | limits)
        async with connection_pool(chosen) as pool:
            return await download(url, pool, chosen)

    return asyncio.run(run())


def fetch(data, out, **options):
    limits = {"allow_private": True, "timeout": 5.0} | options.pop("limits", {})
    return asyncio.run(download_photos(data, out, DownloadLimits(**limits), **options))


def write(path, cells, column="photos"):
    rows = [
        {"user": f"u{number}", "item": "i", "rating": 4, "text": f"text {number} é", column: cell}
        for number, cell in enumerate(cells)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fetch_urls(folder, *urls, **options):
    """Photos of one review, into the folder `out`."""
    return fetch(write(folder / "r.jsonl", [list(urls)]), folder / "out", **options)


def copied(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def index(out):
    rows = map(json.loads, (out / "index.jsonl").read_text().splitlines())
    return {row["url"]: row for row in rows}


# What arrives, and the copies of the data.


def test_the_copy_of_the_data_is_read_with_the_photos(server, tmp_path):
    for kind in ("PNG", "WEBP", "GIF"):
        server.routes[f"/{kind}"] = photo(kind)
    first, *others = (server.url(path) for path in ("/a.jpg", "/PNG", "/WEBP", "/GIF"))
    data = write(tmp_path / "reviews.jsonl", [[first, *others], [first], [], None, "local.jpg"])
    places = tmp_path / "places.csv"
    places.write_text(f"item,name,photos\ni,The I,{first}|{others[0]}\n")
    done = fetch(data, tmp_path / "out", items=places)
    assert (done.downloaded, done.already_present, done.refused, done.unreadable_rows) == (4, 0, {}, 0)
    assert server.hits == {"/a.jpg": 1, "/PNG": 1, "/WEBP": 1, "/GIF": 1}
    assert [path.name for path in done.copies] == ["reviews.jsonl.gz", "items.jsonl.gz"]
    assert set(os.listdir(tmp_path / "out")) == {
        "index.jsonl",
        "photos",
        "reviews.jsonl.gz",
        "items.jsonl.gz",
    }
    row = index(tmp_path / "out")[first]
    assert row["bytes"] == (tmp_path / "out" / row["file"]).stat().st_size
    assert done.copies[0].read_bytes()[4:8] == bytes(4)  # no time in it
    before, after = map(json.loads, data.read_text().splitlines()), copied(done.copies[0])
    assert [row | {"photos": 0} for row in before] == [row | {"photos": 0} for row in after]
    assert [row["photos"] for row in after[2:]] == [[], None, "local.jpg"]
    reviews = read_reviews(done.copies[0], ReadConfig(items=done.copies[1]))
    found = reviews.table["photos"].to_list()
    assert [len(photos) for photos in found] == [4, 1, 0, 0, 0]
    assert [Path(path).suffix for path in found[0]] == [".jpg", ".png", ".webp", ".gif"]
    assert reviews.items["photos"].to_list() == [found[0][:2]]
    assert reviews.rejects["reason"].to_list() == ["photo local.jpg: no such file"]


def test_a_jpeg_of_several_pictures_is_a_jpeg(server, tmp_path):
    body = picture("MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    server.routes["/a.jpg"] = lambda request: request.answer(body)
    done = fetch_urls(tmp_path, server.url("/a.jpg"))
    assert copied(done.copies[0])[0]["photos"][0].endswith(".jpg")


@pytest.mark.parametrize(
    ("entry", "urls"),
    [
        ("http://h/a.jpg ", ["http://h/a.jpg"]),
        ("FTP://h/a.jpg", ["FTP://h/a.jpg"]),
        ({"url": ["http://h/a", None, "http://h/b"]}, ["http://h/a", "http://h/b"]),
        ({"thumb": "http://h/t", "large_url": "http://h/l"}, ["http://h/l"]),
        ({"large_url": [None], "thumb": ["http://h/t"]}, ["http://h/t"]),
        ({"id": "AF1_x-", "url": "http://h/a"}, ["https://g/AF1_x-=w640"]),
        ({"id": "a.jpg", "url": "http://h/a"}, ["http://h/a"]),
        ("AF1_x-", ["https://g/AF1_x-=w640"]),
        ("photos/a.jpg", []),
        ("a.jpg", []),
        ({"id": 7}, []),
        (7, []),
    ],
)
def test_urls_of_an_entry(entry, urls):
    assert photo_urls(entry, "https://g/{id}=w640") == urls


def test_ids_need_a_template(server, tmp_path):
    server.routes["/p/AF1=w9"] = photo()
    data = write(tmp_path / "r.jsonl", [["AF1", server.url("/a.jpg")], "x.jpg"], column="shots")
    plain = fetch(data, tmp_path / "plain", column="shots")
    assert plain.downloaded == 1
    assert copied(plain.copies[0])[0]["shots"][0] == "AF1"
    filled = fetch(data, tmp_path / "filled", column="shots", template=server.url("/p/{id}=w9"))
    assert filled.downloaded == 2
    assert all(name.startswith("photos/") for name in copied(filled.copies[0])[0]["shots"])
    assert copied(filled.copies[0])[1]["shots"] == "x.jpg"


def test_parquet_is_copied_and_unreadable_rows_are_counted(server, tmp_path):
    url = server.url("/a.jpg")
    row = {"user": "u", "item": "i", "rating": 4.0, "pics": [{"url": [url]}]}
    pl.DataFrame([row]).with_columns(time=pl.datetime(2024, 5, 1)).write_parquet(tmp_path / "p.parquet")
    reviews = read_reviews(fetch(tmp_path / "p.parquet", tmp_path / "out").copies[0])
    assert len(reviews.table["photos"][0]) == 1
    assert str(reviews.table["time"][0]) == "2024-05-01 00:00:00"
    spoilt = write(tmp_path / "s.jsonl", [url, url])
    spoilt.write_text("{broken\n" + spoilt.read_text())
    done = fetch(spoilt, tmp_path / "out")
    assert (done.unreadable_rows, done.already_present, len(copied(done.copies[0]))) == (1, 1, 2)


def test_unwritable_rows_are_skipped(server, tmp_path, monkeypatch):
    def dumps(row, **options):
        if row.get("user") == "u1":
            raise RecursionError
        return real(row, **options)

    real = json.dumps
    data = write(tmp_path / "r.jsonl", [server.url("/a.jpg")] * 3)
    monkeypatch.setattr(json, "dumps", dumps)
    done = fetch(data, tmp_path / "out")
    assert (done.downloaded, done.unreadable_rows) == (1, 1)
    assert [row["user"] for row in copied(done.copies[0])] == ["u0", "u2"]


def test_a_full_disk_ends_the_run(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    paths = [f"/{number}.jpg" for number in range(20)]
    server.routes |= dict.fromkeys(paths, photo())
    data = write(tmp_path / "r.jsonl", [server.url(path) for path in paths])
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="cannot be written"):
        fetch(data, tmp_path / "out", limits={"in_flight": 3})
    assert sum(server.hits.values()) < 10
    deadline = time.monotonic() + 5  # a photo that was being decoded is let to its end
    while os.listdir(tmp_path / "out" / "photos") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.listdir(tmp_path / "out" / "photos")


def test_options_that_cannot_work_are_errors(server, tmp_path):
    data = write(tmp_path / "r.jsonl", [server.url("/a.jpg")])
    with pytest.raises(ConfigError, match=r"put \{id\} in it"):
        fetch(data, tmp_path, template="https://g/x")
    with pytest.raises(DataError, match="no URL of a photo"):
        fetch(data, tmp_path, column="pics")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(data, data)
    copy = tmp_path / "items.jsonl.gz"
    copy.write_bytes(gzip.compress(data.read_bytes()))
    with pytest.raises(ConfigError, match="would overwrite"):
        fetch(data, tmp_path / "." / "out" / "..", items=copy)
    assert not server.hits


def test_the_command_prints_counts_and_the_next_command(server, tmp_path, capsys):
    from mmrec.cli import app

    server.routes["/p/AF1=w320"] = photo()
    data = write(tmp_path / "r.jsonl", [["AF1", server.url("/[b]")], [server.url("/c")]])
    words = ["photos", "fetch", str(data), "--out", str(tmp_path / "an out"), "--url-template"]
    words += [server.url("/p/{id}=w320"), "--in-flight", "2", "--max-bytes", "9999"]
    app([*words, "--allow-private"], result_action="return_value")
    assert "1 photos downloaded, 0 present before" in (text := capsys.readouterr().out)
    assert "2 refused, see index.jsonl: HTTP 404" in text
    assert f"next: mmrec fit '{tmp_path / 'an out' / 'reviews.jsonl.gz'}'" in text
    app([*words, "--json"], result_action="return_value")
    result = json.loads(capsys.readouterr().out)
    assert (result["downloaded"], result["already_present"], result["refused"]) == (0, 1, {"HTTP 404": 2})
    with pytest.raises(SystemExit):
        app([*words, "--timeout", "0"])


# Servers that are slow, broken or hostile.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html><img src=a.jpg></html>", "not a usable photo: not a JPEG, PNG, WebP or GIF"),
        (picture(size=(64, 64))[:-200], "not a usable photo: cannot be decoded"),
        (picture("BMP"), "not a usable photo: not a JPEG, PNG, WebP or GIF"),
        (b"", "not a usable photo: not a JPEG, PNG, WebP or GIF"),
    ],
)
def test_a_body_that_is_no_photo_is_refused(server, tmp_path, body, reason):
    server.routes["/bad"] = lambda request: request.answer(body, Content_Type="image/jpeg")
    bad = server.url("/bad")
    done = fetch_urls(tmp_path, bad, server.url("/a.jpg"))
    assert (done.downloaded, done.refused) == (1, {"not a usable photo": 1})
    row = index(tmp_path / "out")[bad]
    assert row["refused"].startswith(reason)
    assert row["passing"] is False
    assert len(os.listdir(tmp_path / "out" / "photos")) == 1
    assert copied(done.copies[0])[0]["photos"][0] == bad


def test_pixels_are_counted_before_decoding(server, tmp_path):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    server.routes["/bomb"] = lambda request: request.answer(bomb + b"\0\0\0\0IDAT")
    done = fetch_urls(tmp_path, server.url("/bomb"))
    assert done.refused == {"not a usable photo": 1}
    assert "pixels" in index(tmp_path / "out")[server.url("/bomb")]["refused"]
    data = write(tmp_path / "r.jsonl", [server.url("/a.jpg")])  # 8 by 6
    assert not fetch(data, tmp_path / "out", limits={"max_pixels": 47}).downloaded
    assert fetch(data, tmp_path / "out", limits={"max_pixels": 48}, retry=True).downloaded


def forever(data, pause=0.0, begin=b"", **headers):
    """Sends a beginning, or the headers of an answer, and then the same data again and again."""

    def route(request):
        if begin:
            request.wfile.write(begin)
        else:
            request.answer(**headers)
        while True:
            request.wfile.write(data)
            time.sleep(pause)

    return route


@pytest.mark.parametrize(
    "route",
    [
        forever(b"x" * 10_000, Content_Length=None),
        forever(b"2710\r\n" + b"x" * 10_000 + b"\r\n", Content_Length=None, Transfer_Encoding="chunked"),
        lambda request: request.answer(b"x" * 60_000),
    ],
    ids=["endless", "chunks", "announced"],
)
def test_a_body_over_the_limit_is_refused(server, route):
    server.routes["/big"] = route
    with pytest.raises(PhotoError, match="too large: more than 50000 bytes"):
        get(server.url("/big"), allow_private=True, max_bytes=50_000)
    assert server.hits["/big"] == 1
    server.routes["/fits"] = lambda request: request.answer(b"x" * 50_000)
    assert len(get(server.url("/fits"), allow_private=True, max_bytes=50_000)) == 50_000


def test_compressed_bodies_are_not_decompressed(server):
    bomb = gzip.compress(b"\0" * 10_000_000)
    server.routes["/bomb"] = lambda request: request.answer(bomb, Content_Encoding="gzip")
    assert get(server.url("/bomb"), allow_private=True, max_bytes=len(bomb)) == bomb
    assert server.headers[0]["Accept-Encoding"] == "identity"


def test_reasons_are_printable(server, tmp_path, monkeypatch):
    def refuse(*_):
        raise PhotoError("\x9b31m")

    monkeypatch.setattr(fetching, "load_photo", refuse)
    fetch_urls(tmp_path, server.url("/a.jpg"))
    assert "\\x9b31m" in index(tmp_path / "out")[server.url("/a.jpg")]["refused"]


@pytest.mark.parametrize(
    "route",
    [
        forever(b"x", 0.02, Content_Length=1000),
        forever(b"x", 0.02, begin=b"HTTP/1.1 200 OK\r\nX: "),
        lambda request: time.sleep(1),
    ],
    ids=["slow body", "slow head", "no answer"],
)
def test_a_photo_has_a_deadline(server, route):
    server.routes["/slow"] = route
    with pytest.raises(TransientError, match=r"timeout: not done after 0.2 s"):
        get(server.url("/slow"), allow_private=True, timeout=0.2)


def drop(request):
    request.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (lambda request: request.answer(status=500), "HTTP 500"),
        (drop, "connection: RemoteProtocolError('Server disconnected"),
        (
            lambda request: request.answer(b"x", Content_Length=1000),
            "connection: RemoteProtocolError(RemoteProtocolError('peer closed connection",
        ),
        (
            lambda request: request.wfile.write(b"220 \x1b[31m smtp\r\n\r\n"),
            "connection: RemoteProtocolError(",
        ),
    ],
)
def test_a_transient_failure_is_retried(server, tmp_path, route, reason):
    server.routes["/x"] = route
    data = write(tmp_path / "r.jsonl", [server.url("/x"), server.url("/a.jpg")])
    done = fetch(data, tmp_path / "out")
    assert (done.downloaded, sum(done.refused.values()), server.hits["/x"]) == (1, 1, 3)
    row = index(tmp_path / "out")[server.url("/x")]
    assert row["refused"].startswith(reason)
    assert row["refused"].isprintable()
    assert row["passing"] is True
    server.routes["/x"] = photo()
    again = fetch(data, tmp_path / "out")
    assert (again.downloaded, again.already_present, again.refused) == (1, 1, {})
    assert server.hits == {"/x": 4, "/a.jpg": 1}


def test_a_final_refusal_is_tried_again_only_with_retry(server, tmp_path):
    gone = server.url("/gone")
    for _ in range(2):
        assert fetch_urls(tmp_path, gone).refused == {"HTTP 404": 1}
    assert server.hits["/gone"] == 1
    server.routes["/gone"] = photo()
    assert fetch_urls(tmp_path, gone, retry=True).downloaded == 1
    assert fetch_urls(tmp_path, gone, retry=True).already_present == 1
    assert server.hits["/gone"] == 2


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_a_busy_server_gets_two_retries(server, monkeypatch, status):
    monkeypatch.setattr(downloading, "_RETRY_DELAYS", (0.1, 0.2))
    server.routes["/busy"] = lambda request: (
        request.answer(picture()) if server.hits["/busy"] == 3 else request.answer(status=status)
    )
    delays = []
    sleep = asyncio.sleep

    async def record(delay):
        delays.append(delay)
        await sleep(0)

    monkeypatch.setattr(downloading.asyncio, "sleep", record)
    assert get(server.url("/busy"), allow_private=True) == picture()
    assert delays == [0.1, 0.2]
    with pytest.raises(TransientError, match=f"HTTP {status}"):
        get(server.url("/busy"), allow_private=True)


def test_delays_count_for_the_deadline(server, monkeypatch):
    monkeypatch.setattr(downloading, "_RETRY_DELAYS", (60.0, 60.0))
    server.routes["/busy"] = lambda request: request.answer(status=503)
    with pytest.raises(TransientError, match=r"timeout: not done after 0.3 s"):
        get(server.url("/busy"), allow_private=True, timeout=0.3)
    assert server.hits["/busy"] == 1


def test_redirects_are_followed_five_times_without_cookies(server):
    for hop in range(6):
        server.routes[f"/{hop}"] = moved("a.jpg" if hop == 0 else f"/{hop - 1}")
    assert get(server.url("/4"), allow_private=True) == picture()
    assert not any("Cookie" in headers for headers in server.headers)
    with pytest.raises(PhotoError, match="redirects: more than 5"):
        get(server.url("/5"), allow_private=True)
    server.routes["/loop"] = moved("/loop")
    with pytest.raises(PhotoError, match="redirects: more than 5"):
        get(server.url("/loop"), allow_private=True)
    assert server.hits["/loop"] == 6


def test_proxies_of_the_environment_are_ignored(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert get(server.url("/a.jpg"), allow_private=True) == picture()


# Addresses that are not public.


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
        *("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1"),
        *("192.0.2.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
        *("ff0e::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b:1::1"),
        *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "2002:7f00:1::1", "3fff::1"),
        *("2001:0:4136:e378::1", "4000::1", "100::1"),
    ],
)
def test_addresses_that_are_not_public_are_refused(network, monkeypatch, address):
    assert not is_public(address)
    names(monkeypatch, [PUBLIC, address])
    with pytest.raises(PhotoError, match="address not public"):
        get("http://photos.example/a.jpg")
    assert not network.addresses
    assert get("http://photos.example/a.jpg", allow_private=True) == picture()


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111"])
def test_public_addresses_are_recognised(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f.1", "017700000001", "127.1", "0x7f000001"),
        *("[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0", "169.254.169.254", "LOCALHOST"),
    ],
)
def test_spellings_of_hosts_are_resolved_and_checked(network, host):
    with pytest.raises(PhotoError, match="address not public"):
        get(f"http://{host}/a.jpg")
    assert not network.addresses


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://h/a.jpg", "data:image/png;base64,xx", "gopher://h:70/_x", "//h/a.jpg"),
        *("http://user:word@h/a.jpg", "https://user@h/", "http://127.0.0.1\\@h/", "http:///a.jpg", "http:a"),
        *("http://h:22/", "https://h:8443/a.jpg", "http://h:x/", "http://[::1/", "http://0177.0.0.1/"),
        *("http://h/\n", "http://\ud800/", "http://h/\udcff", "", "http://h:99999999/"),
    ],
)
def test_forbidden_urls_are_refused(network, monkeypatch, url):
    names(monkeypatch, [PUBLIC])
    with pytest.raises(PhotoError, match="URL not allowed") as refusal:
        get(url)
    assert not isinstance(refusal.value, TransientError)
    assert not network.addresses


@pytest.mark.parametrize("error", [socket.gaierror("not known"), UnicodeError("label too long")])
def test_an_unknown_host_is_a_transient_error(monkeypatch, error):
    def unknown(*_, **__):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(TransientError, match=r"connection: .*(not known|too long)"):
        get("http://photos.example/a.jpg")


@pytest.mark.parametrize("answers", [[], [PUBLIC]])
def test_a_host_that_does_not_answer_is_a_transient_error(network, monkeypatch, answers):
    names(monkeypatch, answers)
    network.dead = {PUBLIC}
    with pytest.raises(TransientError, match="no address of the host answers"):
        get("http://photos.example/a.jpg")


@pytest.mark.parametrize(
    "target",
    [
        *("http://127.0.0.1/a.jpg", "//169.254.169.254/latest/", "http://[::1]/a.jpg", "http://10.1/"),
        *("file:///etc/passwd", "ftp://h/a.jpg", "data:image/png;base64,xx", "https://u:w@photos.example/"),
        *("//photos.example:22/a.jpg", "http://photos.example:x/"),
    ],
)
def test_every_hop_of_a_redirect_is_checked(server, network, monkeypatch, target):
    names(monkeypatch, [PUBLIC], only="photos.example")
    server.routes["/to"] = moved(target)
    with pytest.raises(PhotoError, match=r"address not public|URL not allowed"):
        get("http://photos.example/to")
    assert network.addresses == [PUBLIC]
    assert server.hits == {"/to": 1}


def test_the_connection_goes_to_the_address_that_was_checked(server, network, monkeypatch):
    asked = names(monkeypatch, [PUBLIC], ["127.0.0.1"])
    assert get("http://photos.example/a.jpg") == picture()
    assert (asked, network.addresses) == (["photos.example"], [PUBLIC])
    assert server.headers[0]["Host"] == "photos.example"


def test_rebinding_is_refused(server, network, monkeypatch):
    asked = names(monkeypatch, [PUBLIC], ["127.0.0.1"])
    server.routes["/a.jpg"] = drop
    with pytest.raises(PhotoError, match="address not public"):
        get("http://photos.example/a.jpg")
    assert (len(asked), network.addresses, server.hits["/a.jpg"]) == (2, [PUBLIC], 1)


def test_the_certificate_must_be_the_hosts(monkeypatch):
    class Stream(httpcore2.AsyncNetworkStream):
        async def start_tls(self, ssl_context, server_hostname=None, timeout=None):
            seen.append((ssl_context.check_hostname, server_hostname))
            raise httpcore2.ConnectError("far enough")

    async def connect_tcp(self, host, port, **_):
        went.append((host, port))
        return Stream()

    seen = []
    went = []
    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect_tcp)
    names(monkeypatch, [PUBLIC])
    with pytest.raises(TransientError, match="far enough"):
        get("https://photos.example/a.jpg")
    assert set(went) == {(PUBLIC, 443)}
    assert set(seen) == {(True, "photos.example")}


def test_a_second_address_is_tried(network, monkeypatch):
    names(monkeypatch, ["2606:4700::1111", PUBLIC])
    network.dead = {"2606:4700::1111"}
    assert get("http://photos.example/a.jpg") == picture()
    assert network.addresses == ["2606:4700::1111", PUBLIC]


def test_private_photos_are_not_fetched_by_default(server, tmp_path):
    urls = ["http://127.0.0.1/a.jpg", server.url("/a.jpg"), "file:///etc/passwd"]
    done = fetch_urls(tmp_path, *urls, limits={"allow_private": False})
    assert done.refused == {"address not public": 1, "URL not allowed": 2}
    assert not server.hits
    assert copied(done.copies[0])[0]["photos"] == urls


# Runs that stop.


def test_a_killed_run_is_continued(server, tmp_path):
    gate = threading.Event()

    def gated(request):
        if sum(server.hits.values()) > 6:
            request.answer(picture()[:50], Content_Length=len(picture()))
            gate.wait(20)
        else:
            request.answer(picture())

    paths = [f"/{number}.jpg" for number in range(12)]
    server.routes |= dict.fromkeys(paths, gated)
    data = write(tmp_path / "r.jsonl", [[server.url(path)] for path in paths])
    out = tmp_path / "out"
    code = (
        "import asyncio, sys; from pathlib import Path; from mmrec.data.image_download import *; "
        "from mmrec.data.http_download import DownloadLimits; "
        "asyncio.run(download_photos(Path(sys.argv[1]), Path(sys.argv[2]), "
        "DownloadLimits(allow_private=True, in_flight=3)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, data, out], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and sum(server.hits.values()) < 9:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gate.set()
    done_before = [url for url, row in index(out).items() if "file" in row]
    assert len(done_before) == 6
    assert len(list((out / "photos").glob("*.jpg"))) == 6
    assert not list(out.glob("*.gz"))
    with (out / "index.jsonl").open("a") as handle:
        handle.write('{"url": "http://half')
    server.routes |= dict.fromkeys(paths, photo())
    done = fetch(data, out)
    assert (done.downloaded, done.already_present) == (6, 6)
    assert all(server.hits[url.removeprefix(server.url(""))] == 1 for url in done_before)
    assert len(index_lines := (out / "index.jsonl").read_text().splitlines()) == 13
    assert '{"url": "http://half' in index_lines
    assert all(len(photos) == 1 for photos in read_reviews(done.copies[0]).table["photos"])


def test_a_file_that_is_gone_or_cut_is_fetched_again(server, tmp_path):
    server.routes["/b.jpg"] = photo()
    urls = [server.url("/a.jpg"), server.url("/b.jpg")]
    fetch_urls(tmp_path, *urls)
    gone, short = (tmp_path / "out" / index(tmp_path / "out")[url]["file"] for url in urls)
    gone.unlink()
    short.write_bytes(b"")
    assert fetch_urls(tmp_path, *urls).downloaded == 2
    assert short.read_bytes() == picture()
