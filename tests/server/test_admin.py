"""AdminService: absent unless enabled; its numbers are the engine's, and an abort ends exactly what it names."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydllm_proto.v1 import admin_service_pb2 as admin_pb
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import metrics_service_pb2, types_pb2
from serving import EMPTY_STATS, Client, refused, running

from pydllm.server import admin_service
from pydllm.server.rates import WINDOW_SECONDS, Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pydllm.server.served import Served

Code = grpc.StatusCode


@pytest.fixture
async def client(scripted: Client) -> AsyncIterator[Client]:
    async for one in running(scripted.served, enable_admin=True):
        yield one


@pytest.fixture
async def busy(demo_served: Served) -> AsyncIterator[Client]:
    """The real engine."""
    async for one in running(demo_served, enable_admin=True):
        yield one


async def services(client: Client) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    return {service.name for service in answers[0].list_services_response.service}


async def test_the_service_is_not_there_unless_enabled(scripted: Client, client: Client) -> None:
    failure = await refused(scripted.admin.GetServerStats(admin_pb.GetServerStatsRequest()))
    assert failure.code is Code.UNIMPLEMENTED
    assert "pydllm.v1.AdminService" not in await services(scripted)
    assert "pydllm.v1.AdminService" in await services(client)


def long(request_id: str, **sampling: Any) -> pb.GenerateRequest:
    """Hundreds of forward passes."""
    return pb.GenerateRequest(
        request_id=request_id,
        prompt="x",
        sampling=types_pb2.SamplingParams(**{"max_tokens": 240, "ignore_eos": True, **sampling}),
        diffusion=types_pb2.DiffusionParams(algorithm="llada_schedule", block_length=8),
    )


async def start(client: Client, request: pb.GenerateRequest) -> Any:
    call = client.generation.StreamGenerate(pb.StreamGenerateRequest(request=request))
    assert (await call.read()).HasField("started")
    return call


async def until(client: Client, reached: Callable[[admin_pb.EngineStats], bool]) -> admin_pb.EngineStats:
    """The first stats for which this holds."""
    async with asyncio.timeout(30):
        while not reached(engine := (await client.admin.GetServerStats(admin_pb.GetServerStatsRequest())).engines[0]):
            pass
    return engine


async def rest(call: Any) -> list[Any]:
    """The messages that are still to come."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def abort(client: Client, *ids: str, **fields: Any) -> list[str]:
    answer = await client.admin.AbortRequests(admin_pb.AbortRequestsRequest(request_ids=ids, **fields))
    return list(answer.aborted_request_ids)


async def test_stats_are_the_engines(busy: Client) -> None:
    call = await start(busy, long("one", n=2))
    engine = await until(busy, lambda engine: engine.running_requests == 2)
    stats = await busy.admin.GetServerStats(admin_pb.GetServerStatsRequest())
    config = busy.served.engine.loaded.config
    assert engine.waiting_requests == 0
    assert engine.max_running_requests == config.max_running_requests
    assert engine.max_waiting_requests == config.max_waiting_requests
    assert 0 < engine.kv_cache_usage <= 1
    assert engine.kv_cache_token_capacity >= busy.served.max_context_length
    assert engine.device.startswith("cpu (")
    assert engine.device_memory_used_bytes > 10_000_000
    assert 0 < engine.forward_passes_total <= busy.served.engine.stats().steps
    assert stats.started.seconds > 1_700_000_000
    assert not stats.draining
    call.cancel()


def test_on_a_cuda_device_the_stats_say_who_multiplies() -> None:
    loaded: Any = SimpleNamespace(info=SimpleNamespace(device="cuda:0"), matmul="builtin (no cuBLASLt)")
    assert admin_service._device(loaded) == "cuda:0 (matrix products: builtin (no cuBLASLt))"


@pytest.mark.parametrize("unary", [True, False])
async def test_an_aborted_request_ends_cancelled_and_frees_its_pages(unary: bool, busy: Client) -> None:
    call = busy.generation.Generate(long("one")) if unary else await start(busy, long("one"))
    await until(busy, lambda engine: engine.running_requests == 1)
    assert await abort(busy, "one", reason="too long") == ["one"]
    failure = await refused(call if unary else rest(call))
    assert (failure.code, failure.reason) == (Code.CANCELLED, "ABORTED")
    assert failure.message == "aborted by an operator: too long"
    await until(busy, lambda engine: engine.kv_cache_usage == 0)
    assert await abort(busy, "one") == []


async def test_an_abort_matches_ids_exactly_and_leaves_the_others(busy: Client) -> None:
    calls = {name: await start(busy, long(name, seed=1, max_tokens=120)) for name in ("1", "10", "100")}
    assert await abort(busy, "10", "10", "0", "") == ["10"]
    assert (await refused(rest(calls.pop("10")))).code is Code.CANCELLED
    for name, call in calls.items():
        assert sum(message.HasField("finished") for message in await rest(call)) == 1, name


async def test_all_ends_running_and_queued_requests_and_the_server_goes_on(busy: Client) -> None:
    limit = busy.served.engine.loaded.config.max_running_requests
    calls = [busy.generation.Generate(long(f"r{index}", max_tokens=200)) for index in range(limit + 4)]
    await until(busy, lambda engine: engine.waiting_requests == 4)
    assert sorted(await abort(busy, all=True)) == sorted(f"r{index}" for index in range(limit + 4))
    for failure in await asyncio.gather(*(refused(call) for call in calls)):
        assert (failure.code, failure.message) == (Code.CANCELLED, "aborted by an operator")
    short = pb.GenerateRequest(prompt="x", request_id="r0", sampling=types_pb2.SamplingParams(max_tokens=2))
    assert (await busy.generation.Generate(short)).usage.completion_tokens


