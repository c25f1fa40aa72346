"""POST /tokenize and /detokenize as gRPC requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm_proto.v1 import tokenizer_service_pb2 as pb

from pydllm_gateway.convert import fields
from pydllm_gateway.convert.chat import chat_message
from pydllm_gateway.errors import invalid, unsupported

if TYPE_CHECKING:
    from pydllm_gateway.schemas.tokenize import DetokenizeBody, TokenizeBody

NAMES = {
    "text": "prompt",
    "chat": "messages",
    "chat.messages": "messages",
    "chat.template_kwargs": "chat_template_kwargs",
    "token_ids": "tokens",
}
"""Proto path -> REST name."""
_REFUSED = {
    "chat_template": "the model's own chat template is used; leave it unset",
    "tools": "tool calls are not available; leave it unset",
    "mm_processor_kwargs": "input is text only; leave it unset",
}
_CHAT_ONLY = ("add_generation_prompt", "chat_template_kwargs", "continue_final_message")


def tokenize_request(body: TokenizeBody) -> pb.TokenizeRequest:
    """Raises ApiError (400), naming the field."""
    _refuse(body)
    request = pb.TokenizeRequest(model=body.model or "", with_tokens=bool(body.return_token_strs))
    if body.add_special_tokens is not None:
        request.add_special_tokens = body.add_special_tokens
    if body.prompt is not None:
        request.text = body.prompt
    else:
        _fill_chat(request, body)
    return request


def detokenize_request(body: DetokenizeBody) -> pb.DetokenizeRequest:
    """Special tokens are kept: the text of every id."""
    return pb.DetokenizeRequest(model=body.model or "", token_ids=body.tokens, skip_special_tokens=False)


def _refuse(body: TokenizeBody) -> None:
    for name, why in _REFUSED.items():
        if getattr(body, name) not in (None, [], {}):
            raise unsupported(name, why)
    if body.continue_final_message:
        raise unsupported("continue_final_message", "messages are rendered whole; leave it unset")
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "prompt: expected either prompt or messages")
    given = [name for name in _CHAT_ONLY if getattr(body, name) is not None]
    if body.prompt is not None and given:
        raise invalid(given[0], f"{given[0]}: expected with messages only")


def _fill_chat(request: pb.TokenizeRequest, body: TokenizeBody) -> None:
    request.chat.SetInParent()
    for index, message in enumerate(body.messages or ()):
        request.chat.messages.append(chat_message(message, f"messages[{index}]"))
    if body.add_generation_prompt is not None:
        request.chat.add_generation_prompt = body.add_generation_prompt
    if body.chat_template_kwargs is not None:
        fields.fill_struct(request.chat.template_kwargs, body.chat_template_kwargs, "chat_template_kwargs")
