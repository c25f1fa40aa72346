"""What a caller may give as a prompt, and its token ids."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydllm.canvas import Canvas, CanvasIds
from pydllm.errors import InvalidRequestError, UnsupportedError
from pydllm.params import shown
from pydllm.text import ChatTemplate, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

Chat = Sequence[Mapping[str, Any]]
"""A conversation: [{"role": "user", "content": "..."}, ...], oldest first."""
Prompt = str | Sequence[int] | Chat | Canvas
"""Text (special tokens are added), token ids (used as given), a conversation (the chat template is applied) or a
canvas with holes."""
Prompts = Prompt | Sequence[Prompt]


class TextSide:
    """The tokenizer and chat template of a checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer.load(directory)
        self.chat_template = ChatTemplate.load(directory, self.tokenizer)

    def encode(self, prompt: Prompt) -> list[int] | CanvasIds:
        """Token ids of one prompt; InvalidRequestError or UnsupportedError naming "prompt", "chat" or "canvas"."""
        if isinstance(prompt, Canvas):
            return prompt.tokenize(self.tokenizer.encode)
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, add_special_tokens=True, field="prompt")
        if is_chat(prompt):
            return self._encode_chat(prompt)  # type: ignore[arg-type]
        if is_ids(prompt):
            return list(prompt)  # type: ignore[arg-type]
        raise InvalidRequestError(
            "prompt", f"prompt: expected text, token ids, a list of messages or a Canvas, got {shown(prompt)}"
        )

    def _encode_chat(self, messages: Chat) -> list[int]:
        if self.chat_template is None:
            raise UnsupportedError("chat", "chat: this model has no chat template; give text or token ids")
        text = self.chat_template.render(messages, add_generation_prompt=True, field="chat")
        return self.tokenizer.encode(text, add_special_tokens=False, field="chat")


def is_chat(value: object) -> bool:
    """A list of messages."""
    return _is_list(value) and len(value) > 0 and isinstance(value[0], Mapping)  # type: ignore[arg-type, index]


def is_ids(value: object) -> bool:
    """A list (or array) of integers, as far as its first item tells; the core checks each of them."""
    if not _is_list(value):
        return False
    return len(value) > 0 and isinstance(value[0], numbers.Integral)  # type: ignore[arg-type, index]


def _is_list(value: object) -> bool:
    sequence = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return sequence or (hasattr(value, "__len__") and hasattr(value, "__array__") and hasattr(value, "__getitem__"))


def prompt_list(prompts: Prompts) -> list[Prompt]:
    """One prompt, or each of a list of prompts."""
    if isinstance(prompts, (str, Canvas)) or is_chat(prompts) or is_ids(prompts):
        return [prompts]  # type: ignore[list-item]
    if not _is_list(prompts):
        raise InvalidRequestError("prompt", f"prompt: expected a prompt or a list of prompts, got {shown(prompts)}")
    return list(prompts)  # type: ignore[arg-type]


def chat_list(messages: Chat | Sequence[Chat]) -> list[Prompt]:
    """One conversation, or each of a list of conversations; an empty list is an empty conversation."""
    several = _is_list(messages) and len(messages) > 0 and not is_chat(messages)
    chats: list[Any] = list(messages) if several else [messages]
    for chat in chats:
        if not is_chat(chat):
            raise InvalidRequestError("chat", f"chat: expected a non-empty list of messages, got {shown(chat)}")
    return chats
