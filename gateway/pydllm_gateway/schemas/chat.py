"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, WrapValidator

from pydllm_gateway.schemas.common import Body, GenerationBody, UInt32, should_be

if TYPE_CHECKING:
    from collections.abc import Callable


class ContentPart(BaseModel):
    """One part of a message. Only text is honoured; convert names any other."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: str
    text: str | None = None


_PARTS = TypeAdapter(list[ContentPart])


def _content(value: Any, _inner: Callable[[Any], Any]) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return _PARTS.validate_python(value)
    raise should_be("a string or a list of content parts")


class Message(Body):
    """One turn. `Any` fields are refused when set."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | list[ContentPart] | None, WrapValidator(_content)] = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: Any = None
    refusal: Any = None
    audio: Any = None
    function_call: Any = None
    annotations: Any = None


class ChatBody(GenerationBody):
    """OpenAI's chat fields, vLLM's extra ones, Mercury's `diffusing` and pydllm's `dllm` and `stream_mode`."""

    messages: list[Message]
    max_completion_tokens: UInt32 | None = None
    logprobs: bool | None = None
    top_logprobs: UInt32 | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    diffusing: bool | None = None

    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
