"""API keys: checked for the route, before the body, with one answer for every wrong key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from raw_http import ask, get, post
from rest_client import client_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import httpx
    from fake_engine import FakeEngine
    from pydllm_gateway.server import Gateway

KEYS = ("first-key", "second-key")
OPEN = ["/health", "/ready", "/version", "/metrics"]
WRONG = {
    "none": {},
    "another": {"authorization": "Bearer third-key"},
    "the beginning of one": {"authorization": "Bearer first-ke"},
    "one and more": {"authorization": "Bearer first-key2"},
    "empty": {"authorization": "Bearer"},
    "basic": {"authorization": "Basic first-key"},
    "no scheme": {"authorization": "first-key"},
    "not ASCII": {"authorization": b"Bearer \xff\xfe"},
    "in another header": {"x-api-key": "first-key"},
}


@pytest_asyncio.fixture
async def gateway(start_gateway: Callable[..., Awaitable[Gateway]]) -> Gateway:
    return await start_gateway(api_keys=KEYS, engine_api_key="for-the-engine")


@pytest_asyncio.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


@pytest.mark.parametrize("name", WRONG)
async def test_every_wrong_key_gets_the_same_401(client: httpx.AsyncClient, engine: FakeEngine, name: str) -> None:
    headers: Any = WRONG[name]
    response = await client.post("/tokenize", json={"prompt": "x"}, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"] == {
        "message": "a valid API key is required: send the header Authorization: Bearer KEY",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert engine.requests == []


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_every_configured_key_is_accepted(client: httpx.AsyncClient, key: str, scheme: str) -> None:
    response = await client.post("/tokenize", json={"prompt": "x"}, headers={"authorization": f"{scheme} {key}"})
    assert response.status_code == 200


async def test_two_authorization_headers_are_refused(gateway: Gateway) -> None:
    header = "Authorization: Bearer first-key"
    assert (await ask(gateway.port, get("/v1/models", header, header))).status == 401


async def test_the_key_is_checked_before_the_body_is_read(gateway: Gateway) -> None:
    request = post("/tokenize", b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 100")
    answer = await ask(gateway.port, request)  # not a byte of the body was sent
    assert answer.status == 401


async def test_every_route_is_protected_unless_listed_as_open(gateway: Gateway, client: httpx.AsyncClient) -> None:
    paths = gateway.app.openapi()["paths"]
    routes = [(path, method.upper()) for path, methods in paths.items() for method in methods]
    routes += [("/docs", "GET"), ("/openapi.json", "GET")]
    statuses = {path: (await client.request(method, path)).status_code for path, method in routes}
    assert {path for path, status in statuses.items() if status != 401} == set(OPEN)


@pytest.mark.parametrize("path", ["/health/", "//health", "/health/../v1/models", "/v1/models?/health", "/V1/models"])
async def test_no_spelling_of_a_path_opens_a_protected_route(gateway: Gateway, path: str) -> None:
    assert (await ask(gateway.port, get(path))).status in {401, 404}


async def test_the_host_header_opens_nothing(gateway: Gateway) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: gateway/health?\r\nConnection: close\r\n\r\n"
    assert (await ask(gateway.port, request)).status in {400, 401}


async def test_the_engine_gets_the_gateways_key_not_the_clients(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await client.get("/v1/models", headers={"authorization": "Bearer first-key"})
    assert engine.metadata[-1]["authorization"] == "Bearer for-the-engine"


async def test_without_keys_nothing_is_asked(start_gateway: Callable[..., Awaitable[Gateway]]) -> None:
    open_gateway = await start_gateway()
    assert (await ask(open_gateway.port, get("/v1/models"))).status == 200
