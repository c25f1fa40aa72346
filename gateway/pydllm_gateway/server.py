"""The HTTP server of a gateway process: uvicorn, with our own socket, limits on connections, and drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import ssl
import sys
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pydllm_gateway.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from pydllm_gateway.engine import Engine
    from pydllm_gateway.settings import Settings

log = logging.getLogger("pydllm.gateway")

BACKLOG = 512
IDLE_SECONDS = 30
"""That an idle keep-alive connection stays open."""
LINGER_SECONDS = 2.0
"""That a refused client has to notice: until then what it still sends is read and dropped, not answered by a reset."""
CUT_GRACE = 1.0
"""Seconds that cut requests have to send their last bytes."""
_NOT_YET_VALID, _EXPIRED = 9, 10  # OpenSSL's verification results
_NOT_PEM = "expected PEM, and a key without a passphrase"
_PIPELINED_BYTES = 64 * 1024


class StartError(Exception):
    """The gateway cannot start; one line for the operator. `code` is the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class Gateway:
    """One server: listens from `start`, answers until `drain` is done. Belongs to the loop that started it."""

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.app: FastAPI = create_app(settings, engine)
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._socket is not None  # noqa: S101 - a caller's mistake
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listens. Raises StartError."""
        context = tls_context(self.settings)
        self._socket = bind(self.settings.host, self.settings.port)
        self._server = _Server(_config(self.app, self.settings, context))
        self._task = asyncio.create_task(self._server.serve([self._socket]))
        await self._server.listening.wait()

    def drain(self, timeout: float | None = None) -> None:
        """Not ready and closed for new connections from now; running requests have `timeout` seconds (settings')."""
        assert self._server is not None  # noqa: S101 - a caller's mistake
        seconds = self.settings.drain_timeout if timeout is None else timeout
        self.app.state.lifecycle.draining = True
        self._server.config.timeout_graceful_shutdown = seconds + CUT_GRACE  # type: ignore[assignment]
        asyncio.get_running_loop().call_later(seconds, self.app.state.lifecycle.cut.set)
        self._server.should_exit = True

    async def wait(self) -> None:
        """Until a drain is over."""
        assert self._task is not None  # noqa: S101 - a caller's mistake
        await self._task


def bind(host: str, port: int) -> socket.socket:
    """A listening address. Raises StartError when it cannot be had; a port in use is never shared."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise StartError(f"host {host!r} cannot be resolved") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # now, not later: another process must see the port as taken
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise StartError(f"port {port} on {host} {reason}") from None
    return listener


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """None without tls_cert. Raises StartError; there is no way back to plain text."""
    if not (settings.tls_cert or settings.tls_key or settings.tls_client_ca):
        return None
    if not (settings.tls_cert and settings.tls_key):
        raise StartError("tls_cert and tls_key must be given together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, settings.tls_cert, settings.tls_key)
    _check_dates(context, settings.tls_cert)
    if settings.tls_client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_client_ca(context, settings.tls_client_ca)
    return context


def _load(context: ssl.SSLContext, cert: str, key: str) -> None:
    try:
        context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise StartError(f"tls_cert {cert} and tls_key {key} cannot be used: {_reason(error)}") from None


def _check_dates(server: ssl.SSLContext, cert: str) -> None:
    """Python reads dates only of certificates that a peer verified, so one handshake is made in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor
    client.load_verify_locations(cert)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    try:
        for end in ends * 2:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
            raise StartError(f"tls_cert {cert} cannot be used: {error.verify_message}") from None


def _load_client_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise StartError(f"tls_client_ca {path} cannot be used: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or _NOT_PEM).replace("_", " ").lower()
    return str(getattr(error, "strerror", None) or error)


def _config(app: FastAPI, settings: Settings, context: ssl.SSLContext | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=_protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=settings.max_header_bytes,
    )
    config.load()
    config.ssl = context
    return config


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers; tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _protocol(settings: Settings) -> type[asyncio.Protocol]:
    class Protocol(_Connection):
        header_timeout = settings.header_timeout

    return Protocol


class _Transport:
    """A transport whose `close` lets a client that still sends read its answer first."""

    def __init__(self, transport: asyncio.Transport, conn: h11.Connection) -> None:
        self._transport = transport
        self._conn = conn
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """The first call may linger, a second one does not."""
        still_sends = self._conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if self.is_closing() or not (still_sends and self._transport.can_write_eof()):
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)


class _Connection(H11Protocol):
    """A connection of uvicorn, with a time limit for headers and typed answers to malformed HTTP."""

    header_timeout = 10.0
    _header_timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.access_log = False  # pydllm_gateway.observe has it, without the client's path

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", _Transport(transport, self.conn)))
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        with contextlib.suppress(h11.LocalProtocolError):
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()
        self._keep_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """What a peer that does not speak HTTP is told, as far as it can be told anything."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(_status_of(sys.exc_info()[1]))
        self.transport.close()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.close()

    def _refuse(self, status: HTTPStatus) -> None:
        body = json.dumps(_MALFORMED).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        fields = [*headers.items(), ("x-request-id", uuid.uuid4().hex)]
        for event in (
            h11.Response(status_code=status, headers=fields, reason=status.phrase.encode()),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

    def _watch(self) -> None:
        """Runs the timer while a client owes a request's headers, or the rest of a body that nobody waits for."""
        if self._owes_headers() or self._owes_ignored_body():
            self._start_timer()
        else:
            self._stop_timer()

    def _owes_headers(self) -> bool:
        # Between requests, until the next one begins, uvicorn's keep-alive timer has the connection.
        is_kept = self.timeout_keep_alive_task is not None and not self.conn.trailing_data[0]
        return self.conn.their_state is h11.IDLE and not is_kept

    def _owes_ignored_body(self) -> bool:
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.conn.their_state is h11.SEND_BODY

    def _start_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        self.transport.close()

    def _keep_reading(self) -> None:
        """uvicorn stops reading when a next request is waiting, and would not see that the client went away."""
        if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) < _PIPELINED_BYTES:
            self.flow.resume_reading()


def _status_of(error: BaseException | None) -> HTTPStatus:
    """What h11 suggests: 431 for headers that are too long, 501 for an unknown transfer encoding, else 400."""
    return HTTPStatus(getattr(error, "error_status_hint", 400))


_MALFORMED: dict[str, Any] = {
    "error": {
        "message": "this is not a valid HTTP request",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_http",
    }
}
