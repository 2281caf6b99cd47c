"""A real server on loopback which speaks OpenAI's chat, files and batches API, and misbehaves as it is told.

Run `python tests/chat_server.py --port 0 --behaviour '{"latency": 0.2}' [--journal FILE]`: it prints its
address when it is ready. Tests use `serve`. Only the standard library, and no coroutine on the way of a
request: client and server share the cores of the machine that runs the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from http.client import HTTPConnection, responses
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from chat_answers import KINDS_OF_BROKEN, Json, Refusal, complete, dump, tokens


@dataclass(frozen=True)
class Behaviour:
    """How the server behaves; every share is decided by a hash of seed, request body and attempt."""

    latency: float = 0.0
    """Seconds from the last byte of a request to its answer."""
    structured: Literal["schema", "object", "none", "ignored"] = "schema"
    """Which `response_format` is honoured; all but `ignored` refuse the rest with 400."""
    broken: float = 0.0
    """Share of answers that are broken, in one of the ways of `broken_kinds`."""
    broken_kinds: tuple[str, ...] = ("json", "enum", "keys", "empty", "length")
    rate_limit: float = 0.0
    """Requests a second above which it answers 429; 0 for no limit."""
    retry_headers: tuple[str, ...] = ("retry-after", "retry-after-ms")
    quota: int = 0
    """Answers after which it says `insufficient_quota`; 0 for no limit."""
    errors: float = 0.0
    """Share of requests answered 500, 502 (a page of HTML) or 503."""
    drop: float = 0.0
    """Share of requests whose connection is closed instead of an answer."""
    slow: float = 0.0
    """Share of requests that take ten times the latency."""
    require_key: str | None = None
    models: tuple[str, ...] = ("test-model",)
    context: int = 0
    """Tokens that a prompt may have; 0 for no limit."""
    overflow: Literal["cut", "refuse"] = "refuse"
    """What becomes of a longer prompt: `cut` keeps its end and says nothing, `refuse` answers 400."""
    reject_parameters: tuple[str, ...] = ()
    gullible: bool = False
    """Obey orders that stand in the user's text."""
    batch_seconds: float = 0.0
    batch_polls: int = 1
    """A batch ends after so many seconds and so many looks at it, whichever is later."""
    batch_failures: float = 0.0
    """Share of the lines of a batch that fail, in one of the ways of `batch_failure_kinds`."""
    batch_failure_kinds: tuple[str, ...] = ("error", "status", "missing")
    """In the error file, in the output file with status 500, or in neither."""
    batch_expires: bool = False
    batch_done: float = 0.5
    """Share of its lines that a batch has answered when it expires or is cancelled."""
    batch_limit: int = 50_000
    """Lines that a batch may have."""
    seed: int = 0

    def __post_init__(self) -> None:
        for one, allowed in (
            (self.structured, ("schema", "object", "none", "ignored")),
            (self.overflow, ("cut", "refuse")),
            *((kind, KINDS_OF_BROKEN) for kind in self.broken_kinds),
            *((kind, ("error", "status", "missing")) for kind in self.batch_failure_kinds),
        ):
            if one not in allowed:
                raise ValueError(f"{one!r} is none of {', '.join(allowed)}")

    def changed(self, changes: Json) -> Behaviour:
        """The behaviour with some fields changed; lists of JSON become tuples."""
        unknown = changes.keys() - {one.name for one in fields(self)}
        if unknown:
            raise ValueError(f"no such behaviour: {', '.join(sorted(unknown))}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
        return replace(self, **values)


@dataclass(slots=True)
class Request:
    """One request: the target still quoted, the names of headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Reply:
    """What to send, after a delay; without a status the connection is closed instead."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    done: Callable[[Reply | None], None] | None = None
    """Called with the reply just before it is sent, or with None where the client went away."""


def refused(refusal: Refusal) -> Reply:
    """A refusal as a reply."""
    return Reply(refusal.status, dump(refusal.body), headers=refusal.headers)


def outage(status: int) -> Reply:
    """A failure of the server itself; that of a gateway is a page of HTML."""
    if status == 502:
        return Reply(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html")
    message = "The engine is currently overloaded" if status == 503 else "The server had an error"
    return refused(Refusal(status, f"{message}. Sorry about that!", kind="server_error"))


def load(raw: bytes) -> Json:
    """The object of JSON in a request; raises Refusal."""
    with suppress(ValueError):
        if isinstance(found := json.loads(raw), dict):
            return found
    raise Refusal(400, "We could not parse the JSON body of your request.")


TOTALS = (
    "requests",
    "dropped",
    "abandoned",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "batches",
)


class Luck:
    """Numbers in [0, 1) that depend on the seed, the request body and the attempt alone."""

    NAMES = ("drop", "errors", "slow", "broken", "kind", "status", "batch", "form")

    def __init__(self, seed: int, digest: str, attempt: int) -> None:
        self._bytes = hashlib.sha256(f"{seed} {attempt} {digest}".encode()).digest()

    def __call__(self, name: str) -> float:
        at = 4 * self.NAMES.index(name)
        return int.from_bytes(self._bytes[at : at + 4]) / 2**32

    def pick(self, name: str, options: tuple[Any, ...]) -> Any:
        """One of the options."""
        return options[int(self(name) * len(options))]


class Chat:
    """The endpoint of completions with its counters; the lines of batches count as tokens only."""

    def __init__(self, behaviour: Behaviour, journal: Path | None = None) -> None:
        self.behaviour = behaviour
        self.in_flight = 0
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if journal else None
        self.reset()

    def reset(self) -> None:
        """Forget counters, attempts and cached prompts."""
        self.status: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.in_flight_max = self.in_flight
        self._attempts: Counter[str] = Counter()
        self._passed: deque[float] = deque()
        self._cached: set[str] = set()

    def stats(self) -> Json:
        """Counters since the start or the last reset; tokens count from when a prompt is read."""
        flight = {"in_flight": self.in_flight, "in_flight_max": self.in_flight_max}
        return {"status": dict(self.status), **flight, **{name: self.totals[name] for name in TOTALS}}

    def luck(self, digest: str) -> Luck:
        """The luck of the next attempt at a request."""
        self._attempts[digest] += 1
        return Luck(self.behaviour.seed, digest, self._attempts[digest])

    def __call__(self, request: Request) -> Reply:
        self.totals["requests"] += 1
        digest = hashlib.sha256(request.body).hexdigest()
        try:
            self.authorise(request)
            reply = self._answer(request.body, digest)
        except Refusal as refusal:
            reply = refused(refusal)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        reply.done = partial(self._done, digest)
        return reply

    def authorise(self, request: Request) -> None:
        """Raise Refusal for a wrong key."""
        key = self.behaviour.require_key
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            raise Refusal(401, "Incorrect API key provided.", "invalid_api_key")

    def _answer(self, raw: bytes, digest: str) -> Reply:
        behaviour = self.behaviour
        self._limit()
        luck = self.luck(digest)
        delay = behaviour.latency * (10 if luck("slow") < behaviour.slow else 1)
        if luck("drop") < behaviour.drop:
            return Reply(0, delay=delay)
        if luck("errors") < behaviour.errors:
            return replace(outage(luck.pick("status", (500, 502, 503))), delay=delay)
        return Reply(200, dump(self.respond(load(raw), digest, luck)), delay=delay)

    def respond(self, body: Json, digest: str, luck: Luck) -> Json:
        """The completion of a request in OpenAI's shape; raises Refusal."""
        prompt, chosen = complete(self.behaviour, body, luck)
        message = chosen["message"]
        wrote = tokens(len((message["content"] or message["refusal"] or "").encode()))
        cached = len(prompt.system.encode()) // 4 if prompt.system in self._cached else 0
        self._cached.add(prompt.system)
        self.totals.update(prompt_tokens=prompt.tokens, completion_tokens=wrote, cached_tokens=cached)
        usage: Json = {"prompt_tokens": prompt.tokens, "completion_tokens": wrote}
        usage |= {"total_tokens": prompt.tokens + wrote, "prompt_tokens_details": {"cached_tokens": cached}}
        head = {"id": f"chatcmpl-{digest[:24]}", "object": "chat.completion", "created": int(time.time())}
        return {**head, "model": body["model"], "choices": [chosen], "usage": usage}

    def _limit(self) -> None:
        """Raise Refusal for a request above the rate or the quota: so many in any window of a second."""
        rate = self.behaviour.rate_limit
        if 0 < self.behaviour.quota <= self.status["200"]:
            message = "You exceeded your current quota, please check your plan and billing details."
            raise Refusal(429, message, "insufficient_quota", kind="insufficient_quota")
        if not rate:
            return
        now, most = time.monotonic(), max(1, int(rate))
        while self._passed and self._passed[0] <= now - most / rate:
            self._passed.popleft()
        if len(self._passed) >= most:
            wait = self._passed[0] + most / rate - now
            waits = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(1000 * wait))}
            headers = {name: waits[name] for name in self.behaviour.retry_headers}
            raise Refusal(429, "Rate limit reached.", "rate_limit_exceeded", kind="requests", headers=headers)
        self._passed.append(now)

    def _done(self, digest: str, sent: Reply | None) -> None:
        self.in_flight -= 1
        if sent is None:
            self.totals["abandoned"] += 1
        elif not sent.status:
            self.totals["dropped"] += 1
        else:
            self.status[str(sent.status)] += 1
            if sent.status == 200 and self._journal is not None:
                os.write(self._journal, f"{digest} {time.time():.6f}\n".encode())


