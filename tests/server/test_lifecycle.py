"""Start, health, reflection, draining: a server never lies about whether it can answer."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydllm_proto.v1 import generation_service_pb2 as pb
from serving import Client, refused

from pydllm.errors import InternalEngineError
from pydllm.server.app import SERVICES, App
from pydllm.server.config import ServerConfig
from pydllm.server.life import EngineEndedError, serve
from pydllm.server.listen import PortError, is_loopback

Code = grpc.StatusCode
Health = health_pb2.HealthCheckResponse


def health(client: Client) -> Any:
    return health_pb2_grpc.HealthStub(client.channel)


async def check(client: Client, service: str = "") -> int:
    response = await health(client).Check(health_pb2.HealthCheckRequest(service=service))
    return int(response.status)


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_knows_every_service(service: str, scripted: Client) -> None:
    assert await check(scripted, service) == Health.SERVING


async def test_health_of_an_unknown_service_is_not_found(scripted: Client) -> None:
    call = health(scripted).Check(health_pb2.HealthCheckRequest(service="nope"))
    assert (await refused(call)).code is Code.NOT_FOUND
    watch = health(scripted).Watch(health_pb2.HealthCheckRequest(service="nope"))
    assert (await watch.read()).status == Health.SERVICE_UNKNOWN
    watch.cancel()


async def test_every_watcher_hears_of_a_change_also_after_another_one_left(scripted: Client) -> None:
    watchers = [health(scripted).Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
    for watcher in watchers:
        assert (await watcher.read()).status == Health.SERVING
    watchers[0].cancel()
    await scripted.app.health.set_serving(False)
    for watcher in watchers[1:]:
        assert (await asyncio.wait_for(watcher.read(), 10)).status == Health.NOT_SERVING
        watcher.cancel()


async def test_reflection_lists_the_services_under_their_proto_files(scripted: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(scripted.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_by_filename="pydllm/v1/types.proto"),
    ]
    names, file = [response async for response in stub.ServerReflectionInfo(iter(requests))]
    assert set(SERVICES) <= {service.name for service in names.list_services_response.service}
    assert file.file_descriptor_response.file_descriptor_proto


async def test_before_the_model_is_loaded_health_and_calls_say_so() -> None:
    app = App(ServerConfig(port=0))
    await app.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        client = _bare(app, channel)
        assert await check(client) == Health.NOT_SERVING
        failure = await refused(client.generation.Generate(pb.GenerateRequest(prompt="x")))
        assert (failure.code, failure.reason, failure.retry_seconds) == (Code.UNAVAILABLE, "STARTING", 1)
    await app.close()


def _bare(app: App, channel: grpc.aio.Channel) -> Client:
    class Nothing:
        engine = None

    return Client(app, Nothing(), channel)  # type: ignore[arg-type]


async def test_a_model_whose_warm_up_fails_is_never_served(scripted: Client) -> None:
    class Broken:
        engine: Any

    class Engine:
        def generate(self, *_: Any, **__: Any) -> Any:
            raise InternalEngineError("non-finite logits")

    broken = Broken()
    broken.engine = Engine()
    app = App(ServerConfig(port=0))
    await app.start()
    with pytest.raises(InternalEngineError):
        await app.publish(broken)  # type: ignore[arg-type]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        assert await check(_bare(app, channel)) == Health.NOT_SERVING
    await app.close()


async def test_draining_finishes_running_calls_and_refuses_new_ones(scripted: Client) -> None:
    gate = asyncio.Event()
    scripted.engine.script.insert(1, gate)
    running = scripted.generation.Generate(pb.GenerateRequest(prompt="x"))
    await scripted.engine.at_gate.wait()
    drain = asyncio.create_task(scripted.app.drain())
    watch = health(scripted).Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != Health.NOT_SERVING:
        pass
    watch.cancel()
    failure = await refused(scripted.generation.Generate(pb.GenerateRequest(prompt="y")))
    assert (failure.code, failure.reason, failure.retry_seconds) == (Code.UNAVAILABLE, "DRAINING", 1)
    assert not drain.done()
    gate.set()
    assert (await running).candidates
    assert await drain is True


async def test_what_outlives_the_drain_timeout_ends_unavailable(scripted: Client) -> None:
    scripted.app.config = ServerConfig(drain_timeout=0.05)
    scripted.engine.script.insert(1, asyncio.Event())
    running = scripted.generation.StreamGenerate(pb.StreamGenerateRequest(request=pb.GenerateRequest(prompt="x")))
    await scripted.engine.at_gate.wait()
    drain = asyncio.create_task(scripted.app.drain())
    failure = await refused(running)
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, "DRAINING")
    assert await drain is False


@pytest.mark.parametrize("during", [True, False])
async def test_a_drain_can_be_hurried_before_and_while_it_runs(during: bool, scripted: Client) -> None:
    scripted.app.config = ServerConfig(drain_timeout=600)
    scripted.engine.script.insert(1, asyncio.Event())
    running = scripted.generation.Generate(pb.GenerateRequest(prompt="x"))
    await scripted.engine.at_gate.wait()
    if not during:
        scripted.app.hurry(0.05)
    drain = asyncio.create_task(scripted.app.drain())
    while during and (await refused(scripted.generation.Generate(pb.GenerateRequest(prompt="y")))).reason != "DRAINING":
        pass
    if during:
        scripted.app.hurry(0.05)
    assert await asyncio.wait_for(drain, 30) is False
    assert (await refused(running)).reason == "DRAINING"


async def test_hurrying_never_makes_a_drain_longer(scripted: Client) -> None:
    scripted.app.config = ServerConfig(drain_timeout=0.05)
    scripted.app.hurry(600)
    scripted.engine.script.insert(1, asyncio.Event())
    running = scripted.generation.Generate(pb.GenerateRequest(prompt="x"))
    await scripted.engine.at_gate.wait()
    assert await asyncio.wait_for(scripted.app.drain(), 30) is False
    assert (await refused(running)).reason == "DRAINING"


async def test_a_port_in_use_is_refused(scripted: Client) -> None:
    with pytest.raises(PortError, match=f"grpc_port: 127.0.0.1:{scripted.app.port} is in use"):
        await App(ServerConfig(port=scripted.app.port)).start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortError, match="in use"):
            await App(ServerConfig(port=taken.getsockname()[1])).start()


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
async def test_a_foreign_address_is_refused(host: str) -> None:
    with pytest.raises(PortError, match="no address of this machine"):
        await App(ServerConfig(host=host, port=0)).start()


async def test_an_address_that_others_reach_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    for host, loud in (("0.0.0.0", True), ("127.0.0.1", False)):
        caplog.clear()
        app = App(ServerConfig(host=host, port=0))
        await app.start()
        assert ("WITHOUT AUTHENTICATION" in caplog.text) is loud
        await app.close()


@pytest.mark.parametrize(
    ("host", "expected"), [("::1", True), ("127.9.9.9", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_loopback_is_recognised(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


async def test_an_engine_that_ends_by_itself_ends_the_server_with_an_error(scripted: Client) -> None:
    ready = asyncio.Event()
    serving = asyncio.ensure_future(
        serve(ServerConfig(port=0, drain_timeout=1.0), lambda: scripted.served, lambda app, served: ready.set())
    )
    await asyncio.wait_for(ready.wait(), 10)
    scripted.engine.closed.set()  # what a lost device does
    with pytest.raises(EngineEndedError):
        await asyncio.wait_for(serving, 10)
