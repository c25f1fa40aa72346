"""GET /docs and /openapi.json, behind authentication like everything that is not a probe."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse

from pydllm_gateway.http import StrictRoute

_TEXT = {"type": ["string", "null"]}
_ERROR = {"type": "object", "properties": dict.fromkeys(("message", "type", "param", "code"), _TEXT)}
_FAILURE = {
    "description": "Any failure",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"error": _ERROR}}}},
}

router = APIRouter(route_class=StrictRoute, include_in_schema=False)


@router.get("/openapi.json")
async def openapi(request: Request) -> dict[str, Any]:
    """The schema of this interface."""
    schema: dict[str, Any] = request.app.openapi()
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)  # FastAPI's own; failures look different here
            operation["responses"]["default"] = _FAILURE
    return schema


@router.get("/docs", response_class=HTMLResponse)
async def docs() -> HTMLResponse:
    """A page to try it; the browser loads its scripts from a CDN."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title="pydllm")
