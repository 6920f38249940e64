"""Running the server: an address with a token, a browser, and an end."""

import ipaddress
import os
import secrets
import socket
import sys
import threading
import time
import webbrowser
from dataclasses import dataclass, field
from typing import Any

from wsistain.errors import ConfigError
from wsistain.viewing.gallery import Gallery

INSTALL = "wsistain view needs Starlette and uvicorn, which are not installed; run: pip install 'wsistain[view]'"


def check_installed() -> None:
    """ConfigError where the extra `view` is not installed."""
    try:
        import starlette
        import uvicorn
    except ImportError:
        raise ConfigError(INSTALL) from None
    del starlette, uvicorn


@dataclass
class Served:
    """A server: its address, and what ends it.

    url  : with the token.
    seen : when somebody last asked, as `time.monotonic`; `was_asked`: whether anybody did.
    """

    url: str
    token: str
    port: int
    _server: Any
    _socket: socket.socket
    seen: float = field(default_factory=time.monotonic)
    was_asked: bool = False
    _thread: threading.Thread | None = None

    def run(self) -> None:
        """Answer until Ctrl-C."""
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Answer on a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self.run, name="view", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what `start` began; safe to repeat."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._socket.close()

    def wait_until_unseen(self, seconds: float) -> None:
        """Return when nobody has asked for so long."""
        while (left := self.seen + seconds - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))


def serve(
    gallery: Gallery, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None, ancestors: str = "'none'"
) -> Served:
    """A server that listens at `host`; nothing is answered before `run` or `start`.

    port : 0 takes a free one. token : None makes one. ancestors : see `Guard`.
    ConfigError where the port is taken, the host is not this machine's, or the extra is missing.
    """
    check_installed()
    import uvicorn

    from wsistain.viewing.app import make_app
    from wsistain.viewing.guard import own_names

    listening = _listen(host, port)
    port = int(listening.getsockname()[1])
    token = token or secrets.token_urlsafe(24)
    # Names under which a page may ask; where every address of the machine is listened to, each of them.
    anywhere = host in ("0.0.0.0", "::", "")
    served: Served

    def noted() -> None:
        served.seen, served.was_asked = time.monotonic(), True

    app = make_app(
        gallery,
        token=token,
        hosts=own_names(socket.gethostname() if anywhere else host),
        any_address=anywhere,
        ancestors=ancestors,
        on_request=noted,
    )
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    shown = socket.gethostname() if anywhere else f"[{host}]" if ":" in host else host
    served = Served(f"http://{shown}:{port}/?token={token}", token, port, uvicorn.Server(config), listening)
    return served


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port} is none; wanted 1 to 65535, or 0 for a free one")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot listen at {host}:{port} ({said.lower()}); try another --port, or none for a free one"
        ) from None
    listening.set_inheritable(False)
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_browser(url: str) -> bool:
    """Open a browser where there is a screen to show it on; whether one was asked to open."""
    has_screen = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if not has_screen:
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False
