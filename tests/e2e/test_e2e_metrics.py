"""The Prometheus pages of both processes say what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from asking import CHAT, client_of, unary
from prometheus_client.parser import text_string_to_metric_families
from stack import Stack, get

if TYPE_CHECKING:
    from collections.abc import Callable

CORE = {
    "pydllm_num_requests_running", "pydllm_num_requests_waiting", "pydllm_kv_cache_usage_perc",
    "pydllm_time_to_first_token_seconds", "pydllm_e2e_request_latency_seconds", "pydllm_generation_tokens",
    "pydllm_prompt_tokens", "pydllm_request_success", "pydllm_forward_passes", "pydllm_steps_per_block",
    "pydllm_tokens_per_forward", "pydllm_time_to_first_block_seconds", "pydllm_inter_block_latency_seconds",
    "pydllm_forward_batch_size", "pydllm_requests_cancelled",
}  # fmt: skip
HTTP = {"requests", "requests_in_flight", "request_duration_seconds", "time_to_first_chunk_seconds"}


def families(page: str) -> dict[str, dict[str, float]]:
    """The page as Prometheus' own parser reads it: family -> sums of its samples by name."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(page):
        assert family.documentation, family.name
        sums = found.setdefault(family.name, {})
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return found


def test_both_pages_parse_and_have_the_core_names(stack: Stack, record_property: Callable[[str, object], None]) -> None:
    engine, gateway = families(get(stack.metrics_url)), families(get(stack.url + "/metrics"))
    assert set(engine) >= CORE
    assert set(gateway) >= {f"pydllm_gateway_http_{name}" for name in HTTP}
    assert not [name for name in engine if not name.startswith("pydllm_")]
    record_property("figure", f"{len(engine)} engine families, {len(gateway)} on the gateway's page")


async def test_counters_agree_with_the_answers(stack: Stack) -> None:
    before = stack.engine()
    async with client_of(stack.url) as client:
        usages = [
            (await unary(client, "/v1/chat/completions", {"messages": CHAT, "n": 2, "max_tokens": size}))[1]
            for size in (3, 16, 40)
        ]
    after = stack.engine()
    for name in ("prompt_tokens", "completion_tokens"):
        counter = name.replace("completion", "generation") + "_total"
        assert after[counter] - before[counter] == sum(usage[name] for usage in usages)
    assert after["request_success_total"] - before["request_success_total"] == 6


def test_labels_never_hold_a_clients_words(stack: Stack) -> None:
    import urllib.error

    for path in ("/v1/models/secret-name", "/secret-path", "/v1/models?secret=query"):
        try:
            get(stack.url + path)
        except urllib.error.HTTPError:
            continue
    assert "secret" not in get(stack.metrics_url) + get(stack.url + "/metrics")


@pytest.mark.slow
def test_vllms_names_are_there_on_request() -> None:
    with Stack("--metrics-alias") as stack:
        page = families(get(stack.metrics_url))
    assert {"vllm:num_requests_running", "vllm:generation_tokens", "vllm:diffusion_num_denoising_steps"} <= set(page)
