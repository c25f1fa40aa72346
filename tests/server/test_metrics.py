"""Metrics agree with what clients got, every name follows the rules, and the page shows what the service says."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from process import ROOT
from prometheus_client.parser import text_string_to_metric_families
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import metrics_service_pb2, types_pb2
from serving import Client, block, event, refused, running

from pydllm.errors import InternalEngineError
from pydllm.server.app import App
from pydllm.server.config import ServerConfig
from pydllm.server.listen import PortError
from pydllm.server.metrics import FAILURE_CODES, FINISH_REASONS, Metrics
from pydllm.server.metrics_core import ALIASES
from pydllm.server.metrics_page import MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Metric

    from pydllm.server.served import Served

Code = grpc.StatusCode


async def scrape(client: Client) -> str:
    response = await client.metrics.GetMetrics(metrics_service_pb2.GetMetricsRequest())
    return str(response.text)


class Values:
    """The samples of a page by name and the values of their labels (the model's name aside)."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = {
            (sample.name, *(value for key, value in sample.labels.items() if key != "model_name")): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __getitem__(self, name: str | tuple[str, ...]) -> float:
        key = (name,) if isinstance(name, str) else name
        return self._samples[(f"pydllm_{key[0]}" if ":" not in key[0] else key[0], *key[1:])]

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._samples

    def moved(self, before: Values, name: str | tuple[str, ...]) -> float:
        return self[name] - before[name]


async def values(client: Client) -> Values:
    return Values(await scrape(client))


async def until(client: Client, reached: Callable[[Values], bool]) -> Values:
    """The first scrape for which this holds: the end of a call is counted after its client has left."""
    async with asyncio.timeout(30):
        while not reached(now := await values(client)):
            pass
    return now


def sampled(**fields: Any) -> types_pb2.SamplingParams:
    return types_pb2.SamplingParams(**{"max_tokens": 24, "seed": 1, **fields})


REQUESTS = (
    pb.GenerateRequest(prompt="Solve: 12 + 30.", sampling=sampled(ignore_eos=True)),
    pb.GenerateRequest(prompt="Solve: 1 + 2.", sampling=sampled(n=3, temperature=1.0)),
    pb.GenerateRequest(
        chat=types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content="Solve: 12 + 30.")]),
        sampling=sampled(stop=["="]),
    ),
    pb.GenerateRequest(prompt="Echo me.", sampling=sampled(), output=types_pb2.OutputOptions(echo=True)),
    pb.GenerateRequest(
        prompt_token_ids=types_pb2.TokenIds(ids=[40, 41]),
        sampling=sampled(ignore_eos=True, max_tokens=50),
        diffusion=types_pb2.DiffusionParams(algorithm="llada_schedule", block_length=8, max_forward_passes=20),
    ),
)


async def delivered(client: Client) -> list[tuple[types_pb2.Usage, list[int], list[types_pb2.DiffusionStats]]]:
    """Every request once whole and once as a stream: usage, finish reasons, statistics."""
    out = []
    for request in REQUESTS:
        request = pb.GenerateRequest.FromString(request.SerializeToString())
        request.output.stats = True
        whole = await client.generation.Generate(request)
        candidates = whole.candidates
        out.append((whole.usage, [c.finish_reason for c in candidates], [c.stats for c in candidates]))
        messages = [m async for m in client.generation.StreamGenerate(pb.StreamGenerateRequest(request=request))]
        ends = [message.finished for message in messages if message.HasField("finished")]
        out.append((messages[-1].usage, [end.finish_reason for end in ends], [end.stats for end in ends]))
    return out


