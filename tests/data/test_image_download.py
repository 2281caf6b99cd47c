"""Photos by URL arrive once; addresses, servers and bodies that are not allowed are refused."""

import asyncio
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock

import httpcore2
import polars as pl
import pytest
from PIL import Image

from mmrec.config import ReadConfig
from mmrec.data import http_download, read_reviews
from mmrec.data.http_download import DownloadLimits, TransientError, connection_pool, download, is_public
from mmrec.data.image_download import download_photos, photo_urls
from mmrec.errors import ConfigError, DataError, PhotoError

PUBLIC = "93.184.215.14"
_context = cache(httpcore2.default_ssl_context)


def picture(kind="JPEG", size=(8, 6), **options):
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind, **options)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path's route; counts requests and keeps their headers."""

    def do_GET(self):
        self.server.hits[self.path] += 1
        self.server.headers.append(dict(self.headers))
        self.close_connection = True
        with suppress(OSError):  # the client has seen enough
            self.server.routes.get(self.path, answer(status=404))(self)

    def log_message(self, *_): ...


def send(head, repeat=None, pause=0.0):
    """A route that sends these bytes, and then repeats others for ever."""

    def route(request):
        request.wfile.write(head)
        while repeat:
            request.wfile.write(repeat)
            time.sleep(pause)

    return route


def answer(body=b"", status=200, repeat=None, pause=0.0, **headers):
    """A route that answers always the same, and then repeats some data for ever."""
    headers = {"Content_Length": len(body)} | headers
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items() if value is not None]
    return send(f"HTTP/1.1 {status} x\r\n{''.join(lines)}\r\n".encode() + body, repeat, pause)


def moved(target):
    return answer(status=302, Location=target, Set_Cookie="spy=1")


@pytest.fixture
def server(monkeypatch):
    # Reading the certificates of this machine takes longer than most tests here, and so does waiting.
    monkeypatch.setattr(httpcore2, "default_ssl_context", _context)
    monkeypatch.setattr(http_download, "_RETRY_DELAYS", (0.01, 0.02))
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    web.hits, web.headers, web.routes = Counter(), [], {"/a.jpg": answer(picture())}
    web.url = lambda path: f"http://127.0.0.1:{web.server_port}{path}"
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    yield web
    web.shutdown()
    web.server_close()


@pytest.fixture
def network(server, monkeypatch):
    """A resolver with prepared answers; addresses that pass the checks are those of the test server."""
    # The last answer is given for ever, to hosts in whose name `only` is.
    network = SimpleNamespace(addresses=[], asked=[], dead=set(), answers=[[PUBLIC]], only="")
    resolve, connect = socket.getaddrinfo, httpcore2.AnyIOBackend.connect_tcp

    def getaddrinfo(host, port, *rest, **options):
        name = bytes(host).decode()
        if network.only not in name:
            return resolve(host, port, *rest, **options)
        network.asked.append(name)
        resolved = network.answers[min(len(network.asked), len(network.answers)) - 1]
        if isinstance(resolved, Exception):
            raise resolved
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in resolved]

    async def connect_tcp(backend, host, port, **options):
        network.addresses.append(host)
        if host in network.dead:
            raise httpcore2.ConnectError("no route")
        return await connect(backend, "127.0.0.1", server.server_port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect_tcp)
    return network


def get(url, **limits):
    async def run():
        chosen = DownloadLimits(**{"timeout": 5.0} | limits)
        async with connection_pool(chosen) as pool:
            return await download(url, pool, chosen)

    return asyncio.run(run())


def fetch(data, out, *, limits=(), **options):
    chosen = DownloadLimits(**{"allow_private": True, "timeout": 5.0} | dict(limits))
    return asyncio.run(download_photos(data, out, chosen, **options))


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


