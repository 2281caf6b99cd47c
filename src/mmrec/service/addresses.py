"""Addresses of what has an id, whatever is in that id, and below the path of a proxy."""

import re
from typing import Any
from urllib.parse import quote, unquote, urlencode

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send


class _IdConvertor(Convertor[str]):
    regex = ".+"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


register_url_convertor("id", _IdConvertor())


class PathMiddleware:
    """Makes every path begin with that of the proxy, which may have taken it away.

    Slashes and percent signs stay escaped, for routes with `{...:id}`: those of ids part nothing.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root, raw = self._root_path, scope["raw_path"].decode("ascii", "replace")
            path = unquote(re.sub("%(?=2f|25)", "%25", raw, flags=re.IGNORECASE))
            if f"{path}/".startswith(f"{root}/"):
                path = path.removeprefix(root)
            scope["path"], scope["root_path"] = root + (path or "/"), root
        await self._app(scope, receive, send)


def item_address(root_path: str, kind: str, item: str, **query: Any) -> str:
    """The address of an item's `kind`: `places` or `photos`."""
    # Browsers and proxies resolve `..` in paths, and unescape slashes, but leave queries alone.
    if re.fullmatch(r"[^/\\%]*[^/\\%.][^/\\%]*", item, re.DOTALL):
        path = quote(item, safe="")
    else:
        path, query = "", {"item": item, **query}
    return f"{root_path}/{kind}/{path}" + (f"?{urlencode(query)}" if query else "")