@dataclass(slots=True)
class Batch:
    """A batch as the API shows it, the lines of its file, when it began, and how often it was looked at."""

    data: Json
    lines: list[bytes]
    start: float
    polls: int = 0


class Batches:
    """The endpoints of files and batches."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.files: dict[str, tuple[Json, bytes]] = {}
        self.batches: dict[str, Batch] = {}
        self._numbers = count(1)

    def keep(self, name: str, content: bytes, purpose: str) -> Json:
        """Keep a file; its object."""
        key = f"file-{next(self._numbers):06}"
        size = {"object": "file", "bytes": len(content), "created_at": int(time.time())}
        self.files[key] = (
            {"id": key, **size, "filename": name, "purpose": purpose, "status": "processed"},
            content,
        )
        return self.files[key][0]

    def upload(self, request: Request) -> Json:
        """Keep an uploaded file."""
        boundary = request.headers.get("content-type", "").partition("boundary=")[2].strip('"').encode()
        parts: dict[str, tuple[str, bytes]] = {}
        for part in request.body.split(b"--" + boundary)[1:-1] if boundary else []:
            head, _, content = part.partition(b"\r\n\r\n")
            names = dict(re.findall(r'\b(name|filename)="([^"]*)"', head.decode()))
            parts[names["name"]] = names.get("filename", ""), content.removesuffix(b"\r\n")
        if not parts.keys() >= {"file", "purpose"}:
            raise Refusal(400, "'file' and 'purpose' are required.", "missing_required_parameter", "file")
        return self.keep(*parts["file"], parts["purpose"][1].decode())

    def file(self, key: str) -> tuple[Json, bytes]:
        """A file and its content; raises Refusal."""
        if key not in self.files:
            raise Refusal(404, f"No such File object: {key}", None, "id")
        return self.files[key]

    def delete(self, key: str) -> Json:
        """Delete a file."""
        self.file(key)
        del self.files[key]
        return {"id": key, "object": "file", "deleted": True}

    def create(self, request: Request) -> Json:
        """Begin a batch."""
        asked = load(request.body)
        if asked.get("endpoint") != "/v1/chat/completions" or asked.get("completion_window") != "24h":
            raise Refusal(400, "Invalid 'endpoint' or 'completion_window'.", "invalid_value", "endpoint")
        info, content = self.file(asked.get("input_file_id", ""))
        if info.get("purpose") != "batch":
            raise Refusal(
                400, "Invalid 'purpose' of the input file.", "invalid_file_purpose", "input_file_id"
            )
        key, now = f"batch_{len(self.batches) + 1:06}", int(time.time())
        names = ("input_file_id", "endpoint", "completion_window", "metadata")
        data = {"id": key, "object": "batch", "created_at": now, "expires_at": now + 86_400}
        data |= {name: asked.get(name) for name in names} | {"status": "validating"}
        data |= {"output_file_id": None, "error_file_id": None, "errors": None}
        data["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
        self.batches[key] = Batch(data, content.splitlines(), time.monotonic())
        self.chat.totals["batches"] += 1
        return data

    def batch(self, key: str, look: bool = True) -> Batch:
        """A batch, which a look at it may carry on; raises Refusal."""
        if key not in self.batches:
            raise Refusal(404, f"No batch found with id '{key}'.", None, "id")
        batch = self.batches[key]
        if look and batch.data["status"] in ("validating", "in_progress", "cancelling"):
            self._carry_on(batch)
        return batch

    def cancel(self, key: str) -> Json:
        """Ask for the end of a batch; the next look at it finds it cancelled."""
        batch = self.batch(key, look=False)
        if batch.data["status"] not in ("validating", "in_progress", "cancelling"):
            raise Refusal(409, f"Cannot cancel a batch with status '{batch.data['status']}'.")
        batch.data |= {"status": "cancelling", "cancelling_at": int(time.time())}
        return batch.data

    def page(self, query: dict[str, list[str]]) -> Json:
        """A page of batches, the newest first."""
        keys = sorted(self.batches, reverse=True)
        after = query.get("after", [""])[0]
        keys = keys[keys.index(after) + 1 if after in keys else 0 :]
        most = int(query.get("limit", ["20"])[0])
        page = [self.batch(key).data for key in keys[:most]]
        ends = {"first_id": keys[0], "last_id": page[-1]["id"]} if page else {}
        return {"object": "list", "data": page, **ends, "has_more": len(keys) > most}

    def _carry_on(self, batch: Batch) -> None:
        behaviour = self.chat.behaviour
        flaws = find_flaws(batch.lines, behaviour.batch_limit)
        batch.polls += 1
        due = (
            time.monotonic() - batch.start >= behaviour.batch_seconds and batch.polls >= behaviour.batch_polls
        )
        if flaws:
            batch.data |= {"status": "failed", "failed_at": int(time.time())}
            batch.data["errors"] = {"object": "list", "data": flaws}
        elif batch.data["status"] == "cancelling":
            self._finish(batch, "cancelled", behaviour.batch_done)
        elif not due:
            batch.data |= {"status": "in_progress", "in_progress_at": int(time.time())}
            batch.data["request_counts"]["total"] = len(batch.lines)
        elif behaviour.batch_expires:
            self._finish(batch, "expired", behaviour.batch_done)
        else:
            self._finish(batch, "completed", 1.0)

    def _finish(self, batch: Batch, status: str, share: float) -> None:
        """Answer a share of the lines, and write the files."""
        lines = [json.loads(line) for line in batch.lines]
        done = round(share * len(lines))
        outcomes = [self._outcome(line) for line in lines[:done]]
        outcomes += [("error", unanswered(line, f"batch_{status}")) for line in lines[done:]]
        for place, name in (("output", "output_file_id"), ("error", "error_file_id")):
            rows = shuffled([row for where, row in outcomes if where == place])
            if rows:
                content = b"".join(dump(row) + b"\n" for row in rows)
                batch.data[name] = self.keep(f"{batch.data['id']}_{place}.jsonl", content, "batch_output")[
                    "id"
                ]
        fine = sum(_succeeded(row) for _, row in outcomes)
        counts = {"total": len(lines), "completed": fine, "failed": len(lines) - fine}
        batch.data |= {"status": status, f"{status}_at": int(time.time()), "request_counts": counts}

    def _outcome(self, line: Json) -> tuple[str, Json]:
        """Where the row of a line goes (`missing` for nowhere), and the row."""
        digest = hashlib.sha256(dump(line["body"])).hexdigest()
        luck, behaviour = self.chat.luck(digest), self.chat.behaviour
        place, status = "output", 200
        try:
            if luck("batch") < behaviour.batch_failures:
                place = luck.pick("kind", behaviour.batch_failure_kinds).replace("status", "output")
                raise Refusal(500, "The server had an error.", kind="server_error")
            body = self.chat.respond(line["body"], digest, luck)
        except Refusal as refusal:
            status, body = refusal.status, refusal.body
            place = "error" if status != 500 else place
        response = {"status_code": status, "request_id": digest[:24], "body": body}
        head = {"id": f"batch_req_{digest[:24]}", "custom_id": line["custom_id"]}
        return place, {**head, "response": response, "error": None}


def find_flaws(lines: list[bytes], limit: int) -> list[Json]:
    """The errors for which a batch fails as a whole."""
    if not lines or len(lines) > limit:
        code = "too_many_tasks" if lines else "empty_file"
        return [
            {"code": code, "message": f"The file has {len(lines)} requests.", "line": None, "param": None}
        ]
    seen: set[Any] = set()
    codes = ((at, find_flaw(line, seen)) for at, line in enumerate(lines, 1))
    return [{"code": code, "message": code, "line": at, "param": None} for at, code in codes if code]


def find_flaw(line: bytes, seen: set[Any]) -> str | None:
    """What is wrong with a line, and its id among those seen."""
    try:
        request = json.loads(line)
        target, key, body = ((request["method"], request["url"]), request["custom_id"], request["body"])
    except (ValueError, KeyError, TypeError):
        return "invalid_json_line"
    if key in seen:
        return "duplicate_custom_id"
    seen.add(key)
    fits = target == ("POST", "/v1/chat/completions") and isinstance(body, dict)
    return None if fits else "invalid_request"


def unanswered(line: Json, code: str) -> Json:
    """The row of a line for which the batch had no time."""
    error = {"code": code, "message": "This request was not executed before the batch ended."}
    return {
        "id": f"batch_req_{line['custom_id']}",
        "custom_id": line["custom_id"],
        "response": None,
        "error": error,
    }


def shuffled(rows: list[Json]) -> list[Json]:
    """The rows in an order of their own, and never the one given."""
    mixed = sorted(rows, key=lambda row: hashlib.sha256(row["custom_id"].encode()).digest())
    return mixed if mixed != rows else mixed[::-1]


def _succeeded(row: Json) -> bool:
    return row["response"] is not None and row["response"]["status_code"] == 200


class Site:
    """Answers each request at the endpoint it is for."""

    def __init__(self, behaviour: Behaviour, journal: Path | None = None) -> None:
        self.chat = Chat(behaviour, journal)
        self.batches = Batches(self.chat)

    def __call__(self, request: Request) -> Reply:
        try:
            if request.target.startswith("/control"):
                return self._control(request)
            if (request.method, request.target) == ("POST", "/v1/chat/completions"):
                return self.chat(request)
            self.chat.authorise(request)
            found = self._other(request)
        except Refusal as refusal:
            return refused(refusal)
        return (
            Reply(200, found, "application/octet-stream")
            if isinstance(found, bytes)
            else Reply(200, dump(found))
        )

    def _other(self, request: Request) -> Json | bytes:
        """Models, files and batches."""
        url, batches = urlsplit(request.target), self.batches
        match [request.method, *unquote(url.path).strip("/").split("/")]:
            case ["GET", "v1", "models"]:
                return {"object": "list", "data": [model(name) for name in self.chat.behaviour.models]}
            case ["GET", "v1", "models", *parts] if "/".join(parts) in self.chat.behaviour.models:
                return model("/".join(parts))
            case ["POST", "v1", "files"]:
                return batches.upload(request)
            case ["GET", "v1", "files", key]:
                return batches.file(key)[0]
            case ["DELETE", "v1", "files", key]:
                return batches.delete(key)
            case ["GET", "v1", "files", key, "content"]:
                return batches.file(key)[1]
            case ["POST", "v1", "batches"]:
                return batches.create(request)
            case ["GET", "v1", "batches"]:
                return batches.page(parse_qs(url.query))
            case ["GET", "v1", "batches", key]:
                return batches.batch(key).data
            case ["POST", "v1", "batches", key, "cancel"]:
                return batches.cancel(key)
        raise Refusal(404, f"Invalid URL ({request.method} {url.path})", "unknown_url")

    def _control(self, request: Request) -> Reply:
        """Show or change the behaviour, show or reset the counters."""
        chat = self.chat
        if request.target == "/control/stats":
            return Reply(200, dump(chat.stats()))
        if request.target == "/control/reset":
            chat.reset()
        elif request.method == "POST":
            try:
                chat.behaviour = chat.behaviour.changed(load(request.body))
            except ValueError as error:
                raise Refusal(400, str(error)) from None
        return Reply(200, dump(asdict(chat.behaviour)))


def model(name: str) -> Json:
    """A model in OpenAI's shape."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "tests"}


