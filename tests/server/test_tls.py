"""TLS and client certificates: what is wrong refuses at the start, and there is no way back to plain text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import generation_service_pb2_grpc
from serving import Client, refused

from pydllm.server import tls
from pydllm.server.app import App
from pydllm.server.config import ConfigError, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Code = grpc.StatusCode
CERTS = Path(__file__).with_name("certs")


def path(name: str) -> str:
    return str(CERTS / name)


def read(name: str) -> bytes:
    return (CERTS / name).read_bytes()


SERVER: dict[str, Any] = {"tls_cert": path("server.pem"), "tls_key": path("server.key")}
MUTUAL: dict[str, Any] = {**SERVER, "tls_client_ca": path("authority.pem")}


async def serving(scripted: Client, **config: Any) -> AsyncIterator[App]:
    app = App(ServerConfig(port=0, **config))
    await app.start()
    await app.publish(scripted.served)
    yield app
    await app.close()


def generate(channel: grpc.aio.Channel) -> Any:
    stub: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
    return stub.Generate(pb.GenerateRequest(prompt="x"))


def secure(app: App, root: str = "authority.pem", client: str | None = None) -> grpc.aio.Channel:
    pair = (read(f"{client}.key"), read(f"{client}.pem")) if client else (None, None)
    return grpc.aio.secure_channel(f"localhost:{app.port}", grpc.ssl_channel_credentials(read(root), *pair))


async def test_a_client_that_knows_the_authority_is_served(scripted: Client) -> None:
    async for app in serving(scripted, **SERVER):
        async with secure(app) as channel:
            assert (await generate(channel)).candidates
        async with secure(app, root="stranger.pem") as channel:
            assert (await refused(generate(channel))).code is Code.UNAVAILABLE


async def test_a_plain_client_is_never_served_on_a_tls_port(scripted: Client) -> None:
    async for app in serving(scripted, **SERVER):
        async with grpc.aio.insecure_channel(f"localhost:{app.port}") as channel:
            assert (await refused(generate(channel))).code is Code.UNAVAILABLE
    assert not scripted.engine.submitted.is_set()


async def test_a_client_authority_demands_a_certificate_of_its_own(scripted: Client) -> None:
    async for app in serving(scripted, **MUTUAL):
        for client in (None, "intruder"):
            async with secure(app, client=client) as channel:
                assert (await refused(generate(channel))).code is Code.UNAVAILABLE, client
        assert not scripted.engine.submitted.is_set()
        async with secure(app, client="client") as channel:
            assert (await generate(channel)).candidates


async def test_the_unix_socket_stays_plain_and_asks_for_keys(scripted: Client, tmp_path: Path) -> None:
    socket = str(tmp_path / "engine.sock")
    async for _ in serving(scripted, **MUTUAL, socket=socket, api_keys=("k",), internal_key="i"):
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            assert (await refused(generate(channel))).code is Code.UNAUTHENTICATED
            stub: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
            metadata = (("authorization", "Bearer i"),)
            assert (await stub.Generate(pb.GenerateRequest(prompt="x"), metadata=metadata)).candidates
    assert os.listdir(tmp_path) == []


WRONG = {
    "certificate without key": ({"tls_cert": path("server.pem")}, "tls_key: expected with tls_cert"),
    "key without certificate": ({"tls_key": path("server.key")}, "tls_cert: expected with tls_key"),
    "client authority alone": ({"tls_client_ca": path("authority.pem")}, "tls_client_ca: expected tls_cert"),
    "missing certificate": ({**SERVER, "tls_cert": path("nope.pem")}, "tls_cert: .* cannot be read"),
    "missing key": ({**SERVER, "tls_key": path("nope.key")}, "tls_key: .* cannot be read"),
    "missing authority": ({**SERVER, "tls_client_ca": path("nope.pem")}, "tls_client_ca: .* cannot be read"),
    "a directory": ({**SERVER, "tls_cert": str(CERTS)}, "tls_cert: .* cannot be read"),
    "another's key": ({**SERVER, "tls_key": path("client.key")}, "tls_key: .* does not belong"),
    "encrypted key": ({**SERVER, "tls_key": path("encrypted.key")}, "tls_key: expected a key without a password"),
    "no certificate": ({**SERVER, "tls_cert": path("make.sh")}, "tls_cert, tls_key: expected a PEM"),
    "no key": ({**SERVER, "tls_key": path("server.pem")}, "tls_cert, tls_key: expected a PEM"),
    "no authority": ({**SERVER, "tls_client_ca": path("make.sh")}, "tls_client_ca: .* holds no PEM"),
    "expired": ({"tls_cert": path("expired.pem"), "tls_key": path("expired.key")}, "tls_cert: .* has expired"),
    "not yet valid": ({"tls_cert": path("future.pem"), "tls_key": path("future.key")}, "tls_cert: .* is not valid yet"),
}


@pytest.mark.parametrize(("config", "expected"), WRONG.values(), ids=WRONG.keys())
async def test_wrong_files_refuse_the_start_in_one_line(config: dict[str, Any], expected: str) -> None:
    app = App(ServerConfig(port=0, **config))
    with pytest.raises(ConfigError, match=expected) as caught:
        await app.start()
    assert "\n" not in str(caught.value)
    assert app.port == 0
    await app.close()


def test_without_files_there_is_no_tls() -> None:
    assert tls.credentials(ServerConfig()) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "WITHOUT AUTHENTICATION OR ENCRYPTION"),
        ({"api_keys": ("k",)}, "WITHOUT ENCRYPTION"),
        (SERVER, "WITHOUT AUTHENTICATION:"),
        ({**SERVER, "api_keys": ("k",)}, None),
        (MUTUAL, None),
    ],
)
async def test_what_an_open_address_lacks_is_said_loudly(
    config: dict[str, Any], expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(ServerConfig(host="0.0.0.0", port=0, **config))
    await app.start()
    await app.close()
    if expected is None:
        assert "LISTENING" not in caplog.text
    else:
        assert expected in caplog.text
