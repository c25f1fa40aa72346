"""AdminService: load and counters, and an operator's hand on running requests. Registered only where it is enabled."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and passes the context

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from pydllm_proto.v1 import admin_service_pb2 as pb
from pydllm_proto.v1 import admin_service_pb2_grpc as pb_grpc

from pydllm._version import __version__
from pydllm.engine.memory import used_memory
from pydllm.errors import InvalidRequestError
from pydllm.params import shown
from pydllm.server.lifecycle import Phase
from pydllm.server.rates import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.duration_pb2 import Duration

    from pydllm.engine.loader import LoadedModel
    from pydllm.server.lifecycle import Lifecycle
    from pydllm.server.rpc import Context
    from pydllm.server.served import Backend, Served

log = logging.getLogger("pydllm.server")

MIN_INTERVAL_SECONDS = 0.1
MAX_INTERVAL_SECONDS = 3600.0
DEFAULT_INTERVAL_SECONDS = 1.0
MAX_REASON = 256
"""Characters."""


class AdminService(pb_grpc.AdminServiceServicer):
    """pydllm.v1.AdminService. Raises the errors of pydllm.errors; the guard turns them into statuses."""

    def __init__(self, backend: Backend, lifecycle: Lifecycle) -> None:
        self._backend = backend
        self._lifecycle = lifecycle
        self._started = Timestamp()
        self._started.GetCurrentTime()
        self._window: Window | None = None
        self._sampler: asyncio.Task[None] | None = None

    def watch(self, served: Served) -> None:
        """Begins to measure rates. Event loop only, as is all of this."""
        self._window = Window(served.engine.stats)
        self._sampler = asyncio.create_task(self._window.run())

    async def close(self) -> None:
        """Ends the measuring. Idempotent."""
        if self._sampler is not None:
            self._sampler.cancel()
            await asyncio.gather(self._sampler, return_exceptions=True)

    async def GetServerStats(self, request: pb.GetServerStatsRequest, context: Context) -> pb.GetServerStatsResponse:
        """Load and counters now."""
        return self._stats()

    async def WatchServerStats(
        self, request: pb.WatchServerStatsRequest, context: Context
    ) -> AsyncIterator[pb.WatchServerStatsResponse]:
        """The same at once and then at the interval, until the server has drained."""
        seconds = _interval(request)
        while True:
            yield pb.WatchServerStatsResponse(stats=self._stats())
            if self._lifecycle.stopped.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lifecycle.stopped.wait(), seconds)

    async def AbortRequests(self, request: pb.AbortRequestsRequest, context: Context) -> pb.AbortRequestsResponse:
        """Ends requests, by exact id or all of them. What is not in flight is not listed and is no error."""
        self._backend.model("")
        if request.all and request.request_ids:
            raise InvalidRequestError("request_ids", "request_ids: expected none together with all")
        if len(request.reason) > MAX_REASON:
            message = f"reason: expected at most {MAX_REASON} characters, got {len(request.reason)}"
            raise InvalidRequestError("reason", message)
        requests = self._backend.requests
        ids = requests.ids() if request.all else request.request_ids
        message = f"aborted by an operator: {request.reason}" if request.reason else "aborted by an operator"
        aborted = requests.abort(ids, message)
        log.warning("%d requests aborted by an operator, reason %r", len(aborted), request.reason)
        return pb.AbortRequestsResponse(aborted_request_ids=aborted)

    async def FlushCache(self, request: pb.FlushCacheRequest, context: Context) -> pb.FlushCacheResponse:
        """Nothing is kept beyond its request, so nothing is freed."""
        self._backend.model("")
        return pb.FlushCacheResponse(freed_blocks=0)

    def _stats(self) -> pb.GetServerStatsResponse:
        served = self._backend.model("")
        return pb.GetServerStatsResponse(
            version=__version__,
            started=self._started,
            draining=self._lifecycle.phase is Phase.DRAINING,
            engines=[_engine(served, self._window or Window(served.engine.stats))],
        )


def _engine(served: Served, window: Window) -> pb.EngineStats:
    stats, rates, loaded = served.engine.stats(), window.rates(), served.engine.loaded
    config = loaded.config
    return pb.EngineStats(
        running_requests=stats.running,
        waiting_requests=stats.waiting,
        max_running_requests=config.max_running_requests,
        max_waiting_requests=config.max_waiting_requests,
        kv_cache_usage=stats.pages_used / stats.pages_total if stats.pages_total else 0.0,
        kv_cache_token_capacity=stats.pages_total * config.page_size,
        generation_tokens_per_second=rates.tokens_per_second,
        tokens_per_forward=rates.tokens_per_forward,
        steps_per_block=rates.steps_per_block,
        forward_passes_total=stats.steps,
        device=_device(loaded),
        device_memory_used_bytes=used_memory(loaded.info.device),
    )


def _device(loaded: LoadedModel) -> str:
    if loaded.info.device == "cpu":
        return f"cpu ({loaded.config.threads or len(os.sched_getaffinity(0))} threads)"
    return f"{loaded.info.device} (matrix products: {loaded.matmul})"


def _interval(request: pb.WatchServerStatsRequest) -> float:
    if not request.HasField("interval"):
        return DEFAULT_INTERVAL_SECONDS
    given: Duration = request.interval
    seconds: float = given.seconds + given.nanos / 1e9
    if not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        expected = f"{MIN_INTERVAL_SECONDS:g} to {MAX_INTERVAL_SECONDS:g} s"
        raise InvalidRequestError("interval", f"interval: expected {expected}, got {shown(seconds)} s")
    return seconds