class Http(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request of a connection at a time."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.request: Request | None = None
        self.length = 0
        self.busy = False
        self.waiting: Reply | None = None
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.waiting is not None and self.waiting.done is not None:
            self.waiting.done(None)
        self.waiting = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._next()

    def _next(self) -> None:
        """Answer the request in the buffer if it is complete and none is being answered."""
        if self.busy:
            return
        if self.request is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._begin(self.buffer[:end].decode("latin-1"))
            del self.buffer[: end + 4]
        if self.request is None or len(self.buffer) < self.length:
            return
        self.request.body = bytes(self.buffer[: self.length])
        del self.buffer[: self.length]
        self.busy = True
        # Not at once: the answers to what arrived before would make this one late.
        self.loop.call_soon(self._answer, self.request, self.loop.time())

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        self.request = Request(method, target, headers, b"")
        self.length = int(headers.get("content-length", 0))
        if "transfer-encoding" in headers:
            self._send(Reply(411, headers={"connection": "close"}))

    def _answer(self, request: Request, arrived: float) -> None:
        if self.transport.is_closing():
            return
        try:
            self.waiting = self.site(request)
        except Exception:
            traceback.print_exc()
            self.waiting = Reply(500, b"the chat server is broken", "text/plain")
        if self.waiting.delay:
            self.timer = self.loop.call_at(arrived + self.waiting.delay, self._send, self.waiting)
        else:
            self._send(self.waiting)

    def _send(self, reply: Reply) -> None:
        if self.transport.is_closing():
            return
        request, self.request, self.waiting, self.timer = self.request, None, None, None
        self.busy = False
        if reply.done is not None:
            reply.done(reply)
        asked = {**(request.headers if request else {}), **reply.headers}.get("connection", "")
        if reply.status:
            head = {"content-type": reply.kind, "content-length": str(len(reply.body)), **reply.headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            self.transport.write(
                f"HTTP/1.1 {reply.status} {responses[reply.status]}\r\n{lines}\r\n".encode() + reply.body
            )
        if asked.lower() == "close" or not reply.status:
            self.transport.close()
        elif self.buffer:
            self.loop.call_soon(self._next)


async def run(port: int, behaviour: Behaviour, journal: Path | None, parent: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until the parent is gone where one is named."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    site = Site(behaviour, journal)
    server = await loop.create_server(lambda: Http(site), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    while not stop.is_set() and parent in (None, os.getppid()):
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)
    server.close()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--behaviour", default="{}", help="JSON with fields of Behaviour")
    parser.add_argument("--journal", type=Path, help="file to which each answered request adds a line")
    parser.add_argument("--parent", type=int, help="process without which the server ends")
    given = parser.parse_args()
    behaviour = Behaviour().changed(json.loads(given.behaviour))
    asyncio.run(run(given.port, behaviour, given.journal, given.parent))


@dataclass
class Server:
    """A server in a process of its own."""

    url: str
    journal: Path | None = None

    def stats(self) -> Json:
        """Counters since the start or the last reset."""
        return self._control("GET", "/stats")

    def set(self, **changes: Any) -> None:
        """Change the behaviour from the next request on."""
        self._control("POST", "", changes)

    def reset(self) -> None:
        """Forget counters, attempts and cached prompts."""
        self._control("POST", "/reset")

    def answered(self) -> Counter[str]:
        """How often each request was answered, by the hash of its body, as the journal has it."""
        return (
            Counter(line.split()[0] for line in self.journal.read_text().splitlines())
            if self.journal
            else Counter()
        )

    def _control(self, method: str, path: str, body: Json | None = None) -> Json:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request(method, f"/control{path}", dump(body or {}))
            response = connection.getresponse()
            found = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(found["error"]["message"])
        return found


@contextmanager
def serve(behaviour: Behaviour | None = None, journal: Path | None = None) -> Iterator[Server]:
    """A server for as long as the context lasts."""
    told = json.dumps(asdict(behaviour or Behaviour()))
    command = [sys.executable, __file__, "--behaviour", told, "--parent", str(os.getpid())]
    command += ["--journal", str(journal)] if journal else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            url = child.stdout.readline().strip()
            if not url:
                raise RuntimeError("the chat server did not start")
            yield Server(url, journal)
        finally:
            child.terminate()


if __name__ == "__main__":
    main()
