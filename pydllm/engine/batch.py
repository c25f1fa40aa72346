"""Many requests at once for threads: as many as the engine takes are in flight, the rest wait here."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from pydllm.engine.deadline import NO_PLACE_IN_TIME
from pydllm.engine.generation import Candidates
from pydllm.errors import DeadlineExceededError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pydllm import _core
    from pydllm.engine.deadline import Deadline
    from pydllm.engine.prepare import PreparedRequest
    from pydllm.engine.router import Sink
    from pydllm.engine.threaded import Pump

BatchQueue = queue.SimpleQueue[tuple[int, int, "_core.Event"]]


class Batch:
    """The events of a list of requests, `(request index, candidate index, event)` in the order of their
    arrival.

    A failed request raises its error after everything else is cancelled; leaving early cancels everything.
    """

    def __init__(self, pump: Pump, requests: Sequence[PreparedRequest], *, window: int, deadline: Deadline) -> None:
        """`window`: candidates in flight at most (at least one request always is). `deadline`: of each of them."""
        self._pump = pump
        self._requests = requests
        self._window = window
        self._deadline = deadline
        self._next = 0
        self._in_flight = 0
        self._full = False
        self._running: dict[int, Candidates] = {}
        self._events: BatchQueue = queue.SimpleQueue()

    def __iter__(self) -> Batch:
        return self

    def __next__(self) -> tuple[int, int, _core.Event]:
        try:
            self._fill()
            while self._running:
                request, index, event = self._events.get()
                if request in self._running and self._accept(request, index, event):
                    return request, index, event
                self._fill()
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def end(self, request: int, index: int) -> None:
        """This candidate is complete for its reader (a stop string matched)."""
        request_id = self._running[request].remove(index) if request in self._running else None
        if request_id is not None:
            self._pump.router.abandon([request_id])
            self._release(request)

    def close(self) -> None:
        """Cancels every request that runs; the rest is never submitted. Idempotent."""
        ids = [request_id for candidates in self._running.values() for request_id in candidates.running()]
        self._running.clear()
        self._next = len(self._requests)
        self._pump.router.abandon(ids)

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, request: int, index: int, event: _core.Event) -> bool:
        candidates = self._running[request]
        seen = candidates.accept(index, event)
        if seen and not candidates.is_running(index):
            self._release(request)
        return seen

    def _release(self, request: int) -> None:
        """A candidate has ended."""
        self._in_flight -= 1
        self._full = False
        if not self._running[request]:
            del self._running[request]

    def _fill(self) -> None:
        while self._next < len(self._requests) and not self._full:
            request = self._requests[self._next]
            if self._running and self._in_flight + len(request.seeds) > self._window:
                return
            ended = self._pump.ended()
            try:
                sink = self._sink(self._next)
                ids = self._pump.router.submit(request, sink, deadline_seconds=self._deadline.left())
            except QueueFullError:
                self._wait_for_room(ended)
                continue
            self._running[self._next] = Candidates(request, ids)
            self._in_flight += len(ids)
            self._next += 1

    def _wait_for_room(self, ended: int) -> None:
        """Others fill the queue: try again when one of ours ends, or of theirs when none of ours runs."""
        if self._running:
            self._full = True
        elif self._deadline.passed:
            raise DeadlineExceededError(NO_PLACE_IN_TIME)
        else:
            self._pump.wait_for_an_end(ended, self._deadline.left())

    def _sink(self, request: int) -> Sink:
        return lambda index, event: self._events.put((request, index, event))