def wait_until(done, seconds):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def copied(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def index(out):
    rows = map(json.loads, (out / "index.jsonl").read_text().splitlines())
    return {row["url"]: row for row in rows}


def test_the_copy_of_the_data_is_read_with_the_photos(server, tmp_path):
    mpo = picture("MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))])  # a JPEG of two pictures
    server.routes |= {f"/{kind}": answer(picture(kind)) for kind in ("PNG", "WEBP", "GIF")} | {
        "/MPO": answer(mpo)
    }
    first, *others = map(server.url, ("/a.jpg", "/PNG", "/WEBP", "/GIF", "/MPO"))
    data = write(tmp_path / "reviews.jsonl", [[first, *others], [first], [], None, "local.jpg"])
    places = tmp_path / "places.csv"
    places.write_text(f"item,name,photos\ni,The I,{first}|{others[0]}\n")
    done = fetch(data, out := tmp_path / "out", items=places)
    assert (done.downloaded, done.already_present, done.refused, done.unreadable_rows) == (5, 0, {}, 0)
    assert set(server.hits.values()) == {1}
    assert done.copies == [out / "reviews.jsonl.gz", out / "items.jsonl.gz"]
    assert {*out.iterdir()} == {out / "index.jsonl", out / "photos", *done.copies}
    row = index(out)[first]
    assert row["bytes"] == (out / row["file"]).stat().st_size
    assert done.copies[0].read_bytes()[4:8] == bytes(4)  # no time in it
    before, after = map(json.loads, data.read_text().splitlines()), copied(done.copies[0])
    assert [row | {"photos": 0} for row in before] == [row | {"photos": 0} for row in after]
    assert [row["photos"] for row in after[2:]] == [[], None, "local.jpg"]
    reviews = read_reviews(done.copies[0], ReadConfig(items=done.copies[1]))
    photos = reviews.table["photos"].to_list()
    assert [*map(len, photos)] == [5, 1, 0, 0, 0]
    assert [Path(path).suffix for path in photos[0]] == [".jpg", ".png", ".webp", ".gif", ".jpg"]
    assert reviews.items["photos"].to_list() == [photos[0][:2]]
    assert reviews.rejects["reason"].to_list() == ["photo local.jpg: no such file"]


def test_urls_of_an_entry():
    for entry, urls in (
        *[(url, [url.strip()]) for url in ("http://h/a.jpg ", "FTP://h/a.jpg")],
        ({"url": ["http://h/a", None, "http://h/b"]}, ["http://h/a", "http://h/b"]),
        ({"thumb": "http://h/t", "large_url": "http://h/l"}, ["http://h/l"]),
        ({"large_url": [None], "thumb": ["http://h/t"]}, ["http://h/t"]),
        ({"id": "AF1_x-", "url": "http://h/a"}, ["https://g/AF1_x-=w640"]),
        ({"id": "a.jpg", "url": "http://h/a"}, ["http://h/a"]),
        ("AF1_x-", ["https://g/AF1_x-=w640"]),
        *[(entry, []) for entry in ("photos/a.jpg", "a.jpg", {"id": 7}, 7)],
    ):
        assert photo_urls(entry, "https://g/{id}=w640") == urls, entry


def test_parquet_is_copied_and_rows_that_no_copy_can_hold_are_counted(server, tmp_path, monkeypatch):
    url = server.url("/a.jpg")
    row = {"user": "u", "item": "i", "rating": 4.0, "pics": [{"url": [url]}]}
    pl.DataFrame([row]).with_columns(time=pl.datetime(2024, 5, 1)).write_parquet(tmp_path / "p.parquet")
    reviews = read_reviews(fetch(tmp_path / "p.parquet", tmp_path / "out").copies[0])
    assert len(reviews.table["photos"][0]) == 1
    assert str(reviews.table["time"][0]) == "2024-05-01 00:00:00"

    spoilt = write(tmp_path / "s.jsonl", [url] * 2)
    spoilt.write_text("{broken\n" + spoilt.read_text())
    monkeypatch.setattr(json, "dumps", Mock(side_effect=[RecursionError, '{"user": "u1"}']))
    done = fetch(spoilt, tmp_path / "out")
    assert (done.unreadable_rows, done.already_present) == (2, 1)
    assert copied(done.copies[0]) == [{"user": "u1"}]


def test_a_full_disk_ends_the_run(server, tmp_path, monkeypatch):
    paths = [f"/{number}.jpg" for number in range(20)]
    server.routes |= dict.fromkeys(paths, answer(picture()))
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError("No space left on device")))
    with pytest.raises(DataError, match="cannot be written"):
        fetch_urls(tmp_path, *map(server.url, paths), limits={"in_flight": 3})
    assert sum(server.hits.values()) < 10
    # A photo that was being decoded is let to its end.
    wait_until(lambda: not os.listdir(tmp_path / "out/photos"), 5)


