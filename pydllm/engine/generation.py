"""The events of one request on their way to its reader: the part that both engines' Generation share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.engine.failures import failure
from pydllm.engine.router import TERMINAL

if TYPE_CHECKING:
    from pydllm import _core
    from pydllm.engine.prepare import PreparedRequest

MAX_PENDING_SNAPSHOTS = 64
"""A reader this far behind gets no further provisional events (nothing final is ever dropped)."""


def provisional(event: _core.Event) -> bool:
    """Only a snapshot: a slow reader may miss it."""
    return event.kind == "step" and not event.final_tokens and not event.blocks and not event.canvas_before


class Candidates:
    """Which candidates of a request are still running."""

    def __init__(self, request: PreparedRequest, ids: list[int]) -> None:
        self.request = request
        self._ids = dict(enumerate(ids))

    def __bool__(self) -> bool:
        return bool(self._ids)

    def running(self) -> list[int]:
        """Core ids."""
        return list(self._ids.values())

    def is_running(self, index: int) -> bool:
        """Whether the reader still gets events of this candidate."""
        return index in self._ids

    def remove(self, index: int) -> int | None:
        """The core id of a candidate that was still running."""
        return self._ids.pop(index, None)

    def accept(self, index: int, event: _core.Event) -> bool:
        """Whether the reader should see this event; raises the error of a failed one."""
        if index not in self._ids:
            return False
        if event.kind in TERMINAL:
            self._ids.pop(index)
        if event.kind == "failed":
            raise failure(event)
        return True
