"""What a gateway process is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]
Size = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Key = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[\x21-\x7e]*\z")]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where to listen, which engine to ask, and the limits. Times in seconds, sizes in bytes."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    engine: str = "127.0.0.1:50051"
    """gRPC target of the engine: host:port or unix:/path."""
    engine_api_key: Key | None = field(default=None, repr=False)
    """Bearer token sent to the engine."""
    engine_tls_ca: str | None = None
    """PEM file with the certificates that the engine's is checked against; None: no TLS to the engine."""
    host: str = "127.0.0.1"
    port: Port = 8000
    """0: any free port."""
    api_keys: tuple[Key, ...] = field(default=(), repr=False)
    """Bearer tokens that clients may use; empty: no authentication."""
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    """PEM files; a client CA demands client certificates."""
    max_body_bytes: Size = 8 * 1024 * 1024
    max_header_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024
    header_timeout: Seconds = 10.0
    """For the headers of a request to arrive."""
    body_timeout: Seconds = 30.0
    """For the whole request body to arrive."""
    drain_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """That running requests have after the first SIGTERM."""
    keepalive_interval: Seconds = 15.0
    """Silence in a stream after which an SSE comment is sent."""
    max_prompts: Size = 256
    """Prompts of one completions or /generate request."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
