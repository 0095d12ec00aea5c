"""A page for this machine's browser: served on the loopback interface, behind an address that cannot be guessed.

Other machines cannot connect (an SSH tunnel can). A request must name this machine as its host, so that a website which
resolves its own name to 127.0.0.1 gets nothing, and carry the secret part of the address, which other users of the
machine and other pages of the browser do not know.
"""

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from evovlm.errors import OutputError

_HOSTS = frozenset({"127.0.0.1", "localhost"})
_LONGEST_FORM_BYTES = 10_000
_TIMEOUT_S = 30
_CHECKS_S = 0.05
"""How often the server looks whether it is to stop; Python's half a second makes everybody wait at the end."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page(Protocol):
    """What is shown, and what a form on it does. Both are called by one thread at a time."""

    def html(self) -> str:
        """Return the page as it is now."""
        ...

    def take(self, form: Mapping[str, str]) -> None:
        """Take what a person sent; the page is shown again afterwards. Forms that do not fit are ignored."""
        ...


@contextmanager
def serving(page: Page, *, port: int = 0) -> Iterator[str]:
    """Yield the page's address, and serve it in threads of its own meanwhile; port 0 is any that is free.

    Raises OutputError for a port that is taken.
    """
    secret = secrets.token_urlsafe(16)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(page, f"/{secret}/"))
    except (OSError, OverflowError) as error:
        raise OutputError(f"--port {port}: cannot be used ({error}).\n    Choose another, or leave it out.") from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(_CHECKS_S,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{secret}/"
        finally:
            # A server that is closed before it has stopped asks its closed socket for ever.
            server.shutdown()
            thread.join()


def _handler(page: Page, path: str) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """Answers the requests for one page."""

        timeout = _TIMEOUT_S
        server_version, sys_version = "evovlm", ""

        def do_GET(self) -> None:
            """Show the page."""
            if self._is_allowed():
                with lock:
                    self._send(HTTPStatus.OK, page.html())

        def do_POST(self) -> None:
            """Take a form, and show the page again."""
            if not self._is_allowed():
                return
            length = self.headers.get("Content-Length", "")
            if not length.isascii() or not length.isdigit() or int(length) > _LONGEST_FORM_BYTES:
                self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            sent = self.rfile.read(int(length)).decode("utf-8", errors="replace")
            with lock:
                page.take(dict(parse_qsl(sent, keep_blank_values=True)))
            self._send(HTTPStatus.SEE_OTHER, location=path)

        def log_message(self, *_: object) -> None:
            """Write nothing: the address is a secret."""

        def _is_allowed(self) -> bool:
            origin = self.headers.get("Origin")
            hosts = [_host("//" + self.headers.get("Host", ""))]
            # A form's page may send the origin "null", as no referrer is sent.
            hosts += [_host(origin)] if origin is not None and origin != "null" else []
            if any(host not in _HOSTS for host in hosts):
                self._send(HTTPStatus.FORBIDDEN)
                return False
            if not secrets.compare_digest(self.path.encode(), path.encode()):
                self._send(HTTPStatus.NOT_FOUND)
                return False
            return True

        def _send(self, status: HTTPStatus, html: str = "", *, location: str | None = None) -> None:
            content = html.encode("utf-8", errors="replace")
            self.send_response(status)
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            if location is not None:
                self.send_header("Location", location)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def _host(address: str) -> str:
    """Return the name of the host in an address, without the port; empty for one that cannot be read."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
