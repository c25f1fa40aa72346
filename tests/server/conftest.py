"""A server in this process: with the real engine and the demo model, or with a scripted engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from serving import DEMO, TEMPLATE, Client, ScriptedEngine, running

from pydllm.server.served import Served
from pydllm.text import ChatTemplate, Tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO)


@pytest.fixture
async def scripted(tokenizer: Tokenizer) -> AsyncIterator[Client]:
    """A server over a ScriptedEngine; its template shows everything it is given."""
    served = Served(
        name="scripted",
        engine=ScriptedEngine(),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        chat_template=ChatTemplate(TEMPLATE, special_tokens={}),
        loaded=Timestamp(seconds=1),
        source="scripted",
    )
    async for client in running(served):
        yield client


@pytest.fixture(scope="session")
def demo_served() -> Served:
    """The demo model in a real engine that checks itself after every step."""
    from pydllm.engine import EngineConfig
    from pydllm.server.loading import load_served

    return load_served(None, EngineConfig(debug_checks=True, threads=1, max_waiting_requests=256))


@pytest.fixture
async def demo(demo_served: Served) -> AsyncIterator[Client]:
    async for client in running(demo_served):
        yield client