def test_options_that_cannot_work_are_errors(server, tmp_path):
    data, copy = write(tmp_path / "r.jsonl", [server.url("/a.jpg")]), tmp_path / "items.jsonl.gz"
    copy.write_bytes(gzip.compress(data.read_bytes()))
    for kind, reason, out, options in (
        (ConfigError, r"put \{id\} in it", tmp_path, {"template": "https://g/x"}),
        (DataError, "no URL of a photo", tmp_path, {"column": "pics"}),
        (DataError, "cannot be written", data, {}),
        (ConfigError, "would overwrite", tmp_path / "./out/..", {"items": copy}),
    ):
        with pytest.raises(kind, match=reason):
            fetch(data, out, **options)
    assert not server.hits


def test_the_command_prints_counts_and_the_next_command(server, tmp_path, capsys):
    from mmrec.cli import app

    server.routes["/p/AF1=w320"] = answer(picture())
    data = write(tmp_path / "r.jsonl", [["AF1", server.url("/[b]")], [server.url("/c")]], column="shots")
    words = ["photos", "fetch", str(data), "--out", str(tmp_path / "an out"), "--column", "shots"]
    words += ["--url-template", server.url("/p/{id}=w320"), "--in-flight", "2", "--max-bytes", "9999"]
    app([*words, "--allow-private"], result_action="return_value")
    assert "1 photos downloaded, 0 present before" in (text := capsys.readouterr().out)
    assert "2 refused, see index.jsonl: HTTP 404" in text
    assert f"next: mmrec fit '{(copy := tmp_path / 'an out' / 'reviews.jsonl.gz')}'" in text
    assert copied(copy)[0]["shots"][0].startswith("photos/")
    app([*words, "--json"], result_action="return_value")
    result = json.loads(capsys.readouterr().out)
    assert (result["downloaded"], result["already_present"], result["refused"]) == (0, 1, {"HTTP 404": 2})
    with pytest.raises(SystemExit):
        app([*words, "--timeout", "0"])


def test_bodies_that_are_no_photos_are_refused(server, tmp_path):
    cases = [
        *[(body, "not a JPEG, PNG, WebP or GIF") for body in (b"<img src=a.jpg>", picture("BMP"), b"")],
        (picture()[:-20], "cannot be decoded"),
        (picture(size=(7, 7)), "7x7 pixels, more than 48 in all"),  # /a.jpg has 8 by 6
    ]
    bad = [server.url(f"/{number}") for number in range(len(cases))]
    server.routes |= {
        f"/{number}": answer(body, Content_Type="image/jpeg") for number, (body, _) in enumerate(cases)
    }
    done = fetch_urls(tmp_path, *bad, server.url("/a.jpg"), limits={"max_pixels": 48})
    assert (done.downloaded, done.refused) == (1, {"not a usable photo": 5})
    for url, (_, reason) in zip(bad, cases, strict=True):
        row = index(tmp_path / "out")[url]
        assert row["refused"].startswith(f"not a usable photo: {reason}")
        assert row["passing"] is False
    assert len(os.listdir(tmp_path / "out/photos")) == 1
    assert copied(done.copies[0])[0]["photos"][:5] == bad


def test_a_body_over_the_limit_is_refused(server):
    piece = b"x" * 10_000
    server.routes |= {
        "/endless": answer(repeat=piece, Content_Length=None),
        "/chunks": answer(repeat=b"2710\r\n%b\r\n" % piece, Content_Length=None, Transfer_Encoding="chunked"),
        "/announced": answer(piece * 6),
        "/fits": answer(piece * 5),
    }
    for path in ("/endless", "/chunks", "/announced"):
        with pytest.raises(PhotoError, match="too large: more than 50000 bytes"):
            get(server.url(path), allow_private=True, max_bytes=50_000)
        assert server.hits[path] == 1
    assert get(server.url("/fits"), allow_private=True, max_bytes=50_000) == piece * 5


