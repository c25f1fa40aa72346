"""The one error type of the gateway, and how statuses of the engine become it. The table is in docs/gateway.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import grpc

FieldNames = Mapping[str, str]
"""Paths in the gRPC request message -> the field of the REST request that set them."""

log = logging.getLogger("pydllm.gateway")

RETRY_SECONDS = 1
_DETAILS_KEY = "grpc-status-details-bin"


class ApiError(Exception):
    """A failed request as OpenAI's clients expect it. `message` is one line and names `param` where there is one."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - OpenAI's word
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Retry-After and OpenAI's retry-after-ms where a retry makes sense; WWW-Authenticate with 401."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(self.retry_after), "retry-after-ms": str(self.retry_after * 1000)}


def invalid(param: str, message: str, *, code: str | None = "invalid_value") -> ApiError:
    """400 for a field of the request."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, why: str) -> ApiError:
    """400 for a field that exists and cannot be honoured; `why` ends the sentence that begins with the field."""
    return ApiError(400, f"{param}: {why}", param=param, code="unsupported_parameter")


_UNAVAILABLE = "the engine is not available, try again later"

# gRPC status (and ErrorInfo.reason where one status means several things) -> HTTP status, OpenAI type, code, retry
_ROWS: dict[tuple[str, str], tuple[int, str, str | None, bool]] = {
    ("INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED"): (400, "invalid_request_error", "context_length_exceeded", False),
    ("INVALID_ARGUMENT", ""): (400, "invalid_request_error", "invalid_value", False),
    ("UNIMPLEMENTED", ""): (400, "invalid_request_error", "unsupported_parameter", False),
    ("NOT_FOUND", ""): (404, "invalid_request_error", "model_not_found", False),
    ("ALREADY_EXISTS", ""): (409, "invalid_request_error", "request_id_in_use", False),
    ("RESOURCE_EXHAUSTED", "QUEUE_FULL"): (429, "rate_limit_error", "queue_full", True),
    ("RESOURCE_EXHAUSTED", ""): (413, "invalid_request_error", "request_too_large", False),
    ("UNAUTHENTICATED", ""): (503, "service_unavailable_error", "unavailable", True),
    ("PERMISSION_DENIED", ""): (403, "permission_error", "permission_denied", False),
    ("DEADLINE_EXCEEDED", ""): (504, "timeout_error", "deadline_exceeded", False),
    ("CANCELLED", ""): (499, "cancelled_error", "aborted", False),
    ("UNAVAILABLE", ""): (503, "service_unavailable_error", "unavailable", True),
}


def from_status(error: grpc.aio.AioRpcError, names: FieldNames) -> ApiError:
    """The engine's failure in the words of the REST request. Anything unexpected is a 500 that says nothing."""
    reason, fields = _details(error)
    key = error.code().name
    row = _ROWS.get((key, reason)) or _ROWS.get((key, ""))
    message = error.details() or ""
    if row is None:
        return _internal(message)
    if key == "UNAUTHENTICATED":
        log.error("the engine refuses this gateway's API key")  # ours, so nothing that a client could mend
    if key in {"UNAVAILABLE", "UNAUTHENTICATED"} and not reason.startswith(("DRAINING", "DEVICE_LOST", "STARTING")):
        message = _UNAVAILABLE  # gRPC's own words name addresses
    status, kind, code, retry = row
    path = fields[0].removeprefix("request.") if fields else ""
    param = rename(path, names) if path else None
    if param and message.startswith(path):
        message = param + message.removeprefix(path)
    return ApiError(status, message, type=kind, param=param, code=code, retry_after=RETRY_SECONDS if retry else None)


def _internal(message: str) -> ApiError:
    told = message if message.startswith("internal error") else "internal error"
    return ApiError(500, told, type="server_error", code="internal_error")


def rename(path: str, names: FieldNames) -> str:
    """A proto path as the REST field: the longest known prefix replaced, the rest (an index, a key) kept."""
    known = [p for p in names if path == p or path.startswith((p + ".", p + "["))]
    if not known:
        return path
    prefix = max(known, key=len)
    return names[prefix] + path.removeprefix(prefix)


def _details(error: grpc.aio.AioRpcError) -> tuple[str, list[str]]:
    """ErrorInfo.reason and the fields of BadRequest."""
    reason, fields = "", list[str]()
    packed = dict(error.trailing_metadata() or ()).get(_DETAILS_KEY)
    if not isinstance(packed, bytes):
        return reason, fields
    try:
        status = status_pb2.Status.FromString(packed)
        for detail in status.details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(bad):
                fields = [violation.field for violation in bad.field_violations]
    except DecodeError:
        pass
    return reason, fields


def encode(error: ApiError) -> bytes:
    """The body as JSON; ASCII, so that nothing in a message can break it."""
    return json.dumps(error.body()).encode("ascii")
