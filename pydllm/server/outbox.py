"""What one stream still has to send: final messages in order, and at most one provisional block per candidate.

A slow reader therefore costs bounded memory: final text is bounded by max_tokens, and provisional blocks replace each
other. Event-loop thread only; one writer, one reader.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydllm_proto.v1.generation_service_pb2 import StreamGenerateResponse

    from pydllm.outputs import BlockSnapshot


@dataclass
class _Slot:
    """The provisional state of one candidate."""

    pending: BlockSnapshot | None = None
    wanted: bool = False
    sent_at: float = field(default=float("-inf"))


class Outbox:
    """Final messages first, then provisional ones whose time has come."""

    def __init__(self, *, step_interval: int, min_interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._step_interval = step_interval
        self._min_interval = min_interval
        self._clock = clock
        self._final: collections.deque[StreamGenerateResponse | BlockSnapshot] = collections.deque()
        self._slots: dict[int, _Slot] = collections.defaultdict(_Slot)
        self._closed = False
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    def put(self, message: StreamGenerateResponse) -> None:
        """A message that is always sent."""
        self._final.append(message)
        self._changed.set()

    def offer(self, snapshot: BlockSnapshot) -> None:
        """A provisional block; replaces the candidate's last one that was not sent yet."""
        slot = self._slots[snapshot.index]
        slot.pending = snapshot
        slot.wanted = slot.wanted or snapshot.step % self._step_interval == 0
        self._changed.set()

    def drop(self, candidate: int) -> None:
        """The candidate's block became final: what was provisional about it is of no use."""
        slot = self._slots[candidate]
        slot.pending, slot.wanted = None, False

    def flush(self, candidate: int) -> None:
        """The candidate ends with this block unfinished: its last state is sent whatever the intervals say."""
        slot = self._slots[candidate]
        if slot.pending is not None:
            self._final.append(slot.pending)
            self.drop(candidate)

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; `get` ends after what is final, with `error` if there is one."""
        self._closed = True
        self._error = error
        self._changed.set()

    async def get(self) -> StreamGenerateResponse | BlockSnapshot | None:
        """The next thing to send, waiting for it; None at the end. Raises what `close` was given."""
        while True:
            self._changed.clear()
            if self._final:
                return self._final.popleft()
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            snapshot, wait = self._due()
            if snapshot is not None:
                return snapshot
            await self._wait(wait)

    def _due(self) -> tuple[BlockSnapshot | None, float | None]:
        """A provisional block whose time has come, else the seconds until the next one's time."""
        now = self._clock()
        waits = []
        for slot in self._slots.values():
            if slot.pending is None or not slot.wanted:
                continue
            wait = slot.sent_at + self._min_interval - now
            if wait <= 0:
                snapshot, slot.pending, slot.wanted, slot.sent_at = slot.pending, None, False, now
                return snapshot, None
            waits.append(wait)
        return None, min(waits, default=None)

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
