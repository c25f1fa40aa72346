"""API keys: a bearer token checked for the route, before anything of the body is read."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from pydllm_gateway.errors import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

    from pydllm_gateway.settings import Settings


def authenticate(request: Request) -> None:
    """Raises the same ApiError (401) whether the key is missing, malformed or wrong. Without api_keys: no check."""
    settings: Settings = request.app.state.settings
    if settings.api_keys and not _known(request.headers.getlist("authorization"), settings.api_keys):
        message = "a valid API key is required: send the header Authorization: Bearer KEY"
        raise ApiError(401, message, type="authentication_error", code="invalid_api_key")


def _known(headers: list[str], keys: tuple[str, ...]) -> bool:
    scheme, _, given = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    digest = _digest(given.strip())
    # Every key is compared, digests have one length: the time tells nothing.
    matches = [hmac.compare_digest(digest, _digest(key)) for key in keys]
    return scheme.lower() == "bearer" and any(matches)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
