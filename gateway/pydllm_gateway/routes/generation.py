"""What the two OpenAI endpoints do with a plan."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.responses import Response

from pydllm_gateway.answers.stream import chunks
from pydllm_gateway.answers.unary import answer
from pydllm_gateway.body import quoted
from pydllm_gateway.failures import dump
from pydllm_gateway.http import engine_of, request_id_of, until_disconnect
from pydllm_gateway.sse import sse_response

if TYPE_CHECKING:
    from starlette.requests import Request

    from pydllm_gateway.answers.kinds import Kind
    from pydllm_gateway.convert.plan import Plan
    from pydllm_gateway.schemas.common import GenerationBody

log = logging.getLogger("pydllm.gateway.access")


async def respond(request: Request, body: GenerationBody, plan: Plan, kind: Kind) -> Response:
    """The answer; ApiError before its first byte. The generations end when the client goes away."""
    _log_identity(request, body)
    engine = engine_of(request)
    if body.stream:
        return await sse_response(request, chunks(engine, plan, kind))
    return Response(dump(await until_disconnect(request, answer(engine, plan, kind))), media_type="application/json")


def _log_identity(request: Request, body: GenerationBody) -> None:
    """Who asked, for operators: nothing else is done with `user` and `safety_identifier`."""
    given = {name: getattr(body, name) for name in ("user", "safety_identifier") if getattr(body, name) is not None}
    if given:
        words = " ".join(f"{name}={quoted(value, 128)}" for name, value in given.items())
        log.info("%s id=%s", words, quoted(request_id_of(request), 128))
