"""Who may ask: the token, the name of the host, where a page comes from; and what every answer says to browsers."""

import hmac
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/page/", "/favicon.ico")
"""What anybody may have: the program of the page, which is public."""

OSD_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""Hash of the one style sheet that OpenSeadragon 6.1.1 puts into a page itself (for touch)."""

POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' '{OSD_STYLE}'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors "
)
_LOG = logging.getLogger(__name__)


class Guard:
    """Refuses whoever is not meant, before the application sees anything; adds the headers; no fault leaves with a trace.

    token     : what the address holds; asked for in everything but the program of the page.
    hosts     : names by which this machine may be called; `any_address` allows every numeric one too.
    ancestors : pages that may hold this one in a frame (Content-Security-Policy, frame-ancestors).

    A page elsewhere can make a browser ask here, but not under our name (Host) nor from our origin (Origin), and it does
    not know the token.
    """

    def __init__(
        self, app: App, *, token: str, hosts: tuple[str, ...], any_address: bool = False, ancestors: str = "'none'"
    ) -> None:
        self._app, self._token = app, token.encode()
        self._hosts, self._any_address = frozenset(h.lower() for h in hosts), any_address
        self._headers = [
            (b"content-security-policy", (POLICY + ancestors).encode("ascii")),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
        ]
        if ancestors == "'none'":
            self._headers.append((b"x-frame-options", b"DENY"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _say(with_headers, *refusal)
            return
        try:
            await self._app(scope, receive, with_headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asks gets an answer and no trace
            _LOG.warning("view: %s %s: %s: %s", scope["method"], scope["path"], type(error).__name__, error)
            if not begun:
                await _say(with_headers, 500, "this could not be answered; the program that shows the page says why")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """(status, sentence) where a request is refused."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "only GET, HEAD and POST are answered"
        host = headers.get(b"host", [])
        if len(host) != 1 or not self._is_ours(host[0]):
            return 421, "this machine is not called that; open the address that wsistain printed"
        for origin in headers.get(b"origin", []):
            if not _is_same_place(origin, host[0]):
                return 403, "pages of other places may not ask here"
        site, mode = (headers.get(n, [b""])[0] for n in (b"sec-fetch-site", b"sec-fetch-mode"))
        if site in (b"cross-site", b"same-site") and mode != b"navigate":
            return 403, "pages of other places may not ask here"
        path = scope["path"]
        if not path.startswith(OPEN_PATHS) and not self._knows_token(scope, headers):
            return 403, "the token is missing or wrong; open the address that wsistain printed"
        return None

    def _is_ours(self, host: bytes) -> bool:
        name = _host_name(host)
        if name is None:
            return False
        if name in self._hosts:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _knows_token(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> bool:
        tried = [v.removeprefix(b"Bearer ").strip() for v in headers.get(b"authorization", [])]
        try:
            pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"), max_num_fields=64)
        except ValueError:
            pairs = []
        tried += [v.encode("utf-8", "replace") for name, v in pairs if name == "token"]
        return any(hmac.compare_digest(t, self._token) for t in tried)


def _host_name(host: bytes) -> str | None:
    """The name in a Host header, lower case, without its port; None where it is no such header."""
    try:
        parts = urlsplit(f"//{host.decode('ascii')}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.hostname and not (parts.path or parts.query or "@" in parts.netloc) else None


def _is_same_place(origin: bytes, host: bytes) -> bool:
    try:
        parts = urlsplit(origin.decode("ascii"))
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.decode("ascii", "replace").lower()


def own_names(host: str) -> tuple[str, ...]:
    """Names by which a machine that listens on `host` may be called."""
    return tuple(dict.fromkeys((host, *LOOPBACK, socket.gethostname(), socket.getfqdn())))


async def _say(send: Send, status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
