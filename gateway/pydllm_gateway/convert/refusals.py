"""Fields of OpenAI's types that this gateway refuses, and the values that say what happens anyway.

null is always neutral. Fields that the engine refuses are not here: they go through the proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydllm_gateway.errors import unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel


@dataclass(frozen=True)
class Refusal:
    """A field, whether a value that is not null means the same as leaving it out, and why others are refused."""

    field: str
    is_neutral: Callable[[Any], bool]
    why: str


def _never(_value: Any) -> bool:
    return False


def _only(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == v and type(value) is type(v) for v in values)


_TOOLS = "tool calls are not available"
_CACHE = "there is no prompt cache"
_TEMPLATE = "chat templates have no place for it"

COMMON = (
    Refusal("store", _only(False), "answers are not stored"),
    Refusal("service_tier", _only("auto", "default"), "there is one service tier, default"),
)
CHAT = (
    *COMMON,
    Refusal("tools", _only([]), _TOOLS),
    Refusal("tool_choice", _only("none", "auto"), _TOOLS),
    Refusal("parallel_tool_calls", _only(True), _TOOLS),
    Refusal("functions", _only([]), _TOOLS),
    Refusal("function_call", _only("none", "auto"), _TOOLS),
    Refusal("audio", _never, "audio output is not available"),
    Refusal("modalities", _only(["text"]), "output is text only"),
    Refusal("moderation", _never, "moderation is not available"),
    Refusal("prediction", _never, "predicted outputs are not available"),
    Refusal("prompt_cache_key", _never, _CACHE),
    Refusal("prompt_cache_options", _never, _CACHE),
    Refusal("prompt_cache_retention", _never, _CACHE),
    Refusal("reasoning_effort", _only("none"), "the effort of reasoning cannot be chosen"),
    Refusal("verbosity", _only("medium"), "verbosity cannot be chosen"),
    Refusal("web_search_options", _never, "web search is not available"),
)
COMPLETIONS = COMMON
MESSAGE = (
    Refusal("name", _never, _TEMPLATE),
    Refusal("refusal", _never, _TEMPLATE),
    Refusal("audio", _never, "audio is not available"),
    Refusal("function_call", _never, "use tool_calls"),
    Refusal("annotations", _only([]), _TEMPLATE),
)
STREAM_OPTIONS = (Refusal("include_obfuscation", _only(False), "chunks are not padded"),)


def refuse(body: BaseModel, refusals: tuple[Refusal, ...], prefix: str = "") -> None:
    """Raises ApiError (400) for the first field that is set to something that cannot be honoured."""
    for refusal in refusals:
        value = getattr(body, refusal.field)
        if value is not None and not refusal.is_neutral(value):
            raise unsupported(prefix + refusal.field, f"{refusal.why}; leave it unset")