async def test_metrics_agree_with_what_was_delivered(demo: Client, record_property: Any) -> None:
    before = await values(demo)
    answers = await delivered(demo)
    after = await values(demo)
    generated = sum(usage.completion_tokens for usage, _, _ in answers)
    prompts = sum(usage.prompt_tokens for usage, _, _ in answers)
    stats = [one for _, _, many in answers for one in many]
    assert generated > 0
    assert after.moved(before, "generation_tokens_total") == generated
    assert after.moved(before, "prompt_tokens_total") == prompts
    assert after.moved(before, "request_generation_tokens_sum") == generated
    assert after.moved(before, "request_prompt_tokens_sum") == prompts
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert after.moved(before, f"{name}_count") == len(answers)
    given = [types_pb2.FinishReason.Name(reason) for _, reasons, _ in answers for reason in reasons]
    assert len(set(given)) == 4  # all but repetition
    for reason in FINISH_REASONS:
        expected = given.count(f"FINISH_REASON_{reason.upper()}")
        assert after.moved(before, ("request_success_total", reason)) == expected, reason
    assert after.moved(before, "tokens_per_forward_count") == len(stats)
    assert after.moved(before, "tokens_per_forward_sum") == pytest.approx(sum(one.tokens_per_forward for one in stats))
    assert after.moved(before, "steps_per_block_count") == sum(one.blocks for one in stats)
    assert after.moved(before, "inter_block_latency_seconds_count") > 0
    assert after.moved(before, "requests_cancelled_total") == 0
    assert all(after.moved(before, ("requests_failed_total", code)) == 0 for code in FAILURE_CODES)
    record_property("figure", f"metrics: {generated} tokens delivered, {generated} reported")


async def test_the_cores_counters_agree_with_its_statistics(demo: Client) -> None:
    before = await values(demo)
    answers = await delivered(demo)
    after = await values(demo)
    stats = [one for _, _, many in answers for one in many]
    # A stop string ends a candidate before its engine knows: the core may have done more than was reported.
    assert after.moved(before, "request_forward_passes_total") >= sum(one.forward_passes for one in stats)
    assert after.moved(before, "denoise_steps_total") >= sum(one.denoise_steps for one in stats)
    assert after.moved(before, "committed_tokens_total") >= after.moved(before, "generation_tokens_total")
    assert after.moved(before, "canvas_positions_total") > after.moved(before, "denoise_steps_total")
    assert after.moved(before, "blocks_finished_total") > 0
    assert after.moved(before, "forward_tokens_total") > 0
    forwards = after.moved(before, ("forward_passes_total", "denoise"))
    assert after.moved(before, "forward_batch_size_count") == forwards
    assert after.moved(before, "forward_batch_size_sum") == after.moved(before, "request_forward_passes_total")
    assert forwards < after.moved(before, "request_forward_passes_total")  # three candidates share theirs
    idle = await until(demo, lambda now: not now["num_requests_running"])
    assert (idle["num_requests_waiting"], idle["kv_cache_usage_perc"]) == (0, 0)


async def test_load_shows_while_it_is_there(demo: Client) -> None:
    request = pb.GenerateRequest(
        prompt="x",
        sampling=sampled(max_tokens=240, ignore_eos=True, n=2),
        diffusion=types_pb2.DiffusionParams(algorithm="llada_schedule", block_length=8),
    )
    call = demo.generation.StreamGenerate(pb.StreamGenerateRequest(request=request))
    await call.read()
    busy = await until(demo, lambda now: now["num_requests_running"] == 2)
    assert 0 < busy["kv_cache_usage_perc"] <= 1
    call.cancel()
    await until(demo, lambda now: not now["num_requests_running"] and not now["kv_cache_usage_perc"])


@pytest.mark.parametrize("unary", [True, False])
async def test_a_client_that_leaves_is_a_cancelled_request_and_nothing_else(unary: bool, scripted: Client) -> None:
    scripted.engine.script = [
        (0, event("started")),
        (0, event(final_tokens=[40, 41], blocks=[block(0, 0, 2)])),
        asyncio.Event(),
    ]
    request = pb.GenerateRequest(prompt="x")
    stream = pb.StreamGenerateRequest(request=request)
    call = scripted.generation.Generate(request) if unary else scripted.generation.StreamGenerate(stream)
    await scripted.engine.at_gate.wait()
    call.cancel()
    now = await until(scripted, lambda now: now["requests_cancelled_total"] == 1)
    assert now["generation_tokens_total"] == 2  # final, and handed to the call before it ended
    assert all(now["request_success_total", reason] == 0 for reason in FINISH_REASONS)
    assert all(now["requests_failed_total", code] == 0 for code in FAILURE_CODES)
    assert now["e2e_request_latency_seconds_count"] == 0


