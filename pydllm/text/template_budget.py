"""What one rendering may spend: steps, time, memory. Estimates come before the work, so nothing large is ever
built."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_STEPS = 1_000_000
MAX_SECONDS = 1.0
"""CPU time of the rendering thread, so that a busy machine refuses nothing."""
MAX_DEPTH = 64
_BASE_CHARS = 4 << 20
_BASE_BYTES = 128 << 20
_QUADRATIC_BYTES = 384 << 20
_MAX_INT_BITS = 4096
_ITEM = 8
"""Characters that an element of a container costs beside its own text."""


class TemplateLimitError(SecurityError):
    """The template wants more than a chat template needs."""


class Budget:
    """The bounds of one rendering of `messages` messages; the request brought `input_chars` characters."""

    def __init__(self, input_chars: int = 0, messages: int = 1) -> None:
        self.max_chars = _BASE_CHARS + 8 * input_chars
        """Of one value, its repetitions inside containers counted as often as they would be printed."""
        # Templates that append to one text copy it with every message: quadratic, legitimate up to a point.
        appended = min(input_chars * (64 + messages), _QUADRATIC_BYTES)
        self._bytes_left = _BASE_BYTES + max(appended, 16 * input_chars)
        self._steps_left = MAX_STEPS
        self._deadline = time.thread_time() + MAX_SECONDS
        self._weights: dict[int, tuple[object, int, int]] = {}

    def tick(self, chars: int = 0) -> None:
        """One step, which writes `chars` characters of literal text."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise TemplateLimitError(f"takes more than {MAX_STEPS} steps")
        if time.thread_time() > self._deadline:
            raise TemplateLimitError(f"takes more than {MAX_SECONDS:g} s")
        self.spend(chars)

    def spend(self, size: int) -> None:
        """Takes `size` bytes from the memory budget."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise TemplateLimitError("builds too much text")

    def expect_chars(self, chars: int) -> None:
        """Refuses a value of this many characters before it is built."""
        if chars > self.max_chars:
            raise TemplateLimitError(f"builds a text of more than {self.max_chars} characters")

    def admit(self, value: Any) -> Any:
        """Charges a new value and returns it."""
        self.expect_chars(self.weight(value))
        if isinstance(value, str):
            self.spend(len(value) if value.isascii() else 4 * len(value))
        elif isinstance(value, list | tuple | Mapping):
            self.spend(64 * len(value))
        elif isinstance(value, int):
            self.expect_bits(value.bit_length())
        return value

    def expect_bits(self, bits: int) -> None:
        """Refuses an integer of this many bits."""
        if bits > _MAX_INT_BITS:
            raise TemplateLimitError("computes with too large integers")

    def weight(self, value: object) -> int:
        """Characters that printing `value` takes, about; an upper bound for text without escapes."""
        return self._weigh(value)[0]

    def _weigh(self, value: object) -> tuple[int, int]:
        """Characters and depth. Containers are remembered (and kept alive), so that growing one stays
        cheap."""
        if isinstance(value, str):
            return len(value), 0
        if isinstance(value, Mapping):
            return self._weigh_items(value, [*value.keys(), *value.values()])
        if isinstance(value, list | tuple | set | frozenset):
            return self._weigh_items(value, value)
        return 32, 0

    def _weigh_items(self, container: object, items: Any) -> tuple[int, int]:
        known = self._weights.get(id(container))
        if known is not None and known[0] is container:
            return known[1], known[2]
        chars, depth = 0, 0
        for item in items:
            item_chars, item_depth = self._weigh(item)
            chars += item_chars + _ITEM
            depth = max(depth, item_depth)
        if depth + 1 > MAX_DEPTH:
            raise TemplateLimitError(f"nests values deeper than {MAX_DEPTH}")
        self._weights[id(container)] = (container, chars, depth + 1)
        return chars, depth + 1


class OpaqueNamespace(Namespace):
    """jinja2's namespace(), printed without its content: that may refer to itself in exponentially many
    ways."""

    def __repr__(self) -> str:
        return "<namespace>"
