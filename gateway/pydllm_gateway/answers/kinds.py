"""The two endpoints' ways to write a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one endpoint writes choices.

    `whole(text)` is the text of a finished choice, `piece(text)` that of a chunk (None: a chunk without text).
    `opening` is what the first chunk of a choice carries; None where there is no such chunk.
    """

    object: str
    chunk_object: str
    whole: Callable[[str], dict[str, Any]]
    piece: Callable[[str | None], dict[str, Any]]
    opening: dict[str, Any] | None


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, "refusal": None}}


def _delta(text: str | None) -> dict[str, Any]:
    return {"delta": {} if text is None else {"content": text}}


CHAT = Kind(
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    whole=_message,
    piece=_delta,
    opening={"delta": {"role": "assistant", "content": ""}},
)
COMPLETIONS = Kind(
    object="text_completion",
    chunk_object="text_completion",
    whole=lambda text: {"text": text},
    piece=lambda text: {"text": text or ""},
    opening=None,
)


def choice(index: int, content: dict[str, Any], finish_reason: str | None, **more: Any) -> dict[str, Any]:
    """One entry of `choices`; entries of `more` that are None are left out."""
    extra = {key: value for key, value in more.items() if value is not None}
    return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason, **extra}
