"""Time limits: whoever is slow or silent is let go, and nobody waits for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fake_engine import Block, started, streamed
from pydllm_proto.v1 import generation_service_pb2 as pb
from raw_http import ask, chunked, get, post

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fake_engine import FakeEngine
    from pydllm_gateway.server import Gateway

    Start = Callable[..., Awaitable[Gateway]]

SOON = 0.2


async def closed_by_server(port: int, sent: bytes) -> bytes:
    """What the server says before it closes a connection on which nothing more is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def test_a_silent_connection_is_closed(start_gateway: Start) -> None:
    gateway = await start_gateway(header_timeout=SOON)
    assert await closed_by_server(gateway.port, b"") == b""


async def test_headers_that_do_not_end_are_not_waited_for(start_gateway: Start) -> None:
    gateway = await start_gateway(header_timeout=SOON)
    assert await closed_by_server(gateway.port, b"POST /tokenize HTTP/1.1\r\nHost: x\r\n") == b""


async def test_dripping_headers_do_not_buy_time(start_gateway: Start) -> None:
    gateway = await start_gateway(header_timeout=SOON)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    ended = asyncio.ensure_future(reader.read())
    writer.write(b"GET /health HTTP/1.1\r\nX: ")
    dripped = 0
    while not (await asyncio.wait({ended}, timeout=SOON / 10))[0]:
        writer.write(b"y")
        dripped += 1
        assert dripped < 1000
    writer.close()


async def test_the_headers_of_a_second_request_have_the_same_limit(start_gateway: Start) -> None:
    gateway = await start_gateway(header_timeout=SOON)
    first = post("/tokenize", b'{"prompt": "x"}', close=False)
    answer = await closed_by_server(gateway.port, first + b"POST /tok")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_body_that_does_not_arrive_is_a_408(start_gateway: Start) -> None:
    gateway = await start_gateway(body_timeout=SOON)
    answer = await ask(gateway.port, chunked("/tokenize", b"1\r\n{\r\n"))
    assert answer.status == 408
    assert answer.error["message"] == "the request body did not arrive within 0.2 s"


async def test_a_length_longer_than_the_body_is_a_408(start_gateway: Start) -> None:
    gateway = await start_gateway(body_timeout=SOON)
    request = post("/tokenize", b"{}").replace(b"Content-Length: 2", b"Content-Length: 200")
    assert (await ask(gateway.port, request)).status == 408


async def test_a_refused_body_that_never_ends_is_cut_off(start_gateway: Start) -> None:
    gateway = await start_gateway(header_timeout=SOON, api_keys=("key",))
    request = chunked("/tokenize").replace(b"Connection: close\r\n", b"")
    answer = await closed_by_server(gateway.port, request + b"1\r\n{\r\n")
    assert answer.startswith(b"HTTP/1.1 401")


async def test_a_working_request_outlives_every_limit(start_gateway: Start, engine: FakeEngine) -> None:
    gateway = await start_gateway(header_timeout=SOON, body_timeout=SOON, keepalive_interval=SOON)
    waiting = Block()
    engine.streams = [[started(), waiting, *streamed(pb.StreamGenerateRequest())[1:]]]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(post("/v1/completions", b'{"prompt": "x", "stream": true}'))
    for _ in range(3):  # longer than the limits by the server's own clock
        await asyncio.wait_for(reader.readuntil(b": keep-alive\n\n"), 20)
    waiting.go.set()
    assert b"data: [DONE]" in await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_a_request_id_comes_back_or_is_made(gateway: Gateway) -> None:
    given = await ask(gateway.port, get("/health", "X-Request-Id: abc-123"))
    made = [await ask(gateway.port, get("/health")) for _ in range(2)]
    assert given.headers["x-request-id"] == "abc-123"
    assert made[0].headers["x-request-id"] != made[1].headers["x-request-id"]
