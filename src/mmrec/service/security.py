"""Checks that every request passes first: API key, rate, size; and the headers of every response."""

from __future__ import annotations

import hmac
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmrec.config import ServeConfig

__all__ = ["RequestGuard"]

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class RateLimiter:
    """A token bucket for every client.

    A full bucket has `per_minute` tokens, and an empty one is full again after a minute. Of more
    than `max_clients` buckets the one that was used longest ago goes first.
    """

    def __init__(self, per_minute: int, max_clients: int = 10_000) -> None:
        self._per_minute, self._max_clients = per_minute, max_clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, client: str) -> bool:
        """Take a token from the client's bucket; whether there was one."""
        now = time.monotonic()
        tokens, last_use = self._buckets.pop(client, (float(self._per_minute), now))
        tokens = min(self._per_minute, tokens + (now - last_use) * self._per_minute / 60)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return allowed


class RequestGuard:
    """ASGI middleware that refuses requests without a key or beyond the limits, and adds headers.

    Args:
        app: the application behind it.
        keys: API keys, one of which `/v1` requires; without keys it is open.
        limits: its `per_minute` and `max_body`; `max_photo` holds for `/v1/items`.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], limits: ServeConfig) -> None:
        self._app, self._keys = app, [key.encode() for key in keys]
        self._limits, self._limiter = limits, RateLimiter(limits.per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", request_id):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                response_headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    response_headers.setdefault(name, value)
            await send(message)

        is_photo = scope["path"] == "/v1/items"
        max_bytes = self._limits.max_photo if is_photo else self._limits.max_body
        try:
            self._check(scope, headers, max_bytes)
            await self._app(scope, _limit_body(receive, max_bytes), send_with_headers)
        except HTTPException as error:
            body = {"error": error.detail, "request_id": request_id}
            response = JSONResponse(body, error.status_code, error.headers)
            await response(scope, receive, send_with_headers)

    def _check(self, scope: Scope, headers: Headers, max_bytes: int) -> None:
        client = (scope.get("client") or ("", 0))[0]
        if scope["path"].startswith("/v1/") and self._keys:
            client = self._check_key(headers.get("authorization", ""))
        is_monitoring = scope["path"] in ("/health", "/ready", "/metrics")
        if not is_monitoring and not self._limiter.allow(client):
            limit = f"at most {self._limits.per_minute} requests a minute are allowed"
            raise HTTPException(429, f"{limit}; try again later", {"Retry-After": "5"})
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > max_bytes:
            raise _body_too_large(max_bytes)

    def _check_key(self, authorization: str) -> str:
        scheme, _, key = authorization.partition(" ")
        # Compare with every key, each in constant time, so that the time taken reveals nothing.
        matches = sum(hmac.compare_digest(key.strip().encode(), allowed) for allowed in self._keys)
        if scheme.lower() != "bearer" or not matches:
            message = "an API key is required: Authorization: Bearer KEY"
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})
        return key


def _body_too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body may have at most {max_bytes} bytes")


def _limit_body(receive: Receive, max_bytes: int) -> Receive:
    """Count the bytes as they come, since a client can leave out or understate `Content-Length`."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise _body_too_large(max_bytes)
        return message

    return limited
