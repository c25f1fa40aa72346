"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotations
from starlette.responses import Response  # noqa: TC002 - FastAPI reads the annotations

from pydllm_gateway.answers.kinds import CHAT
from pydllm_gateway.convert.chat import plan
from pydllm_gateway.http import StrictRoute, request_id_of
from pydllm_gateway.routes.generation import respond
from pydllm_gateway.schemas.chat import ChatBody  # noqa: TC001

router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request, body: ChatBody) -> Response:
    """Answers a conversation, whole or as a stream."""
    return await respond(request, body, plan(body, request_id_of(request)), CHAT)
