"""Download of a file by URL, which anyone may have written: public addresses only, within limits."""

import asyncio
import ipaddress
import socket
from contextlib import suppress
from typing import Any

import anyio
import httpcore2
import httpx2
from pydantic import BaseModel, PositiveFloat, PositiveInt

from mmrec.errors import PhotoError

_RETRY_DELAYS = (0.5, 2.0)  # seconds before the second try, and before the third


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


def is_public(address: str) -> bool:
    """Tell whether an IP address is public; of IPv6 only global unicast, without embedded IPv4."""
    # Networks that Python (some versions or all) calls global, and that no photo comes from.
    excluded = (
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service is in it
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "168.63.129.16/32",  # Azure's metadata service, public by its number alone
        "2002::/16",  # 6to4: an IPv4 address of anyone's choice
        "3fff::/20",  # documentation
    )
    ip = ipaddress.ip_address(address)
    unicast = ip.version == 4 or ip in ipaddress.ip_network("2000::/3")
    routed = ip.is_global and not ip.is_multicast and unicast
    return routed and not any(ip in ipaddress.ip_network(network) for network in excluded)


class _PublicBackend(httpcore2.AnyIOBackend):
    """Connects to the public address that it checked, against DNS rebinding, or to any if allowed."""

    allow_private = False

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore2.AsyncNetworkStream:
        # The resolver also reads odd spellings of addresses, such as 0x7f.1.
        resolved = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(socket_address[0]) for *_, socket_address in resolved]
        for address in addresses:
            if not self.allow_private and not is_public(address):
                raise PhotoError(f"address not public: {address}")
        for address in addresses:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await super().connect_tcp(address, port, *args, **options)
        raise httpcore2.ConnectError("no address of the host answers")


def connection_pool(limits: DownloadLimits) -> httpcore2.AsyncConnectionPool:
    """Return a pool of connections to public addresses: no proxies, no cookies, no credentials."""
    backend, context = _PublicBackend(), httpcore2.default_ssl_context()
    backend.allow_private, count = limits.allow_private, limits.in_flight
    return httpcore2.AsyncConnectionPool(context, max_connections=count, network_backend=backend)


async def download(
    address: str, pool: httpcore2.AsyncConnectionPool, limits: DownloadLimits
) -> bytes:
    """Return the body at a URL; raises a TransientError, or a PhotoError if it is refused for good."""
    try:
        async with asyncio.timeout(limits.timeout):
            for delay in _RETRY_DELAYS:
                with suppress(TransientError):
                    return await _follow_redirects(address, pool, limits)
                await asyncio.sleep(delay)
            return await _follow_redirects(address, pool, limits)
    except TimeoutError:
        raise TransientError(f"timeout: not done after {limits.timeout:g} s") from None


async def _follow_redirects(
    address: str, pool: httpcore2.AsyncConnectionPool, limits: DownloadLimits
) -> bytes:
    url, max_redirects = httpx2.URL(), 5
    for _ in range(1 + max_redirects):
        try:
            url = url.join(address)
        except (httpx2.InvalidURL, ValueError) as error:
            raise PhotoError("URL not allowed: it cannot be parsed") from error
        if url.scheme not in ("http", "https") or not url.raw_host or url.userinfo:
            raise PhotoError("URL not allowed: not http(s), no host, or a name or password in it")
        if url.port not in (None, 80, 443) and not limits.allow_private:
            raise PhotoError("URL not allowed: a port other than 80 and 443")
        response = await _get(url, pool, limits.max_bytes)
        if isinstance(response, bytes):
            return response
        address = response
    raise PhotoError(f"redirects: more than {max_redirects}")


async def _get(url: httpx2.URL, pool: httpcore2.AsyncConnectionPool, max_bytes: int) -> bytes | str:
    """Return the body, or the address that the server redirects to."""
    # The parts of the parsed URL, not its text, so that nothing parses it in a different way.
    scheme, host, path = url.raw_scheme, url.raw_host, url.raw_path
    target = httpcore2.URL(scheme=scheme, host=host, port=url.port, target=path)
    # Without encodings, since a small gzip body may unpack to any size.
    headers = [(b"Host", url.netloc), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"mmrec")]
    # In seconds; short, so that the next address gets its turn.
    extensions = {"timeout": {"connect": 10.0}}
    try:
        async with pool.stream("GET", target, headers=headers, extensions=extensions) as response:
            fields, status = httpx2.Headers(response.headers), response.status
            if status // 100 == 3 and "location" in fields:
                return fields["location"]
            if status in (408, 425, 429) or status >= 500:
                raise TransientError(f"HTTP {status}")
            if status != 200:
                raise PhotoError(f"HTTP {status}")
            body = bytearray()
            async for chunk in response.aiter_stream():  # at most 64 kB each
                body += chunk
                if len(body) > max_bytes:
                    raise PhotoError(f"too large: more than {max_bytes} bytes")
            return bytes(body)
    except PhotoError:
        raise
    except Exception as error:  # of sockets, TLS, or the HTTP parser
        raise TransientError(f"connection: {error!r}") from error