async def test_an_aborted_request_is_counted_once_as_cancelled(busy: Client) -> None:
    before = await lines(busy)
    call = await start(busy, long("one", n=3))
    assert await abort(busy, "one") == ["one"]
    assert await abort(busy, "one") == []
    await refused(rest(call))
    after = await lines(busy)
    moved = {name for name in after if after[name] != before[name]}
    assert after["pydllm_requests_cancelled_total"] == before["pydllm_requests_cancelled_total"] + 1
    assert not any("failed" in name or "success" in name for name in moved)


async def lines(client: Client) -> dict[str, float]:
    """The counters of a page, labels cut away except the last."""
    response = await client.metrics.GetMetrics(metrics_service_pb2.GetMetricsRequest())
    pairs = (line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    return {name.replace('{model_name="demo"}', ""): float(value) for name, value in pairs}


async def test_a_request_aborted_before_the_engine_has_it_never_runs(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its prompt is tokenized in a thread there is nothing to cancel in the engine yet."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(served: Served, prompt: Any) -> tuple[list[int], str | None]:
        inside.set()
        await go_on.wait()
        return [40], "x"

    monkeypatch.setattr("pydllm.server.generation_service.encode_prompt", slowly)
    call = client.generation.Generate(pb.GenerateRequest(prompt="x", request_id="one"))
    await inside.wait()
    assert await abort(client, "one") == ["one"]
    go_on.set()
    assert (await refused(call)).reason == "ABORTED"
    assert client.engine.cancelled.is_set() or not client.engine.submitted.is_set()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (admin_pb.AbortRequestsRequest(all=True, request_ids=["a"]), "request_ids"),
        (admin_pb.AbortRequestsRequest(reason="x" * 257), "reason"),
    ],
)
async def test_a_bad_abort_is_refused(request_: admin_pb.AbortRequestsRequest, field: str, client: Client) -> None:
    failure = await refused(client.admin.AbortRequests(request_))
    assert (failure.code, failure.fields) == (Code.INVALID_ARGUMENT, [field])


async def test_a_reason_cannot_forge_log_lines(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await abort(client, "nobody", reason="bye\n2026-01-01 ERROR all is lost")
    assert any("aborted by an operator" in record.getMessage() for record in caplog.records)
    assert not any("\n" in record.getMessage() for record in caplog.records)


async def test_flushing_frees_nothing_because_nothing_is_kept(client: Client) -> None:
    assert (await client.admin.FlushCache(admin_pb.FlushCacheRequest())).freed_blocks == 0


async def test_a_watch_reports_at_its_interval(client: Client) -> None:
    interval = duration_pb2.Duration(nanos=100_000_000)
    watch = client.admin.WatchServerStats(admin_pb.WatchServerStatsRequest(interval=interval))
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(4):
        assert len((await watch.read()).stats.engines) == 1
        times.append(loop.time())
    assert times[-1] - times[0] >= 0.25
    watch.cancel()


@pytest.mark.parametrize("nanos", [0, 99_000_000, -5])
async def test_an_interval_under_a_tenth_of_a_second_is_refused(nanos: int, client: Client) -> None:
    interval = duration_pb2.Duration(nanos=nanos)
    failure = await refused(client.admin.WatchServerStats(admin_pb.WatchServerStatsRequest(interval=interval)))
    assert (failure.code, failure.fields) == (Code.INVALID_ARGUMENT, ["interval"])


async def test_an_operator_can_abort_what_a_drain_waits_for_and_watchers_see_its_end(client: Client) -> None:
    client.engine.script.insert(1, asyncio.Event())
    call = client.generation.Generate(pb.GenerateRequest(prompt="x", request_id="one"))
    await client.engine.at_gate.wait()
    watch = client.admin.WatchServerStats(admin_pb.WatchServerStatsRequest(interval=duration_pb2.Duration(seconds=60)))
    assert not (await watch.read()).stats.draining
    drain = asyncio.create_task(client.app.drain())
    while not (await client.admin.GetServerStats(admin_pb.GetServerStatsRequest())).draining:
        pass
    assert await abort(client, "one") == ["one"]
    assert (await refused(call)).reason == "ABORTED"
    assert [message.stats.draining for message in await rest(watch)] == [True]
    assert await drain is True


def stats(**fields: int) -> SimpleNamespace:
    return SimpleNamespace(**{**EMPTY_STATS, **fields})


def test_rates_are_those_of_the_window() -> None:
    now = [100.0]
    counters = [stats()]
    window = Window(lambda: counters[0], clock=lambda: now[0])  # type: ignore[arg-type, return-value]
    assert (window.rates().tokens_per_second, window.rates().steps_per_block) == (0, 0)
    counters[0] = stats(final_tokens=100, request_forwards=50, denoise_steps=40, blocks_finished=10)
    now[0] += 2
    rates = window.rates()
    assert (rates.tokens_per_second, rates.tokens_per_forward, rates.steps_per_block) == (50, 2, 4)
    for _ in range(int(WINDOW_SECONDS) + 1):
        window.sample()
        now[0] += 1
    assert window.rates().tokens_per_second == 0
