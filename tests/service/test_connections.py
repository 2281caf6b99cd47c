"""Clients who send or read nothing, in a service that may open few files."""

import logging
import os
import resource
import socket
import subprocess
import time
from contextlib import ExitStack, closing

import pytest

from serving import serving

pytest.importorskip("uvicorn", reason="mmrec[serve] is not installed")
from mmrec.service.connections import OncePerSecond

REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def served(model):
    """A service of 200 files at most, whose clients have 2 seconds."""
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))}
    start = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *words, **options: start(*words, **options, **few))
        with serving(model, "--client-seconds", "2", "--per-minute", "100000") as running:
            yield running


def connect(served, stack, sent=b""):
    url = served.client.base_url
    line = stack.enter_context(closing(socket.create_connection((url.host, url.port), timeout=30)))
    line.sendall(sent)
    return line


def seconds_until_closed(line, began):
    try:
        while line.recv(65_536):
            pass
    except OSError:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", REQUEST])
def test_300_half_open_connections_stop_nobody(served, sent):
    before, url = os.path.getsize(served.log), served.client.base_url
    with ExitStack() as stack:
        for number in range(300):
            line = connect(served, stack, sent)
            if number % 10 == 0:  # also on a connection that is used again
                served.get("/health")
        served.client.close()
        served.client = type(served.client)(base_url=url, timeout=10)
        for _ in range(5):
            served.get("/health")
            served.get("/v1/users/u/recommendations?n=3")
        assert seconds_until_closed(line, time.monotonic()) < 10
        time.sleep(1)
        assert len(os.listdir(f"/proc/{served.process.pid}/fd")) < 150
    assert os.path.getsize(served.log) - before < 100_000
    assert "Traceback" not in served.log.read_text()


def seconds_until_reset(line, sent):
    """How long a client can go on sending something now and then."""
    began = time.monotonic()
    line.setblocking(False)
    while time.monotonic() - began < 20:
        try:
            line.send(sent)
        except BlockingIOError:
            pass
        except ConnectionError:
            break
        time.sleep(0.2)
    return time.monotonic() - began


def test_headers_that_come_byte_by_byte_are_not_waited_for(served):
    with ExitStack() as stack:
        line = connect(served, stack, REQUEST + b"\r\n")
        assert line.recv(10_000).startswith(b"HTTP/1.1 200")  # a second request on the same line
        assert 1.5 < seconds_until_reset(line, b"G") < 6


def test_who_reads_slowly_gets_all(served):
    document = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    size = len(served.client.get("/openapi.json").content)
    with ExitStack() as stack:
        line, began, read = connect(served, stack, 300 * document), time.monotonic(), 0
        while read < 300 * size and time.monotonic() - began < 8:
            read += len(line.recv(100_000))
            time.sleep(0.1)
        line.settimeout(5)
        while part := line.recv(10**6):
            read += len(part)
        assert read > 300 * size


def test_who_does_not_read_is_not_waited_for(served):
    with ExitStack() as stack:
        document = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert seconds_until_reset(connect(served, stack), 50 * document) < 15


def test_a_body_that_does_not_come_is_not_waited_for(served):
    head = b"POST /v1/reviews HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n"
    with ExitStack() as stack:
        line, began = connect(served, stack, head + b'{"user'), time.monotonic()
        answer = line.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert 11 < seconds_until_closed(line, began) < 20


def test_one_line_a_second_of_each_kind_is_written():
    lines, handler, log = [], logging.Handler(), logging.Logger("test")
    handler.emit = lambda record: lines.append(record.getMessage())
    handler.addFilter(OncePerSecond())
    log.addHandler(handler)
    for number in range(1000):
        log.warning("socket.accept() out of system resource\nsocket: %d", number)
        log.warning("Invalid HTTP request received.")
        log.warning("Expected character 45, got " + str(number))
        log.info("request", extra={"kind": None})
    assert len(lines) == 1003
    time.sleep(1.1)
    log.warning("Invalid HTTP request received.")
    assert lines[-1] == "Invalid HTTP request received. (and 999 more like it)"
