"""The one wrapper around every handler: authentication, admission, typed errors, and nothing internal ever leaves.

It also turns generator handlers into writers, so that a cancelled call closes its generator at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from pydllm.errors import InvalidRequestError
from pydllm.server import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pydllm.server.auth import Authenticator
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
_OBSERVERS = ("/pydllm.v1.AdminService/", "/pydllm.v1.MetricsService/")
"""They neither hold up a drain nor end with its beginning."""


class _Unreadable:
    """Stands for a request that could not be parsed, so that the handler's wrapper answers it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every method. Authentication comes first; calls of pydllm's own services are admitted by the lifecycle."""

    def __init__(self, lifecycle: Lifecycle, authenticator: Authenticator) -> None:
        self._lifecycle = lifecycle
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, guarded."""
        method = str(handler_call_details.method)
        refusal = self._authenticator.refusal(method, handler_call_details.invocation_metadata or ())
        if refusal is not None:
            return self._refused(method, refusal)
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler
        handler = handler._replace(request_deserializer=_reader(handler.request_deserializer))
        if handler.unary_unary:
            return handler._replace(unary_unary=self._unary(method, handler.unary_unary))
        if handler.unary_stream:
            return handler._replace(unary_stream=self._stream(method, handler.unary_stream))
        if handler.stream_stream:
            return handler._replace(stream_stream=self._stream(method, handler.stream_stream))
        raise AssertionError(f"{method}: client-streaming methods are not guarded")

    def _refused(self, method: str, error: Exception) -> Any:
        """Answers without reading the request. On the wire every method is a stream, so this fits any of them."""

        async def call(requests: Any, context: Context) -> None:  # noqa: ARG001
            async with self._answered(method, context, admission=contextlib.nullcontext()):
                raise error

        return grpc.stream_stream_rpc_method_handler(call)

    def _unary(self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                async with self._answered(method, context, admission=self._admission(method)):
                    return await behaviour(_readable(request), context)
            except grpc.aio.AbortError as aborted:
                _forget(aborted)
                raise
            finally:
                del request

        return call

    def _stream(self, method: str, behaviour: Callable[[Any, Context], Any]) -> Any:
        async def call(request: Any, context: Context) -> None:
            try:
                async with (
                    self._answered(method, context, admission=self._admission(method)),
                    contextlib.aclosing(behaviour(_readable(request), context)) as messages,
                ):
                    async for message in messages:
                        await context.write(message)
            except grpc.aio.AbortError as aborted:
                _forget(aborted)
                raise
            finally:
                del request

        return call

    def _admission(self, method: str) -> contextlib.AbstractContextManager[None]:
        counted = method.startswith(_OWN_PREFIX) and not method.startswith(_OBSERVERS)
        return self._lifecycle.call() if counted else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def _answered(
        self, method: str, context: Context, *, admission: contextlib.AbstractContextManager[None]
    ) -> AsyncIterator[None]:
        """Runs a call's body; whatever it raises becomes one status."""
        echo: tuple[tuple[str, str | bytes], ...] = ()
        began = time.monotonic()
        try:
            echo = _echoed(context)
            context.set_trailing_metadata(echo)
            with admission:
                yield
        except grpc.aio.AbortError:
            raise
        except (grpc.aio.InternalError, grpc.aio.UsageError):
            # gRPC could not send: the client left, and the cancellation of this call has not arrived yet.
            log.info("%s: the client left after %.3f s", method, time.monotonic() - began)
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001 - every exception becomes a status
            failure = _failure(error, method)
            log.info("%s %s after %.3f s", method, failure.code.name, time.monotonic() - began)
            await context.abort(failure.code, failure.message, failure.metadata() + echo)
        else:
            log.debug("%s OK after %.3f s", method, time.monotonic() - began)


def _forget(aborted: grpc.aio.AbortError) -> None:
    """Empties the frames that a failure went through. gRPC's state of the call keeps the failure in a reference cycle,
    and with it the frames and the request, megabytes perhaps, until a full garbage collection some day."""
    for error in (aborted, aborted.__context__):
        if error is not None:
            traceback.clear_frames(error.__traceback__)


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
