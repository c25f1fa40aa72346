"""The engine for ordinary threads: one pump thread waits for events and fills one queue per request."""

from __future__ import annotations

import os
import queue
import select
import threading
import weakref
from typing import TYPE_CHECKING

from pydllm import _core
from pydllm.engine.batch import Batch
from pydllm.engine.deadline import Deadline
from pydllm.engine.generation import MAX_PENDING_SNAPSHOTS, Candidates, provisional
from pydllm.engine.prepare import PreparedRequest, prepare
from pydllm.engine.router import Router

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pydllm.canvas import CanvasIds
    from pydllm.engine.loader import LoadedModel
    from pydllm.params import DiffusionParams, SamplingParams

EventQueue = queue.SimpleQueue[tuple[int, _core.Event]]


class Pump:
    """Owns the router and the thread. Knows nothing of its Engine, so that dropping the Engine ends the
    thread."""

    def __init__(self, core: _core.Engine) -> None:
        self.router = Router(core)
        self._core = core
        self._changed = threading.Condition(self.router.lock)
        self._ended = 0
        self._stopped = False
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="pydllm-events", daemon=True)
        self._thread.start()

    def ended(self) -> int:
        """Requests that have ended so far."""
        with self._changed:
            return self._ended

    def wait_for_an_end(self, seen: int, seconds: float | None = None) -> None:
        """Returns when more than `seen` requests have ended (a place in the queue is free), the engine stops or
        so much time has passed."""
        timeout = None if seconds is None else min(seconds, threading.TIMEOUT_MAX)
        with self._changed:
            self._changed.wait_for(lambda: self._ended > seen or self._stopped, timeout)

    def close(self) -> None:
        """Stops the core, delivers its last events and ends the thread. Idempotent."""
        self.router.stop()
        with self._changed:
            write, self._stop_write = self._stop_write, -1
        if write < 0:
            return
        self._core.stop()
        os.close(write)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._core.event_fd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        stopped = False
        while not stopped:
            stopped = any(descriptor == self._stop_read for descriptor, _ in poll.poll())
            self._deliver(stopped)
        os.close(self._stop_read)

    def _deliver(self, stopped: bool) -> None:
        events = self._core.drain()
        with self._changed:
            self._ended += self.router.dispatch(events)
            self._stopped = stopped
            self._changed.notify_all()


class Generation:
    """The events of one running request; the counterpart of AsyncGeneration for threads."""

    def __init__(self, pump: Pump, request: PreparedRequest, ids: list[int], events: EventQueue) -> None:
        self.request = request
        self._pump = pump
        self._candidates = Candidates(request, ids)
        self._events = events

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> tuple[int, _core.Event]:
        try:
            while self._candidates:
                index, event = self._events.get()
                if self._candidates.accept(index, event):
                    return index, event
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def end(self, index: int) -> None:
        """This candidate is complete for its reader (a stop string matched): no error, no further events of
        it."""
        request_id = self._candidates.remove(index)
        if request_id is not None:
            self._pump.router.abandon([request_id])

    def close(self) -> None:
        """Cancels every running candidate; the iterator ends. Idempotent."""
        running = self._candidates.running()
        self._candidates = Candidates(self.request, [])
        if running:
            self._pump.router.abandon(running)

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Engine:
    """An engine for ordinary threads; every method may be called from any of them."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.facts = loaded.facts
        self._core = loaded.core
        self._pump = Pump(loaded.core)
        self._finalizer = weakref.finalize(self, self._pump.close)

    def prepare(
        self,
        prompt_ids: Sequence[int] | CanvasIds,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
    ) -> PreparedRequest:
        """The request with every default filled in; raises what `generate` raises for a bad one."""
        return prepare(prompt_ids, self.facts, sampling, diffusion)

    def generate(
        self,
        prompt_ids: Sequence[int] | CanvasIds,
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
        deadline_seconds: float | None = None,
        snapshots: bool = False,
        trace: bool = False,
    ) -> Generation:
        """Checks and queues a request at once and returns its events. Raises as AsyncEngine.generate does."""
        request = self.prepare(prompt_ids, sampling, diffusion)
        return self.submit(request, deadline_seconds=deadline_seconds, snapshots=snapshots, trace=trace)

    def submit(
        self,
        request: PreparedRequest,
        *,
        deadline_seconds: float | None = None,
        snapshots: bool = False,
        trace: bool = False,
    ) -> Generation:
        """Like `generate`, for a request that is already prepared."""
        events: EventQueue = queue.SimpleQueue()

        def sink(index: int, event: _core.Event) -> None:
            if events.qsize() < MAX_PENDING_SNAPSHOTS or not provisional(event):
                events.put((index, event))

        ids = self._pump.router.submit(
            request, sink, deadline_seconds=deadline_seconds, snapshots=snapshots, trace=trace
        )
        return Generation(self._pump, request, ids, events)

    def batch(self, requests: Sequence[PreparedRequest], *, deadline_seconds: float | None = None) -> Batch:
        """Runs a list of prepared requests of any length; submitted as the engine has room, none before
        `next`. `deadline_seconds` counts from now, for all of them."""
        window = 2 * self.loaded.config.max_running_requests
        return Batch(self._pump, requests, window=window, deadline=Deadline(deadline_seconds))

    def stats(self) -> _core.EngineStats:
        """Counters of the core."""
        return self._core.stats()

    def close(self) -> None:
        """Stops the engine; requests that still run end with EngineStoppedError. Idempotent."""
        self._finalizer()
