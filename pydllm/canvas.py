"""The prompt of an infilling request: fixed text and holes, in order. Errors name the proto's fields (CanvasInput)."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydllm.errors import InvalidRequestError
from pydllm.params import MAX_INT32, shown

_SEGMENTS = "canvas.segments"
_NOTHING_BEFORE = f"{_SEGMENTS}: expected at least one token before the first hole, got none"


@dataclass(frozen=True)
class Hole:
    """A stretch of exactly this many tokens to generate."""

    length: int


@dataclass(frozen=True)
class Canvas:
    """Segments of fixed text (str), fixed tokens (ids) and holes, at least one of them.

    The answer is what stands from the first hole to the end of the last one, fixed text between holes included; what
    is before the first hole is the prompt, what is behind the last one is seen by the model and not repeated.
    InvalidRequestError for anything else.
    """

    segments: Sequence[str | Sequence[int] | Hole]

    def __post_init__(self) -> None:
        if isinstance(self.segments, str) or not isinstance(self.segments, Sequence):
            raise InvalidRequestError(_SEGMENTS, f"{_SEGMENTS}: expected a sequence, got {shown(self.segments)}")
        for index, segment in enumerate(self.segments):
            _check_segment(f"{_SEGMENTS}[{index}]", segment)
        if not any(isinstance(segment, Hole) for segment in self.segments):
            raise InvalidRequestError(_SEGMENTS, f"{_SEGMENTS}: expected at least one hole, got none")

    def tokenize(self, encode: Callable[..., list[int]]) -> CanvasIds:
        """`encode(text, add_special_tokens=..., field=...)` is the tokenizer's. The canvas begins like a prompt: with
        the special tokens of its first segment's text; no other text gets any."""
        out: list[tuple[int, ...] | Hole] = []
        for index, segment in enumerate(self.segments):
            if isinstance(segment, Hole):
                out.append(segment)
            elif isinstance(segment, str):
                field = f"{_SEGMENTS}[{index}].text"
                out.append(tuple(encode(segment, add_special_tokens=index == 0, field=field)))
            else:
                out.append(tuple(segment))
        return CanvasIds(tuple(out))


@dataclass(frozen=True)
class CanvasIds:
    """A canvas in token ids."""

    segments: tuple[tuple[int, ...] | Hole, ...]

    @property
    def length(self) -> int:
        """Positions."""
        return sum(segment.length if isinstance(segment, Hole) else len(segment) for segment in self.segments)

    @property
    def holes(self) -> int:
        """Tokens to generate."""
        return sum(segment.length for segment in self.segments if isinstance(segment, Hole))

    def check_ids(self, vocab_size: int) -> None:
        """InvalidRequestError for the first id outside the vocabulary."""
        for index, segment in enumerate(self.segments):
            if isinstance(segment, Hole):
                continue
            for place, token in enumerate(segment):
                if not 0 <= token < vocab_size:
                    path = f"{_SEGMENTS}[{index}].token_ids.ids[{place}]"
                    message = f"{path}: expected an id in [0, {vocab_size - 1}], got {shown(token)}"
                    raise InvalidRequestError(path, message)

    def lay_out(self) -> tuple[list[int], list[int | None]]:
        """What stands before the first hole, and everything from there on with None in holes. Call it when `length` is
        known to be small enough."""
        positions: list[int | None] = []
        for segment in self.segments:
            positions.extend([None] * segment.length if isinstance(segment, Hole) else segment)
        first = positions.index(None)
        if first == 0:
            raise InvalidRequestError(_SEGMENTS, _NOTHING_BEFORE)
        return [token for token in positions[:first] if token is not None], positions[first:]


def _check_segment(path: str, segment: object) -> None:
    if isinstance(segment, str):
        return
    if isinstance(segment, Hole):
        if type(segment.length) is not int or not 1 <= segment.length <= MAX_INT32:
            message = f"{path}.mask_length: expected an integer in [1, {MAX_INT32}], got {shown(segment.length)}"
            raise InvalidRequestError(f"{path}.mask_length", message)
        return
    if not isinstance(segment, Sequence) or isinstance(segment, (bytes, bytearray)) or not all(map(_is_id, segment)):
        raise InvalidRequestError(path, f"{path}: expected text, token ids or a hole, got {shown(segment)}")


def _is_id(token: object) -> bool:
    return isinstance(token, numbers.Integral) and not isinstance(token, bool)
