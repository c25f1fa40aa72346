"""What the services count, as Prometheus metrics (docs/metrics.md). A request reports through an Observer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from pydllm_proto.v1 import types_pb2

from pydllm.errors import RequestCancelledError
from pydllm.server import errors
from pydllm.server.metrics_core import CoreCollector, WithAliases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.duration_pb2 import Duration
    from pydllm_proto.v1 import generation_service_pb2 as pb

    from pydllm.server.candidate import Candidate
    from pydllm.server.metrics_core import Stats
    from pydllm.text.events import Event

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of its own per counter, and no name of ours

LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Seconds."""
TOKEN_TIME = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Seconds."""
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
TOKENS_PER_FORWARD = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)

FINISH_REASONS = tuple(
    name.removeprefix("FINISH_REASON_").lower() for name, value in types_pb2.FinishReason.items() if value
)
FAILURE_CODES = (
    "INVALID_ARGUMENT",
    "UNIMPLEMENTED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
)


class Metrics:
    """The registry of one served model. Observed on the event loop, rendered from any thread."""

    def __init__(self, model_name: str, stats: Callable[[], Stats], *, alias: bool = False) -> None:
        """`stats`: the core's counters now; any thread. `alias`: vLLM's names as well."""
        self._model_name = model_name
        self._registry = CollectorRegistry()
        self._registry.register(CoreCollector(model_name, stats))
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that were admitted.")
        self.generation_tokens = self._counter("generation_tokens", "Generated tokens handed to requests.")
        self.cancelled = self._counter("requests_cancelled", "Requests whose client left or that were aborted.")
        self.succeeded = self._counters(
            "request_success", "Candidates that finished, by reason.", "finished_reason", FINISH_REASONS
        )
        self.failed = self._counters(
            "requests_failed", "Requests that ended with an error, by gRPC status.", "code", FAILURE_CODES
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Arrival of a request to its first final tokens.", LATENCY
        )
        self.latency = self._histogram("e2e_request_latency_seconds", "Arrival of a request to its end.", LATENCY)
        self.queue_time = self._histogram("request_queue_time_seconds", "Time in the waiting queue.", LATENCY)
        self.request_prompt_tokens = self._histogram("request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self.request_generation_tokens = self._histogram(
            "request_generation_tokens", "Generated tokens of a request, all candidates.", TOKENS
        )
        self.time_per_token = self._histogram(
            "time_per_output_token_seconds", "Generation time of a candidate by its tokens.", TOKEN_TIME
        )
        self.first_block = self._histogram(
            "time_to_first_block_seconds", "Admission of a candidate to its first final block.", LATENCY
        )
        self.between_blocks = self._histogram(
            "inter_block_latency_seconds", "Time between a candidate's final blocks.", LATENCY
        )
        self.steps_per_block = self._histogram("steps_per_block", "Denoising steps of a final block.", STEPS)
        self.tokens_per_forward = self._histogram(
            "tokens_per_forward", "Tokens of a candidate by its forward passes.", TOKENS_PER_FORWARD
        )
        self._shown = _with_aliases(self._registry) if alias else self._registry

    def render(self) -> bytes:
        """Everything in Prometheus text format 0.0.4."""
        return generate_latest(self._shown)

    def _counter(self, name: str, help_text: str) -> Counter:
        family = Counter(f"pydllm_{name}", help_text, ("model_name",), registry=self._registry)
        return family.labels(self._model_name)

    def _counters(self, name: str, help_text: str, label: str, values: Iterable[str]) -> dict[str, Counter]:
        """One counter per value of a label; all are there from the beginning, and no others ever."""
        family = Counter(f"pydllm_{name}", help_text, ("model_name", label), registry=self._registry)
        return {value: family.labels(self._model_name, value) for value in values}

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
        family = Histogram(f"pydllm_{name}", help_text, ("model_name",), registry=self._registry, buckets=buckets)
        return family.labels(self._model_name)


def _with_aliases(registry: CollectorRegistry) -> CollectorRegistry:
    both = CollectorRegistry()
    both.register(WithAliases(registry))
    return both


class Observer:
    """Reports one request from its arrival to its end. As a context manager it hears how the request ended."""

    def __init__(
        self, metrics: Metrics, *, deadline: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`deadline`: on the clock."""
        self._metrics = metrics
        self.deadline = deadline
        self._clock = clock
        self._arrived = clock()
        self._prompt_tokens = 0
        self._running: set[int] | None = None
        self._tokens = 0
        self._last_block: dict[int, float] = {}

    def submitted(self, *, prompt_tokens: int, candidates: int) -> None:
        """The engine has taken the request."""
        self._prompt_tokens = prompt_tokens
        self._running = set(range(candidates))

    def accepted(self, candidate: Candidate, event: Event, blocks: Sequence[pb.BlockAppended]) -> None:
        """An event of a candidate and the blocks that it made final."""
        if event.kind == "started":
            self._start(event)
        filled = [block for block in blocks if block.token_ids]
        if filled:
            self._append(candidate.index, event.time, filled)
        if self._running and candidate.index in self._running and candidate.finished is not None:
            self._running.discard(candidate.index)
            self._finish(candidate.finished, candidate.token_count)

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or self._running == set():  # a client that leaves after the end took nothing away
            return
        code = self._code(error)
        if code in self._metrics.failed:
            self._metrics.failed[code].inc()
        else:
            self._metrics.cancelled.inc()

    def _start(self, event: Event) -> None:
        if self._prompt_tokens:
            self._metrics.prompt_tokens.inc(self._prompt_tokens)
            self._metrics.request_prompt_tokens.observe(self._prompt_tokens)
            self._metrics.queue_time.observe(event.queue_seconds)
            self._prompt_tokens = 0

    def _append(self, index: int, now: float, blocks: list[pb.BlockAppended]) -> None:
        metrics = self._metrics
        tokens = sum(len(block.token_ids) for block in blocks)
        if not self._tokens:
            metrics.first_token.observe(self._clock() - self._arrived)
        if index in self._last_block:
            metrics.between_blocks.observe(now - self._last_block[index])
        self._last_block[index] = now
        self._tokens += tokens
        metrics.generation_tokens.inc(tokens)
        for block in blocks:
            metrics.steps_per_block.observe(block.denoise_steps)

    def _finish(self, done: pb.CandidateFinished, tokens: int) -> None:
        metrics = self._metrics
        metrics.succeeded[_reason(done)].inc()
        metrics.tokens_per_forward.observe(done.stats.tokens_per_forward)
        if tokens:
            metrics.first_block.observe(_seconds(done.stats.time_to_first_block))
            metrics.time_per_token.observe(_seconds(done.stats.generation_time) / tokens)
        if not self._running:
            metrics.latency.observe(self._clock() - self._arrived)
            metrics.request_generation_tokens.observe(self._tokens)

    def _code(self, error: BaseException) -> str:
        """The name of the status; "" for a request that was cancelled."""
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            # gRPC cancels a call whose deadline has passed, often before the engine's word comes.
            return "DEADLINE_EXCEEDED" if self.deadline is not None and self._clock() >= self.deadline else ""
        if isinstance(error, RequestCancelledError):
            return ""
        failure = errors.failure_of(error)
        return "INTERNAL" if failure is None else str(failure.code.name)


def _reason(done: pb.CandidateFinished) -> str:
    name: str = types_pb2.FinishReason.Name(done.finish_reason)
    return name.removeprefix("FINISH_REASON_").lower()


def _seconds(duration: Duration) -> float:
    seconds: Any = duration.seconds + duration.nanos / 1e9
    return float(seconds)
