"""Server-sent events. No header is sent before the first event, so that early failures are ordinary HTTP errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from pydllm_gateway.body import ClientGone
from pydllm_gateway.failures import as_api_error
from pydllm_gateway.http import cancelled, note_client_gone, request_id_of, settings_of, until_disconnect

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

Events = AsyncGenerator[dict[str, Any], None]
First = asyncio.Future[dict[str, Any] | None]

DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keep-alive\n\n"
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


async def sse_response(request: Request, events: Events, *, done: bool = True) -> Response:
    """A stream of `data:` lines, one per event, ended by [DONE] if `done`.

    Raises what the generator raises before its first event, unless that takes so long that the client needs a sign of
    life. Later an ApiError becomes a last `data: {"error": …}` without [DONE]. The generator is closed in every case,
    also when the client goes away.
    """
    first = asyncio.ensure_future(anext(events, None))
    try:
        await until_disconnect(request, asyncio.wait({first}, timeout=settings_of(request).keepalive_interval))
        if first.done():
            first.result()
    except BaseException:
        await cancelled(first)
        await events.aclose()
        raise
    return _EventStream(request, first, events, done=done)


def encode_event(event: dict[str, Any]) -> bytes:
    """One event. Characters that some line readers take for line breaks are escaped."""
    text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {text.translate(_LINE_BREAKS)}\n\n".encode()


class _EventStream(Response):
    media_type = "text/event-stream"

    def __init__(self, request: Request, first: First, events: Events, *, done: bool) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._request = request
        self._first = first
        self._events = events
        self._end = DONE if done else b""
        self._interval = settings_of(request).keepalive_interval
        self._quiet_since = time.monotonic() - (0 if first.done() else self._interval)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Sends everything, or as much as the client stays for."""
        async with contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await self._run(send)
                last = self._end
            except ClientGone:
                note_client_gone(self._request)
                return
            except Exception as error:  # noqa: BLE001 - the status line is sent, only an event can tell
                last = encode_event(as_api_error(error, request_id_of(self._request)).body())
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _run(self, send: Send) -> None:
        comments = asyncio.ensure_future(self._fill_silence(send))
        try:
            await until_disconnect(self._request, self._write(send))
        finally:
            await cancelled(comments, self._first)

    async def _write(self, send: Send) -> None:
        event = await self._first
        while event is not None:
            await self._send(send, encode_event(event))
            event = await anext(self._events, None)

    async def _fill_silence(self, send: Send) -> None:
        while True:
            left = self._quiet_since + self._interval - time.monotonic()
            if left <= 0:
                await self._send(send, KEEPALIVE)
            else:
                await asyncio.sleep(left)

    async def _send(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._quiet_since = time.monotonic()
