"""What every route shares: strict bodies, authentication before them, and cancelling when the client goes away."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fastapi.routing import APIRoute
from starlette.requests import Request

from pydllm_gateway.auth import authenticate
from pydllm_gateway.body import ClientGone, read_json
from pydllm_gateway.errors import RETRY_SECONDS, ApiError, invalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.responses import Response

    from pydllm_gateway.engine import Engine
    from pydllm_gateway.settings import Settings

T = TypeVar("T")

MAX_ID_LENGTH = 100
"""Of a client's X-Request-Id. The ids made from it (`chatcmpl-ID-7`) must keep within the engine's 128."""
_REQUEST_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_ID_LENGTH}}}")

__all__ = ["ClientGone", "StrictRoute", "engine_of", "request_id_of", "settings_of", "until_disconnect"]


@dataclass
class Lifecycle:
    """How far the process is on its way out."""

    draining: bool = False
    """Not ready any more; what runs may finish."""
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the time to finish is over: whatever still runs is answered with 503."""


class StrictRoute(APIRoute):
    """A route behind authentication; a body, where it takes one, is read by pydllm_gateway.body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given the parsed body."""
        handler = super().get_route_handler()
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            authenticate(request)
            request_id_of(request)
            if takes_body:
                body = await until_cut(request, read_json(request, settings_of(request)))
                request = _ParsedRequest(request, body)
            return await handler(request)

        return strict


class _ParsedRequest(Request):
    """A request whose body was read and parsed already."""

    def __init__(self, request: Request, body: dict[str, Any]) -> None:
        super().__init__(request.scope, request.receive, request._send)
        self._parsed = body

    async def body(self) -> bytes:
        return b"{}"  # only asked for being there

    async def json(self) -> Any:
        return self._parsed


def engine_of(request: Request) -> Engine:
    """The engine behind this gateway."""
    return cast("Engine", request.app.state.engine)


def settings_of(request: Request) -> Settings:
    """What this process was told."""
    return cast("Settings", request.app.state.settings)


def lifecycle_of(request: Request) -> Lifecycle:
    """Whether this process drains."""
    return cast("Lifecycle", request.app.state.lifecycle)


def request_id_of(request: Request) -> str:
    """The client's X-Request-Id, or one made for this request. Raises ApiError (400) when the client's is unusable."""
    if request.scope.get("state", {}).get("request_id_refused"):
        raise invalid(
            "x-request-id", f"x-request-id: expected one value of at most {MAX_ID_LENGTH} printable ASCII characters"
        )
    return str(request.state.request_id)


def note_client_gone(request: Request) -> None:
    """For an answer that had begun: tells the log and the metrics that nobody read it to the end."""
    request.state.client_gone = True


def usable_request_id(values: list[str]) -> bool:
    """Whether a client's header values are one id."""
    return len(values) == 1 and _REQUEST_ID.fullmatch(values[0]) is not None


async def until_disconnect(request: Request, awaitable: Awaitable[T]) -> T:
    """The awaitable's result. It is cancelled when the client goes away (ClientGone) or the process ends (ApiError)."""
    return await _race(request, awaitable, asyncio.ensure_future(_disconnected(request)))


async def until_cut(request: Request, awaitable: Awaitable[T]) -> T:
    """The awaitable's result. It is cancelled when the process ends (ApiError)."""
    return await _race(request, awaitable)


async def _race(request: Request, awaitable: Awaitable[T], *gone: asyncio.Future[None]) -> T:
    work = asyncio.ensure_future(awaitable)
    cut = asyncio.ensure_future(lifecycle_of(request).cut.wait())
    try:
        await asyncio.wait({work, cut, *gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise shutting_down() if cut.done() else ClientGone
    finally:
        await cancelled(work, cut, *gone)


def shutting_down() -> ApiError:
    """503 for a request that the end of the process cuts short."""
    message = "the server is shutting down, try again later"
    return ApiError(503, message, type="service_unavailable_error", code="unavailable", retry_after=RETRY_SECONDS)


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and waits until they have ended; what they gave does not matter any more."""
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.wait(tasks)
    for task in done:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
