"""Gateway tests: a fake engine over real gRPC and a real HTTP server. Nothing here needs the engine's package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fake_engine
import pytest
import pytest_asyncio
from pydllm_gateway.server import Gateway
from pydllm_gateway.settings import Settings
from rest_client import client_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import httpx

StartGateway = "Callable[..., Awaitable[Gateway]]"


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[fake_engine.FakeEngine]:
    """A running fake engine."""
    fake = fake_engine.FakeEngine()
    await fake.start()
    yield fake
    await fake.stop()


@pytest_asyncio.fixture
async def start_gateway(engine: fake_engine.FakeEngine) -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    """Starts a gateway on a free port before the fake engine; keyword arguments are fields of Settings."""
    running: list[Gateway] = []

    async def start(**values: Any) -> Gateway:
        gateway = Gateway(Settings(**{"engine": engine.target, "port": 0, **values}))
        await gateway.start()
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        gateway.drain(0.0)
        await gateway.wait()


@pytest_asyncio.fixture
async def gateway(start_gateway: Callable[..., Awaitable[Gateway]]) -> Gateway:
    """A running gateway with default settings, without API keys."""
    return await start_gateway()


@pytest_asyncio.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of that gateway."""
    async with client_of(gateway) as client:
        yield client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
