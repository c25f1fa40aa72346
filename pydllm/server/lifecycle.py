"""The phases of a server process and the calls that are running in it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import TYPE_CHECKING

from pydllm.server.errors import DrainingError, StartingError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Phase(enum.Enum):
    """STARTING until weights and a warm-up forward are done; DRAINING from the first SIGTERM."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Lifecycle:
    """Admits calls while SERVING and knows when the last one has ended. Event-loop thread only."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopped = asyncio.Event()
        """Set once a drain is over."""
        self._limit: asyncio.Timeout | None = None

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """One admitted call; raises StartingError or DrainingError when none is admitted."""
        if self.phase is Phase.STARTING:
            raise StartingError("the server is still loading the model")
        if self.phase is Phase.DRAINING:
            raise DrainingError("the server is shutting down")
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    @property
    def running_calls(self) -> int:
        """Admitted calls that have not ended."""
        return self._running

    async def idle(self, timeout_seconds: float) -> bool:
        """Waits until no call runs; False when that took longer than this, or than `hurry` allowed meanwhile."""
        try:
            async with asyncio.timeout(timeout_seconds) as self._limit:
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._limit = None
        return True

    def hurry(self, seconds: float) -> None:
        """Lets an `idle` that is waiting end within this time."""
        end = asyncio.get_running_loop().time() + seconds
        if self._limit is not None and end < (self._limit.when() or end):
            self._limit.reschedule(end)
