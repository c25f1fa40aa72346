"""A client that goes away stops the work that was done for it, streamed or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import pytest_asyncio
from fake_engine import Block, answer, block, finished, started
from fastapi import APIRouter, Body, Request
from pydllm_gateway.http import StrictRoute, engine_of, request_id_of, until_disconnect
from pydllm_gateway.sse import sse_response
from pydllm_proto.v1 import generation_service_pb2 as pb
from raw_http import leave, post

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fake_engine import FakeEngine
    from pydllm_gateway.server import Gateway

JsonObject = Annotated[dict[str, Any], Body()]
router = APIRouter(route_class=StrictRoute)


@router.post("/unary")
async def unary(request: Request, body: JsonObject) -> Any:
    message = pb.GenerateRequest(prompt="x", request_id=request_id_of(request))
    response = await until_disconnect(request, engine_of(request).generate(message, {}))
    return {"text": response.candidates[0].text}


@router.post("/stream")
async def stream(request: Request, body: JsonObject) -> Any:
    async def events() -> AsyncGenerator[dict[str, Any], None]:
        message = pb.StreamGenerateRequest(request=pb.GenerateRequest(prompt="x", request_id=request_id_of(request)))
        async for item in engine_of(request).stream(message, {}):
            yield {"event": item.WhichOneof("event")}

    return await sse_response(request, events())


@pytest_asyncio.fixture
async def gateway(gateway: Gateway) -> Gateway:
    gateway.app.include_router(router)
    return gateway


UNARY, STREAM = post("/unary", b"{}", close=False), post("/stream", b"{}", close=False)


async def within(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


@pytest.mark.parametrize("pipelined", [b"", UNARY], ids=["alone", "with a second request behind it"])
async def test_disconnect_cancels_a_unary_call(gateway: Gateway, engine: FakeEngine, pipelined: bytes) -> None:
    waiting = Block()
    engine.generates = [[waiting, answer(pb.GenerateRequest())]]
    await leave(gateway.port, UNARY + pipelined, waiting.reached)
    await within(waiting.cancelled)
    assert engine.cancellations == 1


async def test_disconnect_cancels_a_stream_before_its_first_event(gateway: Gateway, engine: FakeEngine) -> None:
    waiting = Block()
    engine.streams = [[waiting, started(), finished()]]
    await leave(gateway.port, STREAM, waiting.reached)
    await within(waiting.cancelled)


async def test_disconnect_cancels_a_stream_between_events(gateway: Gateway, engine: FakeEngine) -> None:
    waiting = Block()
    engine.streams = [[started(), block("a"), waiting, finished()]]
    await leave(gateway.port, STREAM, waiting.reached, read_until=b"block_appended")
    await within(waiting.cancelled)
