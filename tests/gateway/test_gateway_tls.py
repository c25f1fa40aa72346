"""HTTPS: what cannot be used is refused at the start, and there is no way back to plain text."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from fake_engine import FakeEngine
from pydllm_gateway.server import StartError, tls_context
from pydllm_gateway.settings import Settings
from raw_http import ask, get, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydllm_gateway.server import Gateway

    Start = Callable[..., Awaitable[Gateway]]

CERTS = Path(__file__).parents[1] / "server" / "certs"
PAIR = (CERTS / "server.key").read_bytes(), (CERTS / "server.pem").read_bytes()


def cert(name: str) -> str:
    return str(CERTS / name)


SERVER = {"tls_cert": cert("server.pem"), "tls_key": cert("server.key")}


def client(gateway: Gateway, name: str | None = None) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=cert("authority.pem"))
    if name is not None:
        context.load_cert_chain(cert(f"{name}.pem"), cert(f"{name}.key"))
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{gateway.port}", verify=context, trust_env=False)


async def test_https_serves(start_gateway: Start) -> None:
    gateway = await start_gateway(**SERVER)
    async with client(gateway) as https:
        assert (await https.post("/tokenize", json={"prompt": "x"})).json()["count"] == 1


async def test_a_plain_client_gets_nothing_from_a_tls_port(
    start_gateway: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway = await start_gateway(**SERVER)
    assert await talk(gateway.port, get("/health")) == []
    assert "Traceback" not in capfd.readouterr().err


async def test_a_client_authority_demands_its_certificates(start_gateway: Start) -> None:
    gateway = await start_gateway(**SERVER, tls_client_ca=cert("authority.pem"))
    async with client(gateway, "client") as https:
        assert (await https.get("/health")).status_code == 200
    for stranger in (None, "intruder"):
        async with client(gateway, stranger) as https:
            with pytest.raises(httpx.TransportError):
                await https.get("/health")


@pytest.mark.parametrize(("authority", "status"), [("authority.pem", 200), ("stranger.pem", 503)])
async def test_the_engines_certificate_is_checked(start_gateway: Start, authority: str, status: int) -> None:
    secure = FakeEngine()
    await secure.start(credentials=grpc.ssl_server_credentials([PAIR]))
    gateway = await start_gateway(engine=secure.target, engine_tls_ca=cert(authority))
    assert (await ask(gateway.port, get("/ready"))).status == status
    await secure.stop()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tls_cert": cert("expired.pem"), "tls_key": cert("expired.key")}, "certificate has expired"),
        ({"tls_cert": cert("future.pem"), "tls_key": cert("future.key")}, "certificate is not yet valid"),
        ({"tls_cert": cert("server.pem"), "tls_key": cert("client.key")}, "key values mismatch"),
        ({"tls_cert": cert("server.pem"), "tls_key": cert("encrypted.key")}, "a key without a passphrase"),
        ({"tls_cert": cert("make.sh"), "tls_key": cert("server.key")}, "expected pem"),
        ({"tls_cert": cert("none.pem"), "tls_key": cert("server.key")}, "No such file"),
        ({**SERVER, "tls_client_ca": cert("make.sh")}, "no certificate or crl found"),
        ({"tls_key": cert("server.key")}, "must be given together"),
    ],
)
def test_an_unusable_certificate_is_refused_at_the_start(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(StartError, match=reason) as failure:
        tls_context(Settings(**settings))
    assert failure.value.code == 2
    assert "\n" not in str(failure.value)