async def test_refused_and_failed_requests_are_counted_by_status(scripted: Client) -> None:
    generate = scripted.generation.Generate
    for request in (
        pb.GenerateRequest(),
        pb.GenerateRequest(prompt="x", model="nope"),
        pb.GenerateRequest(prompt="x", cache_salt="s"),
    ):
        await refused(generate(request))
    bad = pb.StreamGenerateRequest(request=pb.GenerateRequest(prompt="x"), options=pb.StreamOptions(mode=77))  # type: ignore[arg-type]
    await refused(scripted.generation.StreamGenerate(bad))
    scripted.engine.waiting = 4
    await refused(generate(pb.GenerateRequest(prompt="x")))
    scripted.engine.waiting = 0
    for error in (InternalEngineError("non-finite logits"), ValueError("a bug")):
        scripted.engine.script = [(0, event("started")), error]
        await refused(generate(pb.GenerateRequest(prompt="x")))
    now = await values(scripted)
    counted = {code: now["requests_failed_total", code] for code in FAILURE_CODES}
    assert {code: count for code, count in counted.items() if count} == {
        "INVALID_ARGUMENT": 2,
        "NOT_FOUND": 1,
        "UNIMPLEMENTED": 1,
        "RESOURCE_EXHAUSTED": 1,
        "INTERNAL": 2,
    }
    assert now["requests_cancelled_total"] == 0


async def test_a_deadline_that_passes_is_no_cancellation(scripted: Client) -> None:
    scripted.engine.script.insert(1, asyncio.Event())
    failure = await refused(scripted.generation.Generate(pb.GenerateRequest(prompt="x"), timeout=0.2))
    assert failure.code is Code.DEADLINE_EXCEEDED
    now = await until(scripted, lambda now: now["requests_failed_total", "DEADLINE_EXCEEDED"] == 1)
    assert now["requests_cancelled_total"] == 0


async def test_every_failure_of_the_error_table_has_its_series() -> None:
    from pydllm.server import errors

    cancelled = {"CANCELLED", "UNAUTHENTICATED"}  # counted as such; never reaches the service
    assert {row.code.name for row in errors._TABLE} - cancelled | {"INTERNAL"} == set(FAILURE_CODES)


async def test_a_clients_words_never_become_labels(scripted: Client) -> None:
    await refused(scripted.generation.Generate(pb.GenerateRequest(prompt="x", model='evil"} 1\n')))
    before = await scrape(scripted)
    for index in range(20):
        request = pb.GenerateRequest(prompt="x", model=f"model-{index}", request_id=f"r-{index}")
        await refused(scripted.generation.Generate(request))
    after = await scrape(scripted)
    assert len(before.splitlines()) == len(after.splitlines())
    models = {sample.labels["model_name"] for family in Values(after).families for sample in family.samples}
    assert models == {"scripted"}


def linted(family: Metric) -> list[str]:
    """What promtool would complain about."""
    own = family.name.removeprefix("pydllm_").removeprefix("vllm:")
    wrong = {
        "no help": not family.documentation,
        "name": not re.fullmatch(r"(pydllm_|vllm:)[a-z][a-z0-9_]*", family.name),
        "type in the name": bool(re.search(r"_(counter|gauge|histogram|summary)s?(_|$)", own)),
        "abbreviated unit": bool(re.search(r"_(ms|s|sec|msec|milliseconds|mins|hours|kb|mb|ratio_percent)(_|$)", own)),
        "reserved suffix": family.type != "counter" and own.endswith(("_total", "_count", "_sum", "_bucket")),
        "counter without _total": family.type == "counter"
        and any(not sample.name.endswith("_total") for sample in family.samples),
        "labels": any(not re.fullmatch(r"[a-z][a-z_]*", label) for sample in family.samples for label in sample.labels),
        "empty": not family.samples,
    }
    return [f"{family.name}: {problem}" for problem, found in wrong.items() if found]


async def test_every_name_follows_the_rules_and_histograms_add_up(scripted: Client) -> None:
    await scripted.generation.Generate(pb.GenerateRequest(prompt="x"))
    async for client in running(scripted.served, metrics_alias=True):
        text = await scrape(client)
    families = Values(text).families
    assert len(families) > 20 + len(ALIASES)
    assert [problem for family in families for problem in linted(family)] == []
    assert len({family.name for family in families}) == len(families)
    assert "_created" not in text
    for family in families:
        if family.type == "histogram":
            counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            total = next(sample.value for sample in family.samples if sample.name.endswith("_count"))
            assert counts == sorted(counts)
            assert counts[-1] == total


