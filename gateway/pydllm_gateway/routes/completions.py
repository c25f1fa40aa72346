"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotations
from starlette.responses import Response  # noqa: TC002 - FastAPI reads the annotations

from pydllm_gateway.answers.kinds import COMPLETIONS
from pydllm_gateway.convert.completions import plan
from pydllm_gateway.http import StrictRoute, request_id_of, settings_of
from pydllm_gateway.routes.generation import respond
from pydllm_gateway.schemas.completions import CompletionBody  # noqa: TC001

router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])


@router.post("/v1/completions")
async def create_completion(request: Request, body: CompletionBody) -> Response:
    """Continues one prompt or several, whole or as a stream."""
    calls = plan(body, request_id_of(request), max_prompts=settings_of(request).max_prompts)
    return await respond(request, body, calls, COMPLETIONS)
