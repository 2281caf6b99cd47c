"""A test server that speaks OpenAI's chat, files and batches API, and misbehaves as a test tells it to.

It runs in a thread of the test: `with serve(Behaviour(latency=0.1)) as server: ... server.url ...`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse

from chat_answers import Behaviour, Chance, Json, Refusal, complete

__all__ = ["Behaviour", "Server", "serve"]


@dataclass
class Batch:
    """A batch as the API shows it, the lines of its file, and how often it was looked at."""

    data: Json
    lines: list[bytes]
    polls: int = 0


class Server:
    """The state of a server, which tests read and change.

    Attributes:
        url: where clients find it.
        answers: of every completion that a client got: the hash of its request, and the time.
        fault: names what happens to a request of `METHOD /path`: `deny` answers 404; `lose` closes the
            connection instead of an answer, `half` amid of it, both after the work was done.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.url = ""
        self.behaviour = behaviour
        self.fault: Callable[[str], str] = lambda request: ""
        self.files: dict[str, tuple[Json, bytes]] = {}
        self.batches: dict[str, Batch] = {}
        self.in_flight = 0
        self._file_numbers = count(1)
        self.reset()

    def set(self, **changes: Any) -> None:
        """Change the behaviour from the next request on."""
        self.behaviour = replace(self.behaviour, **changes)

    def reset(self) -> None:
        """Forget counters and attempts."""
        self.answers: list[tuple[str, float]] = []
        self.status: Counter[str] = Counter()
        self.requests = 0
        self.in_flight_max = 0
        self._attempts: Counter[str] = Counter()
        self._passed: deque[float] = deque()

    def stats(self) -> Json:
        """Requests for completions since the start or the last reset."""
        return {"requests": self.requests, "status": dict(self.status), "in_flight_max": self.in_flight_max}

    def answered(self) -> Counter[str]:
        """How often each request was answered, by its hash."""
        return Counter(digest for digest, _ in self.answers)

    def chance(self, digest: str) -> Chance:
        """The chance of the next attempt at a request."""
        self._attempts[digest] += 1
        return Chance(digest, self._attempts[digest])

    def limit_rate(self) -> None:
        """Raise Refusal for a request above the rate."""
        rate = self.behaviour.rate_limit
        if not rate:
            return
        now = time.monotonic()
        while self._passed and self._passed[0] <= now - 1:
            self._passed.popleft()
        if len(self._passed) >= rate:
            wait = self._passed[0] + 1 - now
            raise Refusal(429, "Rate limit reached.", **{"retry-after-ms": str(int(1000 * wait) + 1)})
        self._passed.append(now)

    def add_file(self, name: str, content: bytes, purpose: str) -> Json:
        """Keep a file; its description."""
        key = f"file-{next(self._file_numbers):06}"
        data = {"id": key, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        data |= {"filename": name, "purpose": purpose, "status": "processed"}
        self.files[key] = data, content
        return data

    def look_at(self, batch: Batch) -> Json:
        """A batch as it is now; the looks carry it on."""
        behaviour, data = self.behaviour, batch.data
        if data["status"] not in ("validating", "in_progress"):
            return data
        batch.polls += 1
        count = len(batch.lines)
        if not 0 < count <= behaviour.batch_limit:
            flaw = {"code": "too_many_tasks", "message": f"The file has {count} requests."}
            data |= {"status": "failed", "errors": {"object": "list", "data": [flaw]}}
        elif batch.polls < behaviour.batch_polls:
            data["status"] = "in_progress"
            data["request_counts"]["total"] = count
        elif behaviour.batch_expires:
            self._finish(batch, "expired", round(behaviour.batch_done * count))
        else:
            self._finish(batch, "completed", count)
        return data

    def _finish(self, batch: Batch, status: str, done: int) -> None:
        """Answer the first lines, and write the files."""
        rows: dict[str, list[Json]] = {"output": [], "error": [], "missing": []}
        for number, line in enumerate(map(json.loads, batch.lines)):
            place, row = "error", {"response": None, "error": {"code": "batch_expired"}}
            if number < done:
                place, row = self._answer_line(line["body"])
            rows[place].append({"custom_id": line["custom_id"], **row})
        completed = sum(row["response"]["status_code"] == 200 for row in rows["output"])
        counts = {"total": len(batch.lines), "completed": completed, "failed": len(batch.lines) - completed}
        batch.data |= {"status": status, "request_counts": counts}
        for place in ("output", "error"):
            random.Random(0).shuffle(rows[place])  # OpenAI's answers come in any order.
            content = b"".join(json.dumps(row).encode() + b"\n" for row in rows[place])
            if content:
                batch.data[f"{place}_file_id"] = self.add_file(place, content, "batch_output")["id"]

    def _answer_line(self, body: Json) -> tuple[str, Json]:
        """Where the row of a line goes (`missing` for nowhere), and the row."""
        chance = self.chance(hashlib.sha256(json.dumps(body).encode()).hexdigest())
        place, response = "output", {"status_code": 500, "body": {}}
        if chance.happens("failure", self.behaviour.batch_failures):
            kind = chance.pick("failure", self.behaviour.batch_failure_kinds)
            return ("output" if kind == "status" else kind), {"response": response, "error": None}
        try:
            response = {"status_code": 200, "body": complete(self.behaviour, body, chance)}
        except Refusal as refusal:
            place, response = "error", {"status_code": refusal.status, "body": refusal.body}
        return place, {"response": response, "error": None}


class Faults:
    """Middleware that breaks the connections of requests that a test names."""

    def __init__(self, app: Any, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        transport = scope["transport"] = send.__self__.transport
        fault = self.server.fault(f"{scope['method']} {scope['path']}")

        async def send_broken(message: Json) -> None:
            body = message.get("body")
            if fault == "half" and body:
                await send({**message, "body": body[: len(body) // 2], "more_body": True})
            if fault == "lose" or body:
                transport.close()
            elif fault == "half":
                await send(message)

        if fault == "deny":
            await JSONResponse({"error": {"message": "Not Found"}}, 404)(scope, receive, send)
        else:
            await self.app(scope, receive, send_broken if fault else send)


def build_app(server: Server) -> FastAPI:
    """OpenAI's API in front of a server's state."""

    def check_key(request: Request) -> None:
        key, sent = server.behaviour.require_key, request.headers.get("authorization", "")
        if key is not None and sent != f"Bearer {key}":
            message = f"Incorrect API key provided: {sent.removeprefix('Bearer ')}."
            raise Refusal(401, message, "invalid_api_key")

    async def respond(request: Request, digest: str, raw: bytes) -> Response:
        behaviour = server.behaviour
        check_key(request)
        server.limit_rate()
        chance = server.chance(digest)
        await asyncio.sleep(behaviour.latency)
        if chance.happens("drop", behaviour.drop):
            request.scope["transport"].close()
        if chance.happens("error", behaviour.errors):
            status = chance.pick("error", (500, 502, 503))
            if status == 502:
                return HTMLResponse("<html><h1>502 Bad Gateway</h1></html>", 502)
            raise Refusal(status, "The engine is currently overloaded.")
        completion = complete(behaviour, json.loads(raw), chance)
        return JSONResponse({"id": f"chatcmpl-{digest[:24]}", "created": int(time.time()), **completion})

    app = FastAPI(openapi_url=None)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> Response:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.post("/v1/chat/completions")
    async def create_completion(request: Request) -> Response:
        raw = await request.body()
        digest = hashlib.sha256(raw).hexdigest()
        server.requests += 1
        server.in_flight += 1
        server.in_flight_max = max(server.in_flight_max, server.in_flight)
        try:
            response = await respond(request, digest, raw)
        except Refusal as refusal:
            response = await refuse(request, refusal)
        finally:
            server.in_flight -= 1
        # A client that went away has no answer.
        if not request.scope["transport"].is_closing():
            server.status[str(response.status_code)] += 1
            if response.status_code == 200:
                server.answers.append((digest, time.time()))
        return response

    app.include_router(_files_and_batches(server), prefix="/v1", dependencies=[Depends(check_key)])
    return app


def _files_and_batches(server: Server) -> APIRouter:
    router = APIRouter()

    def find(kind: dict[str, Any], key: str) -> Any:
        if key not in kind:
            raise Refusal(404, f"No such object: {key}", None, "id")
        return kind[key]

    @router.get("/models")
    async def list_models() -> Json:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model"} for name in server.behaviour.models],
        }

    @router.post("/files")
    async def upload(file: UploadFile, request: Request) -> Json:
        purpose = str((await request.form())["purpose"])
        return server.add_file(file.filename or "", await file.read(), purpose)

    @router.delete("/files/{key}")
    async def delete(key: str) -> Json:
        find(server.files, key)
        del server.files[key]
        return {"id": key, "object": "file", "deleted": True}

    @router.get("/files/{key}/content")
    async def content(key: str) -> Response:
        return Response(find(server.files, key)[1])

    @router.post("/batches")
    async def create(request: Request) -> Json:
        order = await request.json()
        info, lines = find(server.files, order["input_file_id"])
        if order["endpoint"] != "/v1/chat/completions" or info["purpose"] != "batch":
            raise Refusal(400, "Invalid 'endpoint' or 'purpose'.", "invalid_value")
        data = {
            "id": f"batch_{len(server.batches) + 1:06}",
            "object": "batch",
            "status": "validating",
            **order,
        }
        data |= {
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "created_at": int(time.time()),
        }
        data["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
        server.batches[data["id"]] = Batch(data, lines.splitlines())
        return data

    @router.get("/batches")
    async def page(limit: int = 20, after: str = "") -> Json:
        keys = sorted(server.batches, reverse=True)
        keys = keys[keys.index(after) + 1 if after else 0 :]
        data = [server.look_at(server.batches[key]) for key in keys[:limit]]
        return {"object": "list", "data": data, "has_more": len(keys) > limit}

    @router.get("/batches/{key}")
    async def look(key: str) -> Json:
        return server.look_at(find(server.batches, key))

    return router


@contextmanager
def serve(behaviour: Behaviour | None = None) -> Iterator[Server]:
    """A server for as long as the context lasts."""
    server = Server(behaviour or Behaviour())
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    config = uvicorn.Config(Faults(build_app(server), server), log_level="critical", lifespan="off")
    runner = uvicorn.Server(config)
    runner.force_exit = True  # do not wait for connections that a client keeps open
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        runner.should_exit = True
        thread.join()
