"""GET /metrics: this process's metrics, then the engine's. Open, without authentication; it holds no client's data."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response

from pydllm_gateway.errors import ApiError
from pydllm_gateway.http import engine_of
from pydllm_gateway.metrics import CONTENT_TYPE, metrics_of

log = logging.getLogger("pydllm.gateway")

router = APIRouter(tags=["operations"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus text format. Without the engine's part while the engine cannot be reached."""
    page = metrics_of(request).page()
    try:
        page += await engine_of(request).metrics()
    except ApiError as error:
        log.debug("the engine's metrics cannot be had: %s", error.message)
    return Response(page, headers={"content-type": CONTENT_TYPE})
