"""What stands between the network and the pages: who may ask, for what, and what a browser may do with the answer.

A page on another site can make a browser ask this machine, and by DNS rebinding read the answer under its own name:
so the Host header must name this server. Nothing is written by any request, and all but GET and HEAD are refused.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "whet-board"
HEADERS = {
    # Nothing but this server's own files: no inline script or style, no frame, no form to elsewhere.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-dns-prefetch-control": "off",
}


class Guard:
    """ASGI middleware.

    names: host names that the server goes by, besides localhost and the literal addresses of `addresses`.
    addresses: whether any IP address is taken as a name; else those of loopback alone.
    token: that a request must carry, as ?token= once and as a cookie from then on; empty: none.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = (), addresses: bool = False, token: str = "") -> None:
        self._app, self._token, self._addresses = app, token, addresses
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer it here."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = {"cache-control": "no-store", **HEADERS}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in more.items()
                                                             if k.encode() not in given)]
            await send(message)

        if scope["method"] not in ("GET", "HEAD"):
            await _answer(safely, 405, "This page only reads: GET and HEAD.", {"allow": "GET, HEAD"})
        elif not self.is_ours(headers.get("host", "")):
            await _answer(safely, 421, "whet board goes by another name. Use the address that it printed; where it is "
                                       "reached by a name of its own, start it with --allow-host NAME.")
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and \
                headers.get("sec-fetch-mode", "navigate") != "navigate":
            await _answer(safely, 403, "Other sites may not ask for this.")
        elif self._token and not self._knows(headers):
            await self._admit(scope, safely)
        else:
            await self._app(scope, receive, safely)

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").rstrip(".").lower()
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._addresses or address.is_loopback

    def _knows(self, headers: dict[str, str]) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._token.encode())

    async def _admit(self, scope: Scope, send: Send) -> None:
        """Exchange the token in the address for a cookie, so that it stays in no history and no log."""
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in asked if name == "token"), "")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            await _answer(send, 403, "This board asks for a token: open the address that whet board printed.")
            return
        rest = urlencode([(name, value) for name, value in asked if name != "token"])
        # A path that begins with // would lead to another host.
        path = "/" + scope["raw_path"].decode("latin-1").lstrip("/")
        await _answer(send, 303, "", {"location": path + (f"?{rest}" if rest else ""),
                                      "set-cookie": f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"})


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_names(host: str) -> set[str]:
    """Names that this machine goes by, and the one that it is to listen on."""
    return {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()} - {""}


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = (text + "\n").encode() if text else b""
    every = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status,
                "headers": [(k.encode(), v.encode("latin-1")) for k, v in every.items()]})
    await send({"type": "http.response.body", "body": body})
