"""POST /generate: the native shapes of SGLang and Diffulex, told apart by their fields."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotations
from starlette.responses import Response

from pydllm_gateway.body import quoted
from pydllm_gateway.failures import dump
from pydllm_gateway.http import StrictRoute, engine_of, request_id_of, settings_of, until_disconnect
from pydllm_gateway.native import diffulex, diffulex_answers, sglang, sglang_answers
from pydllm_gateway.native.shapes import NativeRequest  # noqa: TC001 - FastAPI reads the annotations
from pydllm_gateway.schemas.sglang import SglangRequest
from pydllm_gateway.sse import sse_response

if TYPE_CHECKING:
    from pydllm_gateway.schemas.diffulex import DiffulexRequest

log = logging.getLogger("pydllm.gateway.access")

router = APIRouter(route_class=StrictRoute, tags=["native"])


@router.post("/generate")
async def generate(request: Request, body: NativeRequest) -> Response:
    """Continues text as SGLang does (`text` or `input_ids`) or as Diffulex does (`prompt`)."""
    if isinstance(body, SglangRequest):
        return await _sglang(request, body)
    return await _diffulex(request, body)


async def _sglang(request: Request, body: SglangRequest) -> Response:
    form = sglang_answers.Form(batch=sglang.is_batch(body), start=time.monotonic())
    plan = sglang.plan(body, request_id_of(request), max_prompts=settings_of(request).max_prompts)
    engine = engine_of(request)
    if body.stream:
        return await sse_response(request, sglang_answers.chunks(engine, plan, form))
    return _json(await until_disconnect(request, sglang_answers.answer(engine, plan, form)))


async def _diffulex(request: Request, body: DiffulexRequest) -> Response:
    if body.user is not None:  # nothing else is done with it
        log.info("user=%s id=%s", quoted(body.user, 128), quoted(request_id_of(request), 128))
    plan = diffulex.plan(body, request_id_of(request))
    engine = engine_of(request)
    if body.stream:
        return await sse_response(request, diffulex_answers.events(engine, plan))
    return _json(await until_disconnect(request, diffulex_answers.answer(engine, plan)))


def _json(value: object) -> Response:
    return Response(dump(value), media_type="application/json")
