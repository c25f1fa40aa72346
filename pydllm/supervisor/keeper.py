"""Keeps one child running: its first start counts, every later end is answered with a new start."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydllm.supervisor.child import Child, End, no_start

if TYPE_CHECKING:
    from pydllm.supervisor.child import Event, Spec

log = logging.getLogger("pydllm.supervisor")


class StartError(Exception):
    """A child could not start; one line. `code` is the exit code: 1 failed, 2 wrong usage."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds."""

    first_backoff: float = 0.5
    """Between an end and the next start; doubles with every end that follows soon."""
    longest_backoff: float = 30.0
    settled: float = 60.0
    """A child that was ready for this long starts again with the first backoff."""
    drain: float = 45.0
    """From SIGTERM to SIGKILL for a child that was ready."""
    starting: float = 5.0
    """The same for one that has not accepted anything yet."""


class Backoff:
    """How long to wait before the next start."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._next = timing.first_backoff

    def after(self, lived: float) -> float:
        """Seconds, after a run that was ready for `lived` seconds."""
        if lived >= self._timing.settled:
            self._next = self._timing.first_backoff
        delay = self._next
        self._next = min(2 * delay, self._timing.longest_backoff)
        return delay


class Keeper:
    """One kept child. Starts at once; needs a running event loop."""

    def __init__(self, spec: Spec, timing: Timing) -> None:
        self.ready: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        """The first ready event, or StartError."""
        self._spec = spec
        self._timing = timing
        self._child: Child | None = None
        self._stopping = asyncio.Event()
        self._killed = False
        self.task = asyncio.create_task(self._run())
        """Ends after `stop`, and after a failed first start."""
        self.task.add_done_callback(self._failed)

    async def stop(self, grace: float) -> bool:
        """SIGTERM, and SIGKILL after `grace` seconds. Whether everything it had accepted was finished."""
        self._stopping.set()
        child = self._child
        if child is None or not child.is_ready:
            grace = min(grace, self._timing.starting)
        if child is not None:
            child.terminate()
        done, _ = await asyncio.wait({self.task}, timeout=grace)
        if not done:
            log.error("%s process did not end within %g s of SIGTERM and is killed", self._spec.name, grace)
            self.kill()
        end = await self.task
        return end is None or self._drained(end)

    def kill(self) -> None:
        """Ends the child at once; it is not started again."""
        self._stopping.set()
        self._killed = True
        if self._child is not None:
            self._child.kill()

    def _drained(self, end: End) -> bool:
        if end.status == 0 or self._child is None or not self._child.is_ready:
            return True
        if not self._killed:
            log.error("%s instead of draining", end.words)
        return False

    async def _run(self) -> End | None:
        """How the last run ended; None when it was told to stop between two runs."""
        backoff = Backoff(self._timing)
        while True:
            end, lived = await self._life()
            if self._stopping.is_set():
                return end
            if not self.ready.done():
                raise StartError(end.message or f"{end.words} before it was ready", end.code)
            delay = backoff.after(lived)
            why = f" ({end.message})" if end.message else ""
            log.error("%s%s; starting it again in %g s", end.words, why, delay)
            if await self._stopped_within(delay):
                return None

    async def _life(self) -> tuple[End, float]:
        """One run: how it ended and how many seconds it was ready."""
        try:
            self._child = child = await Child.start(self._spec)
        except OSError as error:
            return no_start(self._spec.name, error), 0.0
        if self._stopping.is_set():  # meanwhile
            child.kill() if self._killed else child.terminate()
        clock = asyncio.get_running_loop().time
        begin, event = clock(), await child.ready()
        if event is None:
            return await child.end(), 0.0
        ready = clock()
        self._became_ready(child, event, ready - begin)
        end = await child.end()
        return end, clock() - ready

    def _became_ready(self, child: Child, event: Event, seconds: float) -> None:
        if self.ready.done():
            log.warning("%s process %d is ready again after %.1f s", self._spec.name, child.pid, seconds)
            return
        self._spec = replace(self._spec, config=_pinned(self._spec.config, event))
        self.ready.set_result(event)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _failed(self, task: asyncio.Task[End | None]) -> None:
        """Whoever waits for the first start hears of what ended the task."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.ready.done():
            self.ready.set_exception(error)


def _pinned(config: Event, event: Event) -> Event:
    """The configuration with the ports that the child chose itself, so that clients find it again after a restart."""
    server = config.get("server")
    if isinstance(server, dict):
        chosen = {"port": event.get("grpc_port"), "metrics_port": event.get("metrics_port")}
        return {**config, "server": {**server, **{key: port for key, port in chosen.items() if port}}}
    return {**config, "port": event["port"]} if event.get("port") else config
