"""POST /v1/chat/completions as one gRPC request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydllm_proto.v1 import types_pb2

from pydllm_gateway.convert import fields, refusals
from pydllm_gateway.convert.common import base_request, stream_options
from pydllm_gateway.convert.plan import Call, Plan, shape_of, stream_mode
from pydllm_gateway.errors import invalid, unsupported

if TYPE_CHECKING:
    from pydllm_proto.v1 import generation_service_pb2 as pb

    from pydllm_gateway.schemas.chat import ChatBody, ContentPart, Message

_ROLES = {"developer": "system"}


def plan(body: ChatBody, request_id: str) -> Plan:
    """Raises ApiError (400), naming the field, for what can be refused without the engine."""
    refusals.refuse(body, refusals.CHAT)
    diffusing = _diffusing(body)
    shape = shape_of(body, f"chatcmpl-{body.request_id or request_id}", diffusing=diffusing)
    options = stream_options(body, diffusing=diffusing)
    request = base_request(body, fields.CHAT, extras=shape.extras)
    request.request_id = shape.id
    _fill_length(request, body)
    _fill_logprobs(request, body)
    request.chat.SetInParent()
    for index, message in enumerate(body.messages):
        request.chat.messages.append(chat_message(message, f"messages[{index}]"))
    if body.chat_template_kwargs is not None:
        fields.fill_struct(request.chat.template_kwargs, body.chat_template_kwargs, "chat_template_kwargs")
    return Plan(calls=(Call(request=request, names=_names(body)),), shape=shape, options=options)


def _diffusing(body: ChatBody) -> bool:
    if not body.diffusing:
        return False
    if not body.stream:
        raise invalid("diffusing", 'diffusing: needs "stream": true')
    if stream_mode(body) is not None:
        raise invalid("diffusing", "diffusing: expected without stream_mode, which says something else")
    return True


def _fill_length(request: pb.GenerateRequest, body: ChatBody) -> None:
    if body.max_completion_tokens is None:
        return
    if body.max_tokens is not None and body.max_tokens != body.max_completion_tokens:
        message = f"expected the same as max_tokens ({body.max_tokens}), got {body.max_completion_tokens}"
        raise invalid("max_completion_tokens", f"max_completion_tokens: {message}")
    request.sampling.max_tokens = body.max_completion_tokens


def _fill_logprobs(request: pb.GenerateRequest, body: ChatBody) -> None:
    if body.logprobs:
        request.output.logprobs = body.top_logprobs or 0
    elif body.top_logprobs is not None:
        raise invalid("top_logprobs", 'top_logprobs: needs "logprobs": true')


def _names(body: ChatBody) -> dict[str, str]:
    names = {**fields.NAMES, "prompt": "messages"}  # the engine counts the tokens of the rendered conversation
    given = body.max_completion_tokens is not None and body.max_tokens is None
    return {**names, "sampling.max_tokens": "max_completion_tokens"} if given else names


def chat_message(message: Message, path: str) -> types_pb2.ChatMessage:
    """One turn; `path` names it in errors."""
    refusals.refuse(message, refusals.MESSAGE, f"{path}.")
    out = types_pb2.ChatMessage(role=_ROLES.get(message.role, message.role), content=_text(message, path))
    if message.tool_calls:
        _only_for("assistant", message, f"{path}.tool_calls")
        out.tool_calls_json = json.dumps(message.tool_calls, ensure_ascii=False)
    if message.tool_call_id is not None:
        _only_for("tool", message, f"{path}.tool_call_id")
        out.tool_call_id = message.tool_call_id
    return out


def _only_for(role: str, message: Message, path: str) -> None:
    if message.role != role:
        raise invalid(path, f"{path}: expected in messages of role {role} only, got role {message.role}")


def _text(message: Message, path: str) -> str:
    if message.content is None:
        if message.role == "assistant" and message.tool_calls:
            return ""
        raise invalid(f"{path}.content", f"{path}.content: expected a string or a list of text parts, got nothing")
    if isinstance(message.content, str):
        return message.content
    return "".join(_part(part, f"{path}.content[{j}]") for j, part in enumerate(message.content))


def _part(part: ContentPart, path: str) -> str:
    if part.type != "text":
        raise unsupported(path, f"only text parts are supported, got type {part.type[:40]!r}")
    for key, value in (part.model_extra or {}).items():
        if value is not None:
            raise unsupported(f"{path}.{key[:40]}", "a text part has the keys type and text only")
    if part.text is None:
        raise invalid(f"{path}.text", f"{path}.text: expected a string, got nothing")
    return part.text
