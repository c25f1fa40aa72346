"""Errors as gRPC statuses with google.rpc details: the table of docs/grpc.md, in one place."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from pydllm import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

DOMAIN = "pydllm"
RETRY_SECONDS = 1
"""What RetryInfo and grpc-retry-pushback-ms ask of a client that met a full queue, a start or a drain."""

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"


class RequestIdInUseError(errors.PydllmError):
    """Another request in flight has this id."""


class MessageTooLargeError(errors.PydllmError):
    """The request message is over the documented limit."""


class DrainingError(errors.PydllmError):
    """The server is shutting down and takes no new calls."""


class StartingError(errors.PydllmError):
    """The server is still loading."""


class UnauthenticatedError(errors.PydllmError):
    """The call brings no API key, or none that is known."""


class MalformedMessageError(errors.PydllmError):
    """The bytes are no message of this method."""


@dataclass(frozen=True)
class Failure:
    """What a client gets: one status, its details and its trailing metadata."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    info: dict[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    retry: bool = False

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Trailing metadata: the details, and the push-back where a retry makes sense."""
        pairs: list[tuple[str, str | bytes]] = []
        if self.reason:
            pairs.append((DETAILS_KEY, self.status().SerializeToString()))
        if self.retry:
            pairs.append((PUSHBACK_KEY, str(RETRY_SECONDS * 1000)))
        return tuple(pairs)

    def status(self) -> status_pb2.Status:
        """google.rpc.Status with ErrorInfo and, where they apply, BadRequest and RetryInfo."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.extend(_pack(detail) for detail in self._details())
        return status

    def _details(self) -> Sequence[Message]:
        details: list[Message] = [error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.info)]
        if self.fields:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=path, description=self.message, reason=self.reason)
                for path in self.fields
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        if self.retry:
            details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=RETRY_SECONDS)))
        return details


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


@dataclass(frozen=True)
class _Row:
    kind: type[errors.PydllmError]
    code: grpc.StatusCode
    reason: str
    retry: bool = False


_TABLE = (  # the first row whose class matches; subclasses before their bases
    _Row(errors.ContextLengthError, grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED"),
    _Row(errors.InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    _Row(MalformedMessageError, grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
    _Row(errors.UnsupportedError, grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED_BY_ALGORITHM"),
    _Row(errors.ModelNotFoundError, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    _Row(RequestIdInUseError, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_IN_USE"),
    _Row(errors.QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry=True),
    _Row(MessageTooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"),
    _Row(DrainingError, grpc.StatusCode.UNAVAILABLE, "DRAINING", retry=True),
    _Row(errors.EngineStoppedError, grpc.StatusCode.UNAVAILABLE, "DRAINING", retry=True),
    _Row(errors.DeviceLostError, grpc.StatusCode.UNAVAILABLE, "DEVICE_LOST", retry=True),
    _Row(StartingError, grpc.StatusCode.UNAVAILABLE, "STARTING", retry=True),
    _Row(UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY"),
    _Row(errors.DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    _Row(errors.RequestCancelledError, grpc.StatusCode.CANCELLED, "ABORTED"),
)


def failure_of(error: BaseException, *, prefix: str = "") -> Failure | None:
    """The status of an expected error; None for everything a client must not see.

    `prefix` goes before a field's path: "request." where the GenerateRequest is nested.
    """
    row = next((row for row in _TABLE if isinstance(error, row.kind)), None)
    if row is None:
        return None
    path = _wire_path(getattr(error, "field", ""))
    fields = (path if path.startswith(_STREAM_ONLY) else prefix + path,) if path else ()
    return Failure(row.code, _message_of(error, path), row.reason, _info_of(error), fields, retry=row.retry)


_STREAM_ONLY = ("options", "x-request-id")


def _wire_path(path: str) -> str:
    """A field's path in the proto where pydllm.text calls it otherwise."""
    return (
        "chat.tools_json" + path.removeprefix("chat.tools")
        if path.startswith("chat.tools[") or path == "chat.tools"
        else path
    )


def _message_of(error: BaseException, path: str) -> str:
    message = " ".join(str(error).split())
    return message if not path or message.startswith(path) else f"{path}: {message}"


def _info_of(error: BaseException) -> dict[str, str]:
    if isinstance(error, errors.ContextLengthError):
        return {"limit": str(error.limit), "given": str(error.given)}
    return {}


def internal_failure() -> Failure:
    """A fresh INTERNAL status; its id ties the client's message to the server's log."""
    return Failure(grpc.StatusCode.INTERNAL, f"internal error, id {uuid.uuid4().hex[:12]}")
