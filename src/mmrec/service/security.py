"""What every request passes first: API key, rate, size; and headers of responses."""

import asyncio
import hmac
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmrec.config import ServeConfig
from mmrec.service.browsers import BrowserGuard

_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class RequestGuard:
    """Refuses requests beyond limits and, if there are keys, those without one."""

    max_clients = 10_000  # whose buckets are kept; that of the longest absence goes first

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[str],
        limits: ServeConfig,
        handle_error: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app, self._limits, self._handle_error = app, limits, handle_error
        self._keys = [key.encode() for key in keys]
        self._browsers = BrowserGuard(limits)
        # By client: tokens in its bucket, and when it took the last one.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", request_id):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_upload, size = path == "/v1/items", 0
        max_bytes = self._limits.max_photo if is_upload else self._limits.max_body

        def check_size(size: int) -> None:
            if size > max_bytes:
                raise HTTPException(413, f"the body may have at most {max_bytes} bytes")

        is_received, deadline = False, time.monotonic() + 6 * self._limits.client_seconds

        async def receive_limited() -> Message:
            # A client can leave out or understate `Content-Length`, so bytes are counted.
            nonlocal size, is_received
            seconds = None if is_received else deadline - time.monotonic()
            try:
                async with asyncio.timeout(seconds):
                    message = await receive()
            except TimeoutError:
                headers = {"Connection": "close"}
                raise HTTPException(408, "the body took too long", headers) from None
            size += len(message.get("body", b""))
            check_size(size)
            is_received = not message.get("more_body", False)
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                response_headers["X-Request-ID"] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    response_headers.setdefault(name, value)
            await send(message)

        try:
            client = (scope.get("client") or ("", 0))[0]
            if not self._keys:
                self._browsers.check(scope["method"], headers)
            if path.startswith("/v1/") and self._keys:
                client = self._check_key(headers.get("authorization", ""), client)
            if path not in ("/health", "/ready", "/metrics"):
                self._take_token(client)
            length = headers.get("content-length", "0")
            check_size(int(length) if length.isdecimal() else 0)
            # FastAPI has no HEAD for its routes; the server leaves the body of the response out.
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await self._app({**scope, "method": method}, receive_limited, send_with_headers)
        except HTTPException as error:
            response = await self._handle_error(Request(scope), error)
            await response(scope, receive, send_with_headers)

    def _check_key(self, authorization: str, address: str) -> str:
        """The key of a request, if it is one; wrong ones use up tokens of the client's address."""
        self._check_tokens(address)  # before it is compared: guesses are few, right or wrong
        scheme, _, key = map(str.strip, authorization.partition(" "))
        # Compare with every key in constant time, so that the time taken reveals nothing.
        matches = sum(hmac.compare_digest(key.encode(), allowed) for allowed in self._keys)
        if scheme.lower() != "bearer" or not matches:
            self._take_token(address)
            message = "an API key is required: Authorization: Bearer KEY"
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})
        return f"key {key}"

    def _check_tokens(self, client: str) -> float:
        """Tokens in a bucket, which has `per_minute` and is full again in a minute; a 429 if none."""
        capacity, now = self._limits.per_minute, time.monotonic()
        tokens, last_use = self._buckets.get(client, (float(capacity), now))
        tokens = min(capacity, tokens + (now - last_use) * capacity / 60)
        if tokens < 1:
            limit = f"at most {capacity} requests a minute are allowed"
            raise HTTPException(429, f"{limit}; try again later", {"Retry-After": "5"})
        return tokens

    def _take_token(self, client: str) -> None:
        tokens = self._check_tokens(client)
        self._buckets[client] = tokens - 1, time.monotonic()
        self._buckets.move_to_end(client)
        if len(self._buckets) > self.max_clients:
            self._buckets.popitem(last=False)
