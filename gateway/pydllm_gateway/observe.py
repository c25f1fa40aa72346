"""The outermost layer: request ids, header limits, metrics, one log line per request, and the last resort for bugs."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders

from pydllm_gateway.errors import ApiError
from pydllm_gateway.failures import CLIENT_CLOSED, answer, as_api_error
from pydllm_gateway.http import usable_request_id

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from pydllm_gateway.metrics import Metrics
    from pydllm_gateway.settings import Settings

log = logging.getLogger("pydllm.gateway.access")

MAX_HEADERS = 100
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}


class Observer:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, settings: Settings) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Never raises for one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._answer(exchange, receive)
            finally:
                self._record(exchange)

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        scope = exchange.scope
        try:
            refusal = _refused_headers(scope, self._settings)
            await (refusal or self._app)(scope, receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - every bug becomes an answer
            failure = as_api_error(error, exchange.request_id)
            if exchange.status is None:  # else the answer breaks off, and the server closes the connection
                await answer(failure)(scope, receive, exchange.send)
        except asyncio.CancelledError:
            log.warning("cut off after the drain timeout: id=%s", json.dumps(exchange.request_id))

    def _record(self, exchange: _Exchange) -> None:
        seconds = time.monotonic() - exchange.began
        gone = exchange.status is None or exchange.scope["state"].get("client_gone", False)
        status = CLIENT_CLOSED if gone else exchange.status
        route = route_of(exchange.scope)
        self._metrics.requests.labels(route, exchange.method, str(status)).inc()
        self._metrics.duration.labels(route).observe(seconds)
        if exchange.first_chunk is not None:
            self._metrics.first_chunk.labels(route).observe(exchange.first_chunk)
        if status == CLIENT_CLOSED:
            self._metrics.disconnects.labels(route).inc()
        log.info("%s %s %d %.3f s id=%s", exchange.method, route, status, seconds, json.dumps(exchange.request_id))


class _Exchange:
    """One request and what has been sent in answer to it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self._send = send
        self.began = time.monotonic()
        self.status: int | None = None
        self.first_chunk: float | None = None
        self.method = scope["method"] if scope["method"] in _METHODS else "other"
        self.request_id = _identify(scope)

    async def send(self, message: Message) -> None:
        """Adds the request id to the headers and notes the status."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.request_id
        elif self.first_chunk is None and message.get("more_body", False):
            self.first_chunk = time.monotonic() - self.began
        await self._send(message)


def route_of(scope: Scope) -> str:
    """The template of the route that answered, never a client's path."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


def _identify(scope: Scope) -> str:
    given = Headers(scope=scope).getlist("x-request-id")
    usable = usable_request_id(given)
    state: dict[str, Any] = scope.setdefault("state", {})
    state["request_id"] = given[0] if usable else uuid.uuid4().hex
    state["request_id_refused"] = bool(given) and not usable
    return str(state["request_id"])


def _refused_headers(scope: Scope, settings: Settings) -> Response | None:
    """An answer for headers that are too large or can be read in two ways; the connection ends with it."""
    headers = scope["headers"]
    size = sum(len(name) + len(value) + 4 for name, value in headers) + len(scope.get("raw_path") or b"")
    names = {name for name, _ in headers}
    if size > settings.max_header_bytes or len(headers) > MAX_HEADERS:
        limits = f"{settings.max_header_bytes} bytes, {MAX_HEADERS} headers"
        error = ApiError(431, f"the request's headers are too large (limits: {limits})", code="headers_too_large")
    elif {b"content-length", b"transfer-encoding"} <= names:
        error = ApiError(400, "Content-Length and Transfer-Encoding contradict each other", code="invalid_http")
    elif scope["http_version"] not in {"1.0", "1.1"}:
        error = ApiError(505, "only HTTP/1.1 is spoken here", code="http_version_not_supported")
    else:
        return None
    response = answer(error)
    response.headers["connection"] = "close"
    return response
