"""What every request goes through: an id, limits, keys, headers, a line in the log, Prometheus figures."""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "Meters"]

log = logging.getLogger("mmrec.service")
_CLIENTS = 10_000  # whose rates are remembered
_ALWAYS = ("/health", "/ready", "/metrics")  # for those who watch the service
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Meters:
    """Counts and times of requests, by route and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "mmrec_requests", "Requests answered.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "mmrec_request_seconds", "Time to answer.", ("route",), registry=self.registry
        )


class Guard:
    """ASGI middleware.

    Args:
        app: what answers.
        keys: API keys that open `/v1`; none: it is open.
        per_minute: requests that one client may make.
        max_body: bytes of a body, by path; under "" of all others.
        meters: where requests are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[str],
        per_minute: int,
        max_body: dict[str, int],
        meters: Meters,
    ) -> None:
        self._app, self._keys, self._meters = app, [key.encode() for key in keys], meters
        self._per_minute, self._max_body = per_minute, max_body
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, start = Headers(scope=scope), time.perf_counter()
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        try:
            self._check(scope, headers)
            await self._app(scope, self._limited(receive, self._most(scope)), answer)
        except HTTPException as refused:
            await _say(answer, refused.status_code, refused.detail, request_id)
        finally:
            self._note(scope, status, time.perf_counter() - start, request_id)

    def _check(self, scope: Scope, headers: Headers) -> None:
        client = (scope.get("client") or ("", 0))[0]
        if scope["path"].startswith("/v1/") and self._keys:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            # All of them are compared, each in constant time.
            same = sum(hmac.compare_digest(key.strip().encode(), one) for one in self._keys)
            if scheme.lower() != "bearer" or not same:
                raise HTTPException(401, "an API key is wanted: Authorization: Bearer KEY")
            client = key
        if scope["path"] not in _ALWAYS and not self._may(client):
            raise HTTPException(429, f"at most {self._per_minute} requests a minute; wait a little")
        if (size := headers.get("content-length", "0")).isdigit() and int(size) > self._most(scope):
            raise HTTPException(413, f"at most {self._most(scope)} bytes")

    def _most(self, scope: Scope) -> int:
        return self._max_body.get(scope["path"], self._max_body[""])

    def _may(self, client: str) -> bool:
        """Take one from the client's bucket, which fills up by itself (token bucket)."""
        now = time.monotonic()
        left, then = self._left.pop(client, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - then) * self._per_minute / 60)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return left >= 1

    @staticmethod
    def _limited(receive: Receive, most: int) -> Receive:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(413, f"at most {most} bytes")
            return message

        return limited

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        """Neither ids nor words of users come into the log or the figures: a route, not a path."""
        route, method = _route(scope), scope["method"] if scope["method"] in _METHODS else "other"
        self._meters.requests.labels(method, route, status).inc()
        self._meters.seconds.labels(route).observe(seconds)
        line = {"method": method, "route": route, "status": status, "request_id": request_id}
        log.info(json.dumps(line | {"ms": round(1000 * seconds, 1)}))


def _route(scope: Scope) -> str:
    """The template of the route that was found; nobody can make up new ones by asking for other paths."""
    if path := getattr(scope.get("route"), "path", None):
        return path
    if "endpoint" not in scope:  # refused before, redirected, or there is none
        return "none"
    # Only FastAPI's own routes leave themselves in the scope.
    mounted = "app_root_path" in scope
    return f"{scope['root_path']}/{{path:path}}" if mounted else scope["path"]


async def _say(send: Send, status: int, why: str, request_id: str) -> None:
    body = json.dumps({"error": why, "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += {401: [(b"www-authenticate", b"Bearer")], 429: [(b"retry-after", b"5")]}.get(
        status, []
    )
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
