"""Which request an event belongs to: the part that the asynchronous and the synchronous engine share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydllm import _core
from pydllm.engine.failures import request_error
from pydllm.errors import EngineStoppedError

if TYPE_CHECKING:
    from pydllm.engine.prepare import PreparedRequest

Sink = Callable[[int, _core.Event], None]
"""Takes (candidate index, event)."""

TERMINAL = ("finished", "failed")


@dataclass(frozen=True)
class Route:
    """Where the events of one candidate go."""

    index: int
    sink: Sink


class Router:
    """Submits the candidates of requests and hands out their events, from any thread.

    A route lives until its terminal event has come, also after `abandon`, which only stops the delivery.
    """

    def __init__(self, core: _core.Engine) -> None:
        self.lock = threading.RLock()  # reentrant: the garbage collector may abandon a request in the middle of a call
        self._core = core
        self._routes: dict[int, Route | None] = {}
        self._stopped = False

    def __len__(self) -> int:
        with self.lock:
            return len(self._routes)

    def submit(
        self,
        request: PreparedRequest,
        sink: Sink,
        *,
        deadline_seconds: float | None = None,
        snapshots: bool = False,
        trace: bool = False,
    ) -> list[int]:
        """Queues all candidates or none; their core ids by candidate index."""
        ids: list[int] = []
        with self.lock:
            if self._stopped:
                raise EngineStoppedError("the engine is shut down")
            try:
                for index, seed in enumerate(request.seeds):
                    ids.append(self._submit_one(request, seed, deadline_seconds, snapshots, trace))
                    self._routes[ids[-1]] = Route(index, sink)
            except _core.CoreError as error:
                self.abandon(ids)
                raise request_error(error) from None
        return ids

    def _submit_one(
        self,
        request: PreparedRequest,
        seed: int,
        deadline_seconds: float | None,
        snapshots: bool,
        trace: bool,
    ) -> int:
        return self._core.submit(
            request.prompt,
            max_tokens=request.max_tokens,
            algorithm=request.algorithm,
            params=request.params,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            logit_bias=request.logit_bias,
            min_tokens=request.min_tokens,
            seed=seed,
            eos_token_ids=request.eos_token_ids,
            stop_token_ids=request.stop_token_ids,
            max_repetition_run=request.max_repetition_run,
            max_forward_passes=request.max_forward_passes,
            deadline_seconds=deadline_seconds,
            snapshots=snapshots,
            trace=trace,
            rest=request.rest,
        )

    def abandon(self, ids: Iterable[int]) -> None:
        """Cancels requests and drops what they still send."""
        with self.lock:
            for request_id in ids:
                if request_id in self._routes:
                    self._routes[request_id] = None
                    self._core.cancel(request_id)

    def cancel(self, ids: Iterable[int]) -> None:
        """Cancels requests; their last events are still delivered."""
        with self.lock:
            for request_id in ids:
                if request_id in self._routes:
                    self._core.cancel(request_id)

    def dispatch(self, events: Iterable[_core.Event]) -> int:
        """Delivers events; how many requests ended."""
        ended = 0
        with self.lock:
            for event in events:
                route = self._routes.get(event.id)
                if event.kind in TERMINAL:
                    self._routes.pop(event.id, None)
                    ended += 1
                if route is not None:
                    route.sink(route.index, event)
        return ended

    def stop(self) -> None:
        """No later submission; events of the stopped core may still be dispatched."""
        with self.lock:
            self._stopped = True
