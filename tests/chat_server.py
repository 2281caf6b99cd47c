"""A test server that speaks OpenAI's chat, files and batches API, and misbehaves as a test tells it to.

It runs in a thread of the test: `with serve(Behaviour(latency=0.1)) as server: ... server.url ...`.
"""

import asyncio
import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from chat_answers import Behaviour, Chance, Refusal, complete


class Server:
    """The state of a server, which tests read and change.

    Attributes:
        url: where clients find it.
        requests, status: of requests for completions since the last reset, their number and those of
            each status of an answer.
        answers: of every completion that a client got: the hash of its request, and the time.
        asks, bodies: of every request for a completion, its body and the time; and bodies by their hash.
        fault: names what happens to a request of `METHOD /path`: `deny` answers 404; `break` does the
            work, and closes the connection amid the answer.
    """

    def __init__(self, behaviour):
        self.url, self.in_flight = "", 0
        self._file_numbers = count(1)
        self.start_over(behaviour)

    def start_over(self, behaviour=None):
        self.behaviour, self.fault = behaviour or Behaviour(), lambda request: ""
        self.files, self.batches = {}, {}
        self.reset()

    def set(self, **changes):
        self.behaviour = replace(self.behaviour, **changes)

    def reset(self):
        self.status, self.answers, self.requests, self.in_flight_max = Counter(), [], 0, 0
        self.asks, self.bodies = [], {}
        self._attempts = Counter()

    def chance(self, digest):
        self._attempts[digest] += 1
        return Chance(digest, self._attempts[digest])

    def add_file(self, content, purpose):
        key = f"file-{next(self._file_numbers):06}"
        data = {"id": key, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        data |= {"filename": key, "purpose": purpose, "status": "processed"}
        self.files[key] = data, content
        return data

    def look_at(self, batch):
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
        else:
            self._finish(batch, count)
        return data

    def _finish(self, batch, count):
        rows = {"output": [], "error": [], "missing": []}
        for line in map(json.loads, batch.lines):
            place, row = self._answer_line(line["body"])
            rows[place].append({"custom_id": line["custom_id"], **row})
        completed = sum(row["response"]["status_code"] == 200 for row in rows["output"])
        counts = {"total": count, "completed": completed, "failed": count - completed}
        is_whole = all(row["response"] for row in rows["error"])
        status = "completed" if is_whole else self.behaviour.batch_failure
        batch.data |= {"status": status, "request_counts": counts}
        for place in ("output", "error"):
            random.Random(0).shuffle(rows[place])  # OpenAI's answers come in any order.
            content = b"".join(json.dumps(row).encode() + b"\n" for row in rows[place])
            if content:
                batch.data[f"{place}_file_id"] = self.add_file(content, "batch_output")["id"]

    def _answer_line(self, body):
        """Where the row of a line goes (`missing` for nowhere), and the row."""
        chance = self.chance(hashlib.sha256(json.dumps(body).encode()).hexdigest())
        if chance.happens("failure", self.behaviour.batch_failures):
            if self.behaviour.batch_failure in ("expired", "cancelled"):
                return "error", {"response": None, "error": {"code": "batch_expired"}}
            place, status, reply = self.behaviour.batch_failure, 500, {}
        else:
            try:
                place, status, reply = "output", 200, complete(self.behaviour, body, chance)
            except Refusal as refusal:
                place, status, reply = "error", refusal.status, refusal.body
        return place, {"response": {"status_code": status, "body": reply}, "error": None}


class Faults:
    """Middleware that refuses wrong keys, and breaks the connections of requests that a test names."""

    def __init__(self, app, server):
        self.app, self.server = app, server

    async def __call__(self, scope, receive, send):
        transport = scope["transport"] = send.__self__.transport
        fault = self.server.fault(f"{scope['method']} {scope['path']}")

        async def send_broken(message):
            body = message.get("body", b"")
            await send({**message, "body": body[: len(body) // 2], "more_body": True})
            if body:
                transport.close()

        key, headers = self.server.behaviour.require_key, dict(scope["headers"])
        sent = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        if key is not None and sent != key:
            error = {"message": f"Incorrect API key provided: {sent}.", "code": "invalid_api_key"}
            await JSONResponse({"error": error}, 401)(scope, receive, send)
        elif fault == "deny":
            await JSONResponse({"error": {"message": "Not Found"}}, 404)(scope, receive, send)
        else:
            await self.app(scope, receive, send_broken if fault else send)


def build_app(server):
    def find(objects, key):
        if key not in objects:
            raise Refusal(404, f"No such object: {key}", None, "id")
        return objects[key]

    async def respond(request, digest, raw):
        behaviour, chance = server.behaviour, server.chance(digest)
        await asyncio.sleep(behaviour.latency)
        if chance.happens("error", behaviour.errors):
            status = chance.pick("error", (429, 500, 502, 503, None))
            if status == 502:
                return HTMLResponse("<html><h1>502 Bad Gateway</h1></html>", 502)
            if status:
                raise Refusal(status, "Too many calls at a time.", **{"retry-after-ms": "50"})
            request.scope["transport"].close()
        completion = complete(behaviour, json.loads(raw), chance)
        return JSONResponse({"id": f"chatcmpl-{digest[:24]}", "created": int(time.time()), **completion})

    async def refuse(request, refusal):
        if isinstance(refusal.body, str):
            return Response(refusal.body, refusal.status, refusal.headers)
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    async def create_completion(request):
        raw = await request.body()
        digest = hashlib.sha256(raw).hexdigest()
        server.requests += 1
        server.asks.append((raw, time.time()))
        server.bodies[digest] = raw
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
            server.status[response.status_code] += 1
            if response.status_code == 200:
                server.answers.append((digest, time.time()))
        return response

    async def list_models(request):
        return JSONResponse({"object": "list", "data": [{"id": name} for name in server.behaviour.models]})

    async def upload(request):
        form = await request.form()
        return JSONResponse(server.add_file(await form["file"].read(), form["purpose"]))

    async def use_file(request):
        key = request.path_params["key"]
        content = find(server.files, key)[1]
        if request.method == "GET":
            return Response(content)
        del server.files[key]
        return JSONResponse({"id": key, "object": "file", "deleted": True})

    async def create_batch(request):
        order = await request.json()
        info, lines = find(server.files, order["input_file_id"])
        if order["endpoint"] != "/v1/chat/completions" or info["purpose"] != "batch":
            raise Refusal(400, "Invalid 'endpoint' or 'purpose'.", "invalid_value")
        data = {"id": f"batch_{len(server.batches) + 1:06}", "object": "batch", "status": "validating"}
        data |= {"created_at": int(time.time()), **order}
        data |= dict.fromkeys(("output_file_id", "error_file_id", "errors"))
        data["request_counts"] = dict.fromkeys(("total", "completed", "failed"), 0)
        # Of a batch: what the API shows, the lines of its file, and how often it was looked at.
        server.batches[data["id"]] = SimpleNamespace(data=data, lines=lines.splitlines(), polls=0)
        return JSONResponse(data)

    async def list_batches(request):
        data = [server.look_at(batch) for batch in reversed(server.batches.values())]
        return JSONResponse({"object": "list", "data": data, "has_more": False})

    async def look(request):
        return JSONResponse(server.look_at(find(server.batches, request.path_params["key"])))

    routes = [
        Route("/v1/chat/completions", create_completion, methods=["POST"]),
        Route("/v1/models", list_models),
        Route("/v1/files", upload, methods=["POST"]),
        Route("/v1/files/{key}", use_file, methods=["DELETE"]),
        Route("/v1/files/{key}/content", use_file),
        Route("/v1/batches", create_batch, methods=["POST"]),
        Route("/v1/batches", list_batches),
        Route("/v1/batches/{key}", look),
    ]
    return Starlette(routes=routes, exception_handlers={Refusal: refuse})


@contextmanager
def serve(behaviour=None):
    """A server for as long as the context lasts."""
    server = Server(behaviour)
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
