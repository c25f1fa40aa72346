"""The core's counters at the moment of a scrape, and metrics under vLLM's names."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import CollectorRegistry

_LABELS = ("model_name",)


class Stats(Protocol):
    """What is read of pydllm._core.EngineStats."""

    @property
    def FORWARD_BATCH_BOUNDS(self) -> Sequence[int]: ...  # noqa: N802
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def pages_total(self) -> int: ...
    @property
    def pages_used(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def request_forwards(self) -> int: ...
    @property
    def forward_tokens(self) -> int: ...
    @property
    def final_tokens(self) -> int: ...
    @property
    def denoise_steps(self) -> int: ...
    @property
    def blocks_finished(self) -> int: ...
    @property
    def canvas_positions(self) -> int: ...
    @property
    def forward_batch_sizes(self) -> Sequence[int]: ...


_COUNTERS: Sequence[tuple[str, str, Callable[[Stats], int]]] = (
    ("request_forward_passes", "Forward passes summed over requests.", lambda stats: stats.request_forwards),
    ("forward_tokens", "Tokens fed to the model.", lambda stats: stats.forward_tokens),
    ("denoise_steps", "Denoising steps summed over requests.", lambda stats: stats.denoise_steps),
    ("blocks_finished", "Blocks that became final.", lambda stats: stats.blocks_finished),
    ("canvas_positions", "Block positions that denoising steps worked on.", lambda stats: stats.canvas_positions),
    ("committed_tokens", "Tokens that became final, wanted or not.", lambda stats: stats.final_tokens),
)


class CoreCollector(Collector):
    """Reads the core's counters when it is asked."""

    def __init__(self, model_name: str, stats: Callable[[], Stats]) -> None:
        self._model_name = model_name
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One family per counter."""
        stats = self._stats()
        yield self._gauge("num_requests_running", "Candidates in the running batch.", stats.running)
        yield self._gauge("num_requests_waiting", "Candidates waiting for admission.", stats.waiting)
        usage = stats.pages_used / stats.pages_total if stats.pages_total else 0.0
        yield self._gauge("kv_cache_usage_perc", "Share of K/V pages in use, 0 to 1.", usage)
        yield self._forward_passes(stats)
        for name, help_text, read in _COUNTERS:
            family = CounterMetricFamily(f"pydllm_{name}", help_text, labels=_LABELS)
            family.add_metric([self._model_name], read(stats))
            yield family
        yield self._batch_sizes(stats)

    def _gauge(self, name: str, help_text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"pydllm_{name}", help_text, labels=_LABELS)
        family.add_metric([self._model_name], value)
        return family

    def _forward_passes(self, stats: Stats) -> Metric:
        family = CounterMetricFamily("pydllm_forward_passes", "Forward passes by phase.", labels=(*_LABELS, "phase"))
        family.add_metric([self._model_name, "denoise"], stats.steps)
        return family

    def _batch_sizes(self, stats: Stats) -> Metric:
        bounds = [*map(str, map(float, stats.FORWARD_BATCH_BOUNDS)), "+Inf"]
        counts = itertools.accumulate(stats.forward_batch_sizes)
        family = HistogramMetricFamily("pydllm_forward_batch_size", "Requests in a forward pass.", labels=_LABELS)
        family.add_metric(
            [self._model_name], list(zip(bounds, counts, strict=True)), sum_value=float(stats.request_forwards)
        )
        return family


_SAME = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prompt_tokens",
    "generation_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
)
ALIASES = {
    **{f"pydllm_{name}": f"vllm:{name}" for name in _SAME},
    "pydllm_denoise_steps": "vllm:diffusion_num_denoising_steps",
    "pydllm_canvas_positions": "vllm:diffusion_num_canvas_positions",
    "pydllm_committed_tokens": "vllm:diffusion_num_committed_tokens",
}
"""Our families and their vLLM names."""


_VLLM_REASONS = {"stop_sequence": "stop", "step_limit": "length", "repetition": "length"}
"""Reasons that OpenAI's words, which vLLM uses, do not tell apart."""


class WithAliases(Collector):
    """Another registry's families, and right behind each one that vLLM has its copy under that name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Ours and theirs."""
        for family in self._registry.collect():
            yield family
            if family.name in ALIASES:
                yield _alias(family, ALIASES[family.name])


def _alias(family: Metric, name: str) -> Metric:
    alias = Metric(name, family.documentation, family.type)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        labels = {**sample.labels}
        if "finished_reason" in labels:
            labels["finished_reason"] = _VLLM_REASONS.get(labels["finished_reason"], labels["finished_reason"])
        key = (name + sample.name.removeprefix(family.name), tuple(labels.items()))
        values[key] = values.get(key, 0.0) + sample.value
    for (sample_name, pairs), value in values.items():
        alias.add_sample(sample_name, dict(pairs), value)
    return alias
