"""The public net: what a URL may name, and connections that go nowhere else."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import Any

import anyio
import httpcore2
import httpx2

from mmrec.errors import PhotoError

__all__ = ["PublicBackend", "is_public", "parse_url"]

_UNICAST = ipaddress.ip_network("2000::/3")
_HIDDEN = (
    ipaddress.ip_network(
        "192.0.0.0/24"
    ),  # protocol assignments; Oracle's metadata service is in it
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, withdrawn
    ipaddress.ip_network(
        "168.63.129.16/32"
    ),  # Azure's metadata service, public by its number alone
    ipaddress.ip_network("2002::/16"),  # 6to4: an IPv4 address of anyone's choice
    ipaddress.ip_network("3fff::/20"),  # documentation
)
"""Networks that Python (some versions or all) calls global, and that no photo comes from."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is of the public net; of IPv6 only global unicast is, not embedded IPv4."""
    ip = ipaddress.ip_address(address)
    routed = ip.is_global and not ip.is_multicast and (ip.version == 4 or ip in _UNICAST)
    return routed and not any(ip in network for network in _HIDDEN)


def parse_url(address: str, base: httpx2.URL, allow_private: bool) -> httpx2.URL:
    """Return the URL that a text spells, relative to `base`.

    Raises:
        PhotoError: not http(s) to a host without credentials, or to another port than 80 and 443.
    """
    try:
        url = base.join(address)
    except (httpx2.InvalidURL, ValueError) as error:
        raise PhotoError("URL not allowed: it cannot be parsed") from error
    plain = url.scheme in ("http", "https") and url.raw_host and not url.userinfo
    if not plain or not (allow_private or url.port in (None, 80, 443)):
        raise PhotoError("URL not allowed: scheme, port, no host, or a name or password in it")
    return url


class PublicBackend(httpcore2.AnyIOBackend):
    """Connects to hosts of the public net only, or to any with `allow_private`.

    A host is resolved once a connection, and the connection goes to an address that was checked: a name
    server that answers otherwise the next time (DNS rebinding) gains nothing. `Host` and the name in the
    certificate stay those of the URL.
    """

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **kw: Any
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of a host that answers; PhotoError if any of them is not public."""
        found = await anyio.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )  # odd spellings of numbers too
        addresses = [str(entry[4][0]) for entry in found]
        hidden = [address for address in addresses if not is_public(address)]
        if hidden and not self._allow_private:
            raise PhotoError(f"address not public: {hidden[0]}")
        for address in addresses:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await super().connect_tcp(address, port, *args, **kw)
        raise httpcore2.ConnectError("no address of the host answers")
