"""The engine for asyncio: one drain per wake-up of the event descriptor, one queue per request."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING

from pydllm import _core
from pydllm.engine.deadline import NO_PLACE_IN_TIME, Deadline
from pydllm.engine.generation import MAX_PENDING_SNAPSHOTS, Candidates, provisional
from pydllm.engine.prepare import PreparedRequest, prepare
from pydllm.engine.router import Router
from pydllm.errors import DeadlineExceededError, EngineStoppedError, PydllmError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pydllm.canvas import CanvasIds
    from pydllm.engine.loader import LoadedModel
    from pydllm.params import DiffusionParams, SamplingParams

EventQueue = asyncio.Queue[tuple[int, _core.Event]]


class AsyncGeneration:
    """The events of one running request, `(candidate index, event)` in the order of their arrival.

    An asynchronous iterator that ends after the last candidate's "finished" event. A "failed" event raises
    the matching error of pydllm.errors after the other candidates are cancelled. Leaving early (`aclose`,
    `async with`, cancellation of the reading task, garbage collection) cancels what still runs.
    """

    def __init__(self, engine: AsyncEngine, request: PreparedRequest, ids: list[int], queue: EventQueue) -> None:
        self.request = request
        self._engine = engine
        self._candidates = Candidates(request, ids)
        self._queue = queue

    def __aiter__(self) -> AsyncGeneration:
        return self

    async def __anext__(self) -> tuple[int, _core.Event]:
        try:
            while self._candidates:
                index, event = await self._queue.get()
                if self._candidates.accept(index, event):
                    return index, event
        except BaseException:
            self.cancel()
            raise
        raise StopAsyncIteration

    def end(self, index: int) -> None:
        """This candidate is complete for its reader (a stop string matched): no error, no further events of
        it."""
        request_id = self._candidates.remove(index)
        if request_id is not None:
            self._engine.abandon([request_id])

    def cancel(self) -> None:
        """Cancels every running candidate; the iterator ends. Idempotent."""
        running = self._candidates.running()
        self._candidates = Candidates(self.request, [])
        self._engine.abandon(running)

    def abort(self) -> bool:
        """Cancels what runs in the engine, for somebody else than the reader: the reader gets RequestCancelledError.

        False when nothing of it was running any more.
        """
        running = self._candidates.running()
        self._engine.abort(running)
        return bool(running)

    async def aclose(self) -> None:
        """The same as cancel."""
        self.cancel()

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()


class AsyncEngine:
    """An engine for one event loop at a time. Every method is called from that loop's thread.

    Several engines may live in one process and in one loop.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.facts = loaded.facts
        self._core = loaded.core
        self._router = Router(loaded.core)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        self._closed = False
        # Joins the engine thread before the interpreter goes, also when nobody called close.
        self._stop = weakref.finalize(self, self._core.stop)

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
    ) -> AsyncGeneration:
        """Checks and queues a request at once and returns its events.

        Raises InvalidRequestError (ContextLengthError), UnsupportedError, QueueFullError or
        EngineStoppedError here; DeadlineExceededError, InternalEngineError and EngineStoppedError from the
        iterator. `deadline_seconds` counts from now; a request that has denoised by then ends in time with what
        is final (finish reason "step_limit").
        """
        request = self.prepare(prompt_ids, sampling, diffusion)
        return self.submit(request, deadline_seconds=deadline_seconds, snapshots=snapshots, trace=trace)

    def submit(
        self,
        request: PreparedRequest,
        *,
        deadline_seconds: float | None = None,
        snapshots: bool = False,
        trace: bool = False,
    ) -> AsyncGeneration:
        """Like `generate`, for a request that is already prepared."""
        if self._closed:
            raise EngineStoppedError("the engine is shut down")
        self._attach(asyncio.get_running_loop())
        queue: EventQueue = asyncio.Queue()

        def sink(index: int, event: _core.Event) -> None:
            if queue.qsize() < MAX_PENDING_SNAPSHOTS or not provisional(event):
                queue.put_nowait((index, event))

        ids = self._router.submit(request, sink, deadline_seconds=deadline_seconds, snapshots=snapshots, trace=trace)
        return AsyncGeneration(self, request, ids, queue)

    async def submit_when_possible(
        self, request: PreparedRequest, *, deadline_seconds: float | None = None, snapshots: bool = False
    ) -> AsyncGeneration:
        """Like `submit`, but waits while the queue is full, until the deadline (DeadlineExceededError)."""
        deadline = Deadline(deadline_seconds)
        while True:
            try:
                return self.submit(request, deadline_seconds=deadline.left(), snapshots=snapshots)
            except QueueFullError:
                if deadline.passed:
                    raise DeadlineExceededError(NO_PLACE_IN_TIME) from None
                self._room.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), deadline.left())

    def abandon(self, ids: list[int]) -> None:
        """Cancels core requests whose events nobody reads any more."""
        self._router.abandon(ids)

    def abort(self, ids: list[int]) -> None:
        """Cancels core requests whose readers are to hear of it."""
        self._router.cancel(ids)

    def stats(self) -> _core.EngineStats:
        """Counters of the core."""
        return self._core.stats()

    async def ended(self) -> None:
        """Returns when the engine has ended by itself or by `close`: it serves no more."""
        self._attach(asyncio.get_running_loop())
        await self._ended.wait()

    async def close(self) -> None:
        """Stops the engine; requests that still run end with EngineStoppedError. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._router.stop()
        await asyncio.to_thread(self._stop)
        self._on_readable()
        self._detach()
        self._room.set()

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed() and len(self._router):
            raise PydllmError("the engine is serving another event loop")
        self._detach()
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        loop.add_reader(self._core.event_fd, self._on_readable)
        self._loop = loop

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._core.event_fd)
        self._loop = None

    def _on_readable(self) -> None:
        if self._router.dispatch(self._core.drain()):
            self._room.set()
        if self._core.ended:
            self._ended.set()
            self._room.set()
