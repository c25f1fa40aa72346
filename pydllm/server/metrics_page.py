"""GET /metrics over plain HTTP, for a Prometheus server. Its own threads: a scrape never waits for the event loop."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

from pydllm.server.listen import PortError, check_address

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS = 16
"""At once; more are closed unanswered."""
TIMEOUT_SECONDS = 10.0
"""For a connection to send its request and to take the answer."""
POLL_SECONDS = 0.1
"""How soon the page notices that it is closed."""


class MetricsPage:
    """A listening page. Open to whoever reaches it; it shows numbers and the model's name only."""

    def __init__(self, host: str, port: int, render: Callable[[], bytes]) -> None:
        """Listens and answers from now on; port 0 takes any free one. Raises PortError."""
        family = check_address(host, port, field="metrics_port")

        class Handler(_Handler):
            body = staticmethod(render)

        class Server(_Server):
            address_family = family

        try:
            self._server = Server((host, port), Handler)
        except OSError:
            raise PortError(f"metrics_port: cannot listen on {host}:{port}") from None
        self.port: int = self._server.server_address[1]
        """The bound one."""
        threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="pydllm-metrics", daemon=True
        ).start()

    def close(self) -> None:
        """Stops listening. Idempotent."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Without the name lookup of HTTPServer, which may ask the network."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread per connection, up to the limit."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Frees the place at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT_SECONDS
    server_version = "pydllm"
    sys_version = ""

    @staticmethod
    def body() -> bytes:
        """The page."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """The page, and nothing else under any other path."""
        if self.path.split("?", 1)[0] != "/metrics":
            self.send_error(404)
            return
        text = self.body()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Scrapes are not logged."""
