"""Which fields of a request this server refuses when they are set. Every other field is honoured by convert.py;
a test walks the descriptors and proves that no field is in neither place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydllm.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message


@dataclass(frozen=True)
class Refusal:
    """A field of `GenerateRequest` by path, and the values that mean the same as not setting it."""

    path: str
    is_neutral: Callable[[Any], bool]
    why: str


def _only(*values: object) -> Callable[[Any], bool]:
    return lambda value: value in values


def _never(_: object) -> bool:
    return False


REFUSALS = (
    Refusal("constraint", _never, "constrained decoding is not available"),
    Refusal("output.logprobs", _never, "log-probabilities are not available"),
    Refusal("priority", _only(0), "this server has no priorities"),
    Refusal("cache_salt", _only(""), "this server has no prefix cache"),
)


def refuse_unsupported(request: Message) -> None:
    """Raises UnsupportedError for the first refused field of a GenerateRequest that is set to something."""
    for refusal in REFUSALS:
        holder, name = _resolve(request, refusal.path)
        if holder is not None and is_set(holder, name) and not refusal.is_neutral(getattr(holder, name)):
            raise UnsupportedError(refusal.path, f"{refusal.path}: {refusal.why}; leave it unset")


def is_set(message: Message, name: str) -> bool:
    """Whether the client set the field: presence where the field has it, else a non-default value."""
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    return message.HasField(name) if descriptor.has_presence else bool(getattr(message, name))


def _resolve(request: Message, path: str) -> tuple[Message | None, str]:
    *parents, name = path.split(".")
    holder = request
    for parent in parents:
        if not holder.HasField(parent):
            return None, name
        holder = getattr(holder, parent)
    return holder, name
