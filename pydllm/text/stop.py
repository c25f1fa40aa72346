"""Stop strings over streamed text: one automaton for all of them, one step per character."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydllm.errors import InvalidRequestError
from pydllm.text.tokenizer import require_text

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_STOPS = 16
MAX_STOP_LENGTH = 4096
"""Characters of one stop string."""


@dataclass(frozen=True)
class StopMatch:
    """A stop string found in the text, in characters from the text's beginning."""

    stop: str
    start: int
    end: int


class StopMatcher:
    """Finds the stop string that is complete first; of several that end at one character, the one listed
    first.

    `push` characters; `held` says how many of the last ones may be the beginning of a stop string. Every
    result is independent of how the text was split.
    """

    def __init__(self, stops: Sequence[str], *, field: str = "sampling.stop") -> None:
        """InvalidRequestError(field) unless there are at most 16 non-empty strings of at most 4096
        characters."""
        _check_stops(stops, field)
        self._stops = tuple(stops)
        self._children: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._fail = [0]
        self._found: list[int | None] = [None]
        for index, stop in enumerate(self._stops):
            self._add(stop, index)
        self._link()
        self._state = 0
        self._length = 0
        self._match: StopMatch | None = None

    @property
    def match(self) -> StopMatch | None:
        """The match that ended the text; characters pushed afterwards change nothing."""
        return self._match

    @property
    def length(self) -> int:
        """Characters seen, up to the end of the match."""
        return self._length

    @property
    def held(self) -> int:
        """How many of the last characters are the beginning of a stop string; 0 after a match."""
        return 0 if self._match else self._depth[self._state]

    def push(self, text: str) -> StopMatch | None:
        """Reads `text`; the match when there is one (now or before)."""
        if self._match or len(self._depth) == 1:
            self._length += 0 if self._match else len(text)
            return self._match
        for character in text:
            self._length += 1
            self._state = self._next(self._state, character)
            found = self._found[self._state]
            if found is not None:
                stop = self._stops[found]
                self._match = StopMatch(stop, self._length - len(stop), self._length)
                break
        return self._match

    def _next(self, state: int, character: str) -> int:
        while state and character not in self._children[state]:
            state = self._fail[state]
        return self._children[state].get(character, 0)

    def _add(self, stop: str, index: int) -> None:
        state = 0
        for character in stop:
            if character not in self._children[state]:
                self._children[state][character] = len(self._children)
                self._children.append({})
                self._depth.append(self._depth[state] + 1)
                self._fail.append(0)
                self._found.append(None)
            state = self._children[state][character]
        self._found[state] = _first(self._found[state], index)

    def _link(self) -> None:
        """Breadth first: the failure link of a state, and the best match that ends there."""
        queue = deque(self._children[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._children[state].items():
                self._fail[child] = self._next(self._fail[state], character)
                queue.append(child)
            self._found[state] = _first(self._found[state], self._found[self._fail[state]])


def _first(a: int | None, b: int | None) -> int | None:
    return min((i for i in (a, b) if i is not None), default=None)


def _check_stops(stops: Sequence[str], field: str) -> None:
    if isinstance(stops, str | bytes):
        raise InvalidRequestError(field, f"expected a list of strings, got {type(stops).__name__}")
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(field, f"expected at most {MAX_STOPS} stop strings, got {len(stops)}")
    for index, stop in enumerate(stops):
        require_text(stop, f"{field}[{index}]")
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise InvalidRequestError(
                f"{field}[{index}]", f"expected 1 to {MAX_STOP_LENGTH} characters, got {len(stop)}"
            )