def test_compressed_bodies_are_not_decompressed_and_proxies_of_the_environment_ignored(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    bomb = gzip.compress(b"\0" * 10_000_000)
    server.routes["/bomb"] = answer(bomb, Content_Encoding="gzip")
    assert get(server.url("/bomb"), allow_private=True, max_bytes=len(bomb)) == bomb
    assert server.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("route", "reason", "tries", "passing"),
    [
        (answer(repeat=b"x", pause=0.02, Content_Length=1000), "timeout: not done after 0.2 s", 1, True),
        (send(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02), "timeout: not done after 0.2 s", 1, True),
        (lambda request: time.sleep(1), "timeout: not done after 0.2 s", 1, True),
        *[(answer(status=status), f"HTTP {status}", 3, True) for status in (408, 425, 429, 500, 503)],
        (send(b""), "connection: RemoteProtocolError('Server disconnected", 3, True),
        (answer(b"x", Content_Length=9), "connection: RemoteProtocolError(RemoteProtocolError('pe", 3, True),
        (send(b"220 \x1b[31m smtp\r\n\r\n"), "connection: RemoteProtocolError(", 3, True),
        (answer(status=404), "HTTP 404", 1, False),
        (moved("/x"), "redirects: more than 5", 6, False),
    ],
)
def test_a_failure_that_may_pass_is_tried_again_and_a_final_one_with_retry(
    server, tmp_path, route, reason, tries, passing
):
    server.routes["/x"] = route
    url, slow = server.url("/x"), reason.startswith("timeout")
    done = fetch_urls(tmp_path, url, limits={"timeout": 0.2 if slow else 5.0})
    assert (done.downloaded, sum(done.refused.values()), server.hits["/x"]) == (0, 1, tries)
    row = index(tmp_path / "out")[url]
    assert row["refused"].startswith(reason)
    assert row["refused"].isprintable()
    assert row["passing"] is passing
    server.routes["/x"] = answer(picture())
    assert fetch_urls(tmp_path, url).downloaded == passing
    assert fetch_urls(tmp_path, url, retry=True).already_present == passing
    assert fetch_urls(tmp_path, url, retry=True).already_present == 1
    assert server.hits["/x"] == tries + 1


def test_a_busy_server_gets_two_retries_before_the_deadline(server, monkeypatch):
    def route(request):
        (answer(picture()) if server.hits["/busy"] == 3 else answer(status=503))(request)

    server.routes["/busy"] = route
    start = time.monotonic()
    assert get(server.url("/busy"), allow_private=True) == picture()
    assert time.monotonic() - start >= sum(http_download._RETRY_DELAYS)
    monkeypatch.setattr(http_download, "_RETRY_DELAYS", (60.0, 60.0))
    with pytest.raises(TransientError, match="timeout"):
        get(server.url("/busy"), allow_private=True, timeout=0.2)
    assert server.hits["/busy"] == 4


def test_redirects_are_followed_five_times_without_cookies(server):
    server.routes |= {f"/{hop}": moved(f"/{hop - 1}" if hop else "a.jpg") for hop in range(5)}
    assert get(server.url("/4"), allow_private=True) == picture()
    assert not any("Cookie" in headers for headers in server.headers)


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
def test_addresses_that_are_not_public_are_refused(network, address):
    assert not is_public(address)
    assert all(map(is_public, (PUBLIC, "8.8.8.8", "2606:4700::1111")))
    network.answers = [[PUBLIC, address]]
    with pytest.raises(PhotoError, match="address not public"):
        get("http://photos.example/a.jpg")
    assert not network.addresses
    assert get("http://photos.example/a.jpg", allow_private=True) == picture()


HOSTS = [
    *("127.0.0.1", "localhost", "2130706433", "0x7f.1", "017700000001", "127.1", "0x7f000001", "10.1"),
    *("[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0", "169.254.169.254", "LOCALHOST"),
]
PRIVATE = [f"http://{host}/a.jpg" for host in HOSTS]
FORBIDDEN = [
    *("file:///etc/passwd", "ftp://h/a.jpg", "data:image/png;base64,xx", "gopher://h:70/_x", "http://h:22/"),
    *("http://user:word@h/a.jpg", "https://user@photos.example/", "http://127.0.0.1\\@h/", "http://[::1/"),
    *("//photos.example:22/", "https://h:8443/a.jpg", "http://photos.example:x/", "http://0177.0.0.1/"),
    "http://h:99999999/",
]
NO_LOCATION = ["//h/a.jpg", "http:///a.jpg", "http:a", "http://h/\n", "http://\ud800/", "http://h/\udcff", ""]


