"""Every failure as an answer: OpenAI's error body, and nothing internal in it."""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pydllm_gateway.body import ClientGone
from pydllm_gateway.errors import ApiError, encode
from pydllm_gateway.invalid import from_validation

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

log = logging.getLogger("pydllm.gateway")

CLIENT_CLOSED = 499
"""Not in HTTP's list; what logs and metrics say of a request whose client went away."""


def install(app: FastAPI) -> None:
    """Registers the handlers; what they do not cover is pydllm_gateway.observe's."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientGone, _client_gone)


def answer(error: ApiError) -> Response:
    """The error as a response."""
    return Response(encode(error), error.status, error.headers(), media_type="application/json")


def as_api_error(error: Exception, request_id: str) -> ApiError:
    """An ApiError as it is; anything else is logged and becomes a 500 that only names the log entry."""
    if isinstance(error, ApiError):
        return error
    identity = uuid.uuid4().hex[:12]
    log.error("internal error, id %s, request %s", identity, request_id, exc_info=error)
    return ApiError(500, f"internal error, id {identity}", type="server_error", code="internal_error")


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - for the type checker
    return answer(error)


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    return answer(from_validation(error.errors(), error.body))


async def _http_error(_request: Request, error: Exception) -> Response:
    """What the router finds: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    failure = ApiError(error.status_code, _MESSAGES.get(error.status_code, "the request cannot be handled"))
    failure.code = _CODES.get(error.status_code)
    response = answer(failure)
    response.headers.update(error.headers or {})
    return response


async def _client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


_MESSAGES = {404: "there is no such path here", 405: "this path does not take this method"}
_CODES = {404: "unknown_url", 405: "method_not_allowed"}


def dump(body: Any) -> bytes:
    """A body as compact JSON."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
