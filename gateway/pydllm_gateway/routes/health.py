"""GET /health, /ready, /version: open, without authentication, so that probes need no key."""

from __future__ import annotations

import importlib.metadata

from fastapi import APIRouter, Request

from pydllm_gateway.errors import RETRY_SECONDS, ApiError
from pydllm_gateway.http import engine_of, lifecycle_of, shutting_down

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health() -> dict[str, str]:
    """200 while this process lives."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """200 when the engine takes requests, else 503 with Retry-After."""
    if lifecycle_of(request).draining:
        raise shutting_down()
    if not await engine_of(request).serving():
        message = "the engine is not ready, try again later"
        raise ApiError(503, message, type="service_unavailable_error", code="unavailable", retry_after=RETRY_SECONDS)
    return {"status": "ready"}


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of this gateway."""
    return {"version": _version()}


def _version() -> str:
    for distribution in ("pydllm-gateway", "pydllm"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