@pytest.mark.parametrize("url", PRIVATE + FORBIDDEN + NO_LOCATION)
def test_urls_that_are_forbidden_or_spell_private_addresses_are_refused_also_after_a_redirect(
    server, network, url
):
    network.only, starts = "photos.example", [url]
    if url not in NO_LOCATION:
        server.routes["/to"] = moved(url)
        starts.append("http://photos.example/to")
    for start in starts:
        reason = "address not public" if url in PRIVATE else "URL not allowed"
        with pytest.raises(PhotoError, match=reason) as refusal:
            get(start)
        assert not isinstance(refusal.value, TransientError)
    assert network.addresses == [PUBLIC] * len(starts[1:])
    assert server.hits == Counter({"/to": len(starts[1:])})


@pytest.mark.parametrize("resolved", [socket.gaierror("is odd"), UnicodeError("is odd"), [], [PUBLIC]])
def test_a_host_that_is_unknown_or_does_not_answer_is_a_transient_error(network, resolved):
    reason = "connection: .*is odd" if isinstance(resolved, Exception) else "no address of the host answers"
    network.answers, network.dead = [resolved], {PUBLIC}
    with pytest.raises(TransientError, match=reason):
        get("http://photos.example/a.jpg")
    network.answers, network.addresses[:] = [["2606:4700::1111", PUBLIC]], []
    network.dead = {"2606:4700::1111"}  # the second address is tried
    assert get("http://photos.example/a.jpg") == picture()
    assert network.addresses == ["2606:4700::1111", PUBLIC]


def test_the_connection_goes_to_the_address_that_was_checked(server, network):
    network.answers = [[PUBLIC], ["127.0.0.1"]]
    assert get("http://photos.example/a.jpg") == picture()
    assert (network.asked, network.addresses) == (["photos.example"], [PUBLIC])
    assert server.headers[0]["Host"] == "photos.example"
    server.routes["/a.jpg"] = send(b"")  # so that the host is resolved again, to another address
    network.asked.clear()
    with pytest.raises(PhotoError, match="address not public"):
        get("http://photos.example/a.jpg")
    assert (len(network.asked), network.addresses, server.hits["/a.jpg"]) == (2, [PUBLIC, PUBLIC], 2)


def test_the_certificate_must_be_the_hosts(network, monkeypatch):
    stream = AsyncMock(**{"start_tls.side_effect": httpcore2.ConnectError("far enough")})
    connect = AsyncMock(return_value=stream)
    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
    with pytest.raises(TransientError, match="far enough"):
        get("https://photos.example/a.jpg")
    assert {call.args for call in connect.call_args_list} == {(PUBLIC, 443)}
    options = [call.kwargs for call in stream.start_tls.call_args_list]
    assert {option["server_hostname"] for option in options} == {"photos.example"}
    assert all(option["ssl_context"].check_hostname for option in options)


def test_a_killed_run_is_continued_and_files_that_are_gone_or_cut_are_fetched_again(server, tmp_path):
    gate, cut = threading.Event(), answer(picture()[:50], Content_Length=len(picture()))

    def gated(request):
        if sum(server.hits.values()) > 6:
            cut(request)
            gate.wait(20)
        else:
            answer(picture())(request)

    paths = [f"/{number}.jpg" for number in range(12)]
    server.routes |= dict.fromkeys(paths, gated)
    data, out = write(tmp_path / "r.jsonl", [[server.url(path)] for path in paths]), tmp_path / "out"
    words = ["-c", "from mmrec.cli import main; main()", "photos", "fetch", data, "--out", out]
    words += ["--allow-private", "--in-flight", "3"]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
    wait_until(lambda: sum(server.hits.values()) >= 9, 30)
    process.kill()
    process.wait()
    gate.set()
    files = {url: out / row["file"] for url, row in index(out).items() if "file" in row}
    assert len(files) == len([*out.glob("photos/*.jpg")]) == 6
    gone, cut_off, *whole = files
    files[gone].unlink()
    files[cut_off].write_bytes(b"")
    assert not list(out.glob("*.gz"))
    with (out / "index.jsonl").open("a") as handle:
        handle.write('{"url": "http://half')
    server.routes |= dict.fromkeys(paths, answer(picture()))
    done = fetch(data, out)
    assert (done.downloaded, done.already_present) == (8, 4)
    assert all(server.hits[url.removeprefix(server.url(""))] == 1 for url in whole)
    assert files[cut_off].read_bytes() == picture()
    assert len(index_lines := (out / "index.jsonl").read_text().splitlines()) == 15
    assert '{"url": "http://half' in index_lines
    assert all(len(photos) == 1 for photos in read_reviews(done.copies[0]).table["photos"])
