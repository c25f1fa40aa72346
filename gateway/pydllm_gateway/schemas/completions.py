"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, WrapValidator

from pydllm_gateway.schemas.common import GenerationBody, UInt32, should_be

if TYPE_CHECKING:
    from collections.abc import Callable

_STRINGS = TypeAdapter(list[str])
_IDS = TypeAdapter(list[UInt32])
_LISTS_OF_IDS = TypeAdapter(list[list[UInt32]])


def _prompt(value: Any, _inner: Callable[[Any], Any]) -> Any:
    """The first element of a list says what the others must be, so that the error names the one that differs."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise should_be("a string, token ids, or a list of either that is not empty")
    if isinstance(value[0], str):
        return _STRINGS.validate_python(value, strict=True)
    kind = _LISTS_OF_IDS if isinstance(value[0], list) else _IDS
    return kind.validate_python(value, strict=True)


class CompletionBody(GenerationBody):
    """OpenAI's completions fields, vLLM's extra ones and pydllm's `dllm` and `stream_mode`."""

    prompt: Annotated[str | list[str] | list[UInt32] | list[list[UInt32]], WrapValidator(_prompt)]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: UInt32 | None = None
    best_of: UInt32 | None = None
