"""The one wrapper around every handler: admission, typed errors, and nothing internal ever leaves.

It also turns generator handlers into writers, so that a cancelled call closes its generator at once.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from pydllm.errors import InvalidRequestError
from pydllm.server import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pydllm.server.lifecycle import Lifecycle
    from pydllm.server.rpc import Context

log = logging.getLogger("pydllm.server")

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest request message. Answered with MESSAGE_TOO_LARGE, unparsed."""
HARD_MESSAGE_BYTES = 4 * MAX_MESSAGE_BYTES
"""Beyond this gRPC itself refuses: RESOURCE_EXHAUSTED without details."""
MAX_ID_LENGTH = 128
REQUEST_ID_KEY = "x-request-id"

_OWN_PREFIX = "/pydllm."


class _Unreadable:
    """Stands for a request that could not be parsed, so that the handler's wrapper answers it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every method; calls of pydllm's own services are admitted by the lifecycle."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, guarded."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = str(handler_call_details.method)
        handler = handler._replace(request_deserializer=_reader(handler.request_deserializer))
        if handler.unary_unary:
            return handler._replace(unary_unary=self._unary(method, handler.unary_unary))
        if handler.unary_stream:
            return handler._replace(unary_stream=self._stream(method, handler.unary_stream))
        if handler.stream_stream:
            return handler._replace(stream_stream=self._stream(method, handler.stream_stream))
        raise AssertionError(f"{method}: client-streaming methods are not guarded")

    def _unary(self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Context) -> Any:
            async with self._answered(method, context):
                return await behaviour(_readable(request), context)

        return call

    def _stream(self, method: str, behaviour: Callable[[Any, Context], Any]) -> Any:
        async def call(request: Any, context: Context) -> None:
            async with (
                self._answered(method, context),
                contextlib.aclosing(behaviour(_readable(request), context)) as messages,
            ):
                async for message in messages:
                    await context.write(message)

        return call

    @contextlib.asynccontextmanager
    async def _answered(self, method: str, context: Context) -> AsyncIterator[None]:
        """Runs a call's body; whatever it raises becomes one status."""
        echo: tuple[tuple[str, str | bytes], ...] = ()
        began = time.monotonic()
        try:
            echo = _echoed(context)
            context.set_trailing_metadata(echo)
            with self._lifecycle.call() if method.startswith(_OWN_PREFIX) else contextlib.nullcontext():
                yield
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - every exception becomes a status
            failure = _failure(error, method)
            log.info("%s %s after %.3f s", method, failure.code.name, time.monotonic() - began)
            await context.abort(failure.code, failure.message, failure.metadata() + echo)
        else:
            log.debug("%s OK after %.3f s", method, time.monotonic() - began)


def _failure(error: Exception, method: str) -> errors.Failure:
    failure = errors.failure_of(error, prefix="request." if method.endswith("/StreamGenerate") else "")
    if failure is None:
        failure = errors.internal_failure()
        log.error("%s: %s", method, failure.message, exc_info=error)
    return failure


def _echoed(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    given = [value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY]
    if not given:
        return ()
    if len(given) > 1 or len(given[0]) > MAX_ID_LENGTH:
        raise InvalidRequestError(
            REQUEST_ID_KEY, f"{REQUEST_ID_KEY}: expected one value of at most {MAX_ID_LENGTH} characters"
        )
    return ((REQUEST_ID_KEY, given[0]),)


def _reader(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        if len(data) > MAX_MESSAGE_BYTES:
            message = f"the request has {len(data)} bytes, the limit is {MAX_MESSAGE_BYTES}"
            return _Unreadable(errors.MessageTooLargeError(message))
        try:
            return parse(data)
        except DecodeError:
            message = "the request is not a valid message of this method (malformed, or a string that is not UTF-8)"
            return _Unreadable(errors.MalformedMessageError(message))

    return read


def _readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise request.error
    if hasattr(request, "__aiter__"):
        return _readable_stream(request)
    return request


async def _readable_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)
