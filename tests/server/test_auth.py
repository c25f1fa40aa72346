"""API keys: who has none gets nothing but health, in the same words whatever is wrong, before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydllm_proto.v1 import admin_service_pb2, metrics_service_pb2, model_service_pb2, tokenizer_service_pb2
from pydllm_proto.v1 import generation_service_pb2 as pb
from serving import Client, refused, running

from pydllm.server.app import App
from pydllm.server.auth import MESSAGE, Authenticator
from pydllm.server.config import ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Code = grpc.StatusCode
KEYS = ("first-key", "second-key")
INTERNAL = "internal-key"


@pytest.fixture
async def locked(scripted: Client) -> AsyncIterator[Client]:
    """The scripted server behind two keys."""
    async for client in running(scripted.served, api_keys=KEYS, internal_key=INTERNAL, enable_admin=True):
        yield client


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def calls(client: Client, **arguments: Any) -> dict[str, Any]:
    """One call of every kind that a stranger could try."""
    reflection = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    stream = pb.StreamGenerateRequest(request=pb.GenerateRequest(prompt="x"))
    return {
        "Generate": client.generation.Generate(pb.GenerateRequest(prompt="x"), **arguments),
        "StreamGenerate": client.generation.StreamGenerate(stream, **arguments),
        "ListModels": client.models.ListModels(model_service_pb2.ListModelsRequest(), **arguments),
        "Tokenize": client.tokenizer.Tokenize(tokenizer_service_pb2.TokenizeRequest(text="x"), **arguments),
        "GetMetrics": client.metrics.GetMetrics(metrics_service_pb2.GetMetricsRequest(), **arguments),
        "AbortRequests": client.admin.AbortRequests(admin_service_pb2.AbortRequestsRequest(all=True), **arguments),
        "reflection": reflection.ServerReflectionInfo(iter([listing]), **arguments),
        "unknown": client.channel.unary_unary("/pydllm.v1.Nothing/Nothing")(b"", **arguments),
    }


WRONG: dict[str, tuple[tuple[str, str], ...]] = {
    "missing": (),
    "wrong": bearer("third-key"),
    "empty": bearer(""),
    "prefix": bearer("first-ke"),
    "longer": bearer("first-key2"),
    "other case": bearer("FIRST-KEY"),
    "other scheme": (("authorization", "Basic first-key"),),
    "bare": (("authorization", "first-key"),),
    "both keys": bearer("first-key second-key"),
    "given twice": bearer("first-key") + bearer("first-key"),
    "other metadata": (("x-api-key", "first-key"),),
}


@pytest.mark.parametrize("metadata", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_key_and_a_missing_one_get_the_same_answer(
    metadata: tuple[tuple[str, str], ...], locked: Client
) -> None:
    failure = await refused(locked.generation.Generate(pb.GenerateRequest(prompt="x"), metadata=metadata))
    assert (failure.code, failure.message) == (Code.UNAUTHENTICATED, MESSAGE)
    assert (failure.reason, failure.fields, failure.info) == ("INVALID_API_KEY", [], {})
    assert not locked.engine.submitted.is_set()


async def test_every_method_but_health_needs_a_key(locked: Client) -> None:
    for name, call in calls(locked).items():
        assert (await refused(call)).code is Code.UNAUTHENTICATED, name
    status = await health_pb2_grpc.HealthStub(locked.channel).Check(health_pb2.HealthCheckRequest())
    assert status.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("key", [*KEYS, INTERNAL])
async def test_every_key_opens_every_method(key: str, locked: Client) -> None:
    for name, call in calls(locked, metadata=bearer(key)).items():
        if name == "unknown":
            assert (await refused(call)).code is Code.UNIMPLEMENTED
        elif hasattr(call, "read"):
            assert [message async for message in call], name
        else:
            await call


async def test_the_scheme_has_no_case(locked: Client) -> None:
    metadata = (("authorization", "bearer second-key"),)
    assert (await locked.generation.Generate(pb.GenerateRequest(prompt="x"), metadata=metadata)).candidates


async def test_a_refused_request_is_never_parsed_or_admitted(locked: Client) -> None:
    """A message that is no message and one over the limit get the answer of a good one: nobody looked."""
    method = locked.channel.unary_unary("/pydllm.v1.GenerationService/Generate")
    for body in (b"\xff" * 10, b"x" * (5 * 1024 * 1024)):
        assert (await refused(method(body))).code is Code.UNAUTHENTICATED
    assert locked.app.lifecycle.running_calls == 0


async def test_a_refusal_carries_the_request_id_back(locked: Client) -> None:
    call = locked.generation.Generate(pb.GenerateRequest(prompt="x"), metadata=(("x-request-id", "r-1"),))
    assert (await refused(call)).metadata["x-request-id"] == "r-1"


async def test_strangers_do_not_learn_that_the_server_is_loading_or_draining() -> None:
    app = App(ServerConfig(port=0, api_keys=KEYS))
    await app.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        method = channel.unary_unary("/pydllm.v1.GenerationService/Generate")
        assert (await refused(method(b""))).code is Code.UNAUTHENTICATED
        assert (await refused(method(b"", metadata=bearer(KEYS[0])))).reason == "STARTING"
    await app.close()


async def test_the_internal_key_alone_demands_nothing(scripted: Client) -> None:
    async for client in running(scripted.served, internal_key=INTERNAL):
        assert (await client.generation.Generate(pb.GenerateRequest(prompt="x"))).candidates


async def test_keys_are_in_no_log_and_no_representation(locked: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for key in ("first-key", "wrong-key"):
        call = locked.generation.Generate(pb.GenerateRequest(prompt="x"), metadata=bearer(key))
        if key == "wrong-key":
            await refused(call)
        else:
            await call
    for key in (*KEYS, INTERNAL, "wrong-key"):
        assert key not in caplog.text
        assert key not in repr(locked.app.config)


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(len(given))
        return given == known

    monkeypatch.setattr("hmac.compare_digest", compare)
    authenticator = Authenticator(ServerConfig(api_keys=("a", "b" * 40, "c")))
    for key, passes in (("a", True), ("c", True), ("no" * 500, False)):
        compared.clear()
        assert (authenticator.refusal("/pydllm.v1.X/Y", bearer(key)) is None) is passes
        assert compared == [32, 32, 32]