async def test_the_documentation_lists_every_metric_and_no_other(scripted: Client) -> None:
    documented = set(re.findall(r"^\| `(pydllm_\w+)", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    exposed = {
        family.name + ("_total" if family.type == "counter" else "") for family in (await values(scripted)).families
    }
    assert documented == exposed
    aliases = set(re.findall(r"`(vllm:\w+)`", (ROOT / "docs/metrics.md").read_text()))
    async for client in running(scripted.served, metrics_alias=True):
        families = (await values(client)).families
    assert aliases == {
        family.name + ("_total" if family.type == "counter" else "")
        for family in families
        if family.name.startswith("vllm:")
    }


async def test_aliases_show_the_same_numbers_under_vllms_names(demo_served: Served) -> None:
    async for client in running(demo_served, metrics_alias=True):
        await delivered(client)
        now = await values(client)
        assert now["vllm:generation_tokens_total"] == now["generation_tokens_total"] > 0
        assert now["vllm:time_to_first_token_seconds_count"] == now["time_to_first_token_seconds_count"]
        assert now["vllm:diffusion_num_denoising_steps_total"] == now["denoise_steps_total"] > 0
        assert now["vllm:diffusion_num_canvas_positions_total"] == now["canvas_positions_total"] > 0
        assert now["vllm:diffusion_num_committed_tokens_total"] == now["committed_tokens_total"] > 0
        ours = {reason: now["request_success_total", reason] for reason in FINISH_REASONS}
        assert now["vllm:request_success_total", "stop"] == ours["stop"] + ours["stop_sequence"] > ours["stop"]
        assert now["vllm:request_success_total", "length"] == ours["length"] + ours["step_limit"] > ours["length"]
        assert ("vllm:request_success_total", "repetition") not in now
    async for client in running(demo_served):
        assert "vllm:" not in await scrape(client)


def test_a_scrape_reads_the_core_at_its_moment(scripted: Client) -> None:
    metrics = Metrics("m", scripted.engine.stats)
    assert Values(metrics.render().decode())["num_requests_waiting"] == 0
    scripted.engine.waiting = 3
    assert Values(metrics.render().decode())["num_requests_waiting"] == 3


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("content-type", ""), response.read().decode()
    finally:
        connection.close()


async def test_the_page_shows_what_the_service_says(scripted: Client) -> None:
    async for client in running(scripted.served, metrics_port=0):
        assert client.app.metrics_port
        status, kind, text = await asyncio.to_thread(get, client.app.metrics_port, "/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert text == await scrape(client)
        assert (await asyncio.to_thread(get, client.app.metrics_port, "/metrics?x=1"))[0] == 200
        for path in ("/", "/metricsx", "/metrics/../etc/passwd"):
            assert (await asyncio.to_thread(get, client.app.metrics_port, path))[0] == 404
        assert (await asyncio.to_thread(get, client.app.metrics_port, "/metrics", "POST"))[0] == 501


async def test_the_page_is_empty_before_a_model_is_served_and_gone_after_the_end() -> None:
    app = App(ServerConfig(port=0, metrics_port=0))
    await app.start()
    assert app.metrics_port
    assert await asyncio.to_thread(get, app.metrics_port, "/metrics") == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        "",
    )
    await app.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(get, app.metrics_port, "/metrics")


async def test_a_metrics_port_in_use_refuses_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = App(ServerConfig(port=0, metrics_port=port))
        with pytest.raises(PortError, match=f"metrics_port: 127.0.0.1:{port} is in use"):
            await app.start()
        await app.close()


async def test_connections_to_the_page_are_limited_and_come_back(scripted: Client) -> None:
    async for client in running(scripted.served, metrics_port=0):
        port = client.app.metrics_port
        assert port
        idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(MAX_CONNECTIONS)]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one_more:
            assert await asyncio.to_thread(one_more.recv, 1) == b""
        for connection in idle:
            connection.close()
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(answers, port):
                pass


def answers(port: int) -> bool:
    try:
        return get(port, "/metrics")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
