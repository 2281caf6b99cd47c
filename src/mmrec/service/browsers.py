"""Keeps out what pages of other sites make a visitor's browser do."""

import re
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from mmrec.config import ServeConfig

_LOOPBACK = ("localhost", "*.localhost", "127.0.0.1", "::1")


class BrowserGuard:
    """Refuses names that others own, and writes that come from pages of other sites.

    It is for services without keys: a browser sends no key that it was not given.
    """

    def __init__(self, config: ServeConfig) -> None:
        names = filter(None, map(str.strip, config.allowed_hosts.lower().split(",")))
        self._names = {*_LOOPBACK, config.host.lower(), *names}
        # An address, unlike a name, is nothing that somebody else can make point here.
        self._accepts_addresses = config.host in ("0.0.0.0", "::")

    def check(self, method: str, headers: Headers) -> None:
        """Raise an HTTPException for a request that a page of another site may have made."""
        host = headers.get("host", "")
        if host and not self._is_ours(_without_port(host)):
            # By "DNS rebinding" a page reads what its own name, now pointing here, answers.
            raise HTTPException(
                400, "this host name is not served; see mmrec serve --allowed-hosts"
            )
        if method in ("GET", "HEAD", "OPTIONS"):
            return
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        # Browsers send the former only over TLS or loopback, the latter with every such request.
        is_foreign = site not in (None, "same-origin", "none")
        if is_foreign or (origin is not None and _authority(origin) != _authority(f"//{host}")):
            message = "the page that sends this is not of this service"
            raise HTTPException(403, f"{message}; a proxy in front must pass the Host header on")

    def _is_ours(self, host: str) -> bool:
        if self._accepts_addresses and _is_address(host):
            return True
        parents = [f"*{host[dot:]}" for dot, sign in enumerate(host) if sign == "."]
        return not self._names.isdisjoint(["*", host, *parents])


def _authority(origin: str) -> str:
    """Host and port of an origin, without the port that its scheme implies."""
    return re.sub(r":(?:80|443)$", "", origin.lower().partition("//")[2])


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host.lower()).strip("[]").removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
