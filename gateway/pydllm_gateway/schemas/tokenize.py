"""Bodies of POST /tokenize and /detokenize, in the shapes that vLLM's clients send."""

from __future__ import annotations

from typing import Any

from pydllm_gateway.schemas.chat import Message  # noqa: TC001 - pydantic reads it
from pydllm_gateway.schemas.common import Body, UInt32


class TokenizeBody(Body):
    """`prompt` or `messages`. Fields typed Any are vLLM's and refused when set."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    """Unset: true for a prompt, false for messages, whose template writes them."""
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: Any = None
    continue_final_message: bool | None = None
    tools: Any = None
    mm_processor_kwargs: Any = None


class DetokenizeBody(Body):
    """Token ids of the model's vocabulary."""

    model: str | None = None
    tokens: list[UInt32]


class TokenizeAnswer(Body):
    """Token ids, and each token's text where that was asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(Body):
    """The text, special tokens included."""

    prompt: str
