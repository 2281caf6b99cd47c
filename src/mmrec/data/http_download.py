"""One photo from the net: limits on bytes, time, redirects and tries, whatever the server does."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import httpcore2
import httpx2
from pydantic import BaseModel, PositiveFloat, PositiveInt

from mmrec.data.public_addresses import PublicBackend, parse_url
from mmrec.errors import PhotoError

__all__ = ["DownloadLimits", "TransientError", "connection_pool", "download"]

_WAITS = (0.5, 2.0)  # seconds before the second try, and before the third
_REDIRECTS = 5
_TIMEOUTS = {"connect": 10.0}  # seconds for one address, so that the next one has its turn


class TransientError(PhotoError):
    """A failure that may pass: another try, or another run, may fetch the photo."""


class DownloadLimits(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What one photo may cost, and where it may come from."""

    max_bytes: PositiveInt = 10_000_000
    """Bytes of a photo above which it is refused."""
    max_pixels: PositiveInt = 40_000_000
    """Pixels of a photo above which it is refused."""
    in_flight: PositiveInt = 8
    """Photos that are fetched at the same time."""
    timeout: PositiveFloat = 60.0
    """Seconds of one photo, with all redirects and tries."""
    allow_private: bool = False
    """Also fetch from private addresses (your own network), and from other ports than 80 and 443."""


def connection_pool(limits: DownloadLimits) -> httpcore2.AsyncConnectionPool:
    """Return a pool of connections to the public net: no proxies, no cookies, no credentials."""
    return httpcore2.AsyncConnectionPool(
        ssl_context=httpcore2.default_ssl_context(),  # made here, or each connection would make its own
        max_connections=limits.in_flight,
        network_backend=PublicBackend(limits.allow_private),
    )


async def download(
    address: str, pool: httpcore2.AsyncConnectionPool, limits: DownloadLimits
) -> bytes:
    """Return the body at a URL, as the server sent it.

    Raises:
        Passing: the net or the server failed, at the last try too, or time was up.
        PhotoError: the URL, an address, a redirect or the answer is refused for good.
    """
    try:
        async with asyncio.timeout(limits.timeout):
            for wait in _WAITS:
                with suppress(TransientError):
                    return await _follow(address, pool, limits)
                await asyncio.sleep(wait)
            return await _follow(address, pool, limits)
    except TimeoutError:
        raise TransientError(f"timeout: not done after {limits.timeout:g} s") from None


async def _follow(
    address: str, pool: httpcore2.AsyncConnectionPool, limits: DownloadLimits
) -> bytes:
    url, place = httpx2.URL(), address
    for _ in range(1 + _REDIRECTS):
        url = parse_url(place, url, limits.allow_private)
        if isinstance(answer := await _exchange(url, pool, limits.max_bytes), bytes):
            return answer
        place = answer
    raise PhotoError(f"redirects: more than {_REDIRECTS}")


async def _exchange(
    url: httpx2.URL, pool: httpcore2.AsyncConnectionPool, max_bytes: int
) -> bytes | str:
    """Return the body, or where the server redirects to."""
    # The parts of one parsed URL, never its text, so that nothing reads it a second and different way.
    target = httpcore2.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    headers = [(b"Host", url.netloc), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"mmrec")]
    request = pool.stream("GET", target, headers=headers, extensions={"timeout": _TIMEOUTS})
    try:
        async with request as response:
            fields = httpx2.Headers(response.headers)
            if response.status // 100 == 3 and "location" in fields:
                return fields["location"]
            if response.status in (408, 425, 429) or response.status >= 500:
                raise TransientError(f"HTTP {response.status}")
            if response.status != 200:
                raise PhotoError(f"HTTP {response.status}")
            body = bytearray()
            async for (
                chunk
            ) in response.aiter_stream():  # at most 64 kB each; never decoded (gzip bombs)
                body += chunk
                if len(body) > max_bytes:
                    raise PhotoError(f"too large: more than {max_bytes} bytes")
            return bytes(body)
    except PhotoError:
        raise
    except Exception as error:  # of sockets, TLS and the parser of HTTP, on whatever a server sends
        raise TransientError(f"connection: {error!r}") from error
