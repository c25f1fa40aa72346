"""API keys: bearer tokens in the metadata of a call. Health is open, everything else needs one when keys are set."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from pydllm.server.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydllm.server.config import ServerConfig

METADATA_KEY = "authorization"
MESSAGE = "invalid or missing API key"
"""The same for a missing, a malformed and a wrong key."""

_OPEN = "/grpc.health.v1.Health/"


class Authenticator:
    """Knows the keys by their digests. The time of a check does not depend on which key is near or how long it is."""

    def __init__(self, config: ServerConfig) -> None:
        keys = (*config.api_keys, *filter(None, (config.internal_key,))) if config.api_keys else ()
        self._digests = tuple(_digest(key.encode()) for key in keys)

    def refusal(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> UnauthenticatedError | None:
        """What to answer a call that may not be made; None for one that may."""
        if not self._digests or method.startswith(_OPEN):
            return None
        digest = _digest(_token([value for key, value in metadata if key == METADATA_KEY]))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return None if any(matches) else UnauthenticatedError(MESSAGE)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _token(values: list[str | bytes]) -> bytes:
    """The token of the one `Bearer TOKEN`; no key is empty, so b"" matches none."""
    if len(values) != 1:
        return b""
    value = values[0].encode() if isinstance(values[0], str) else values[0]
    scheme, _, token = value.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
