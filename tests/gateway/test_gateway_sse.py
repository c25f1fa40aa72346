"""Event streams: what is sent when, and that the generator behind one always ends."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import APIRouter, Request
from pydllm_gateway.errors import ApiError
from pydllm_gateway.http import StrictRoute
from pydllm_gateway.sse import encode_event, sse_response
from raw_http import get, leave

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import httpx
    from pydllm_gateway.server import Gateway

TEAPOT = ApiError(418, "no coffee here", type="server_error")


@dataclass
class Source:
    """Events by script: a dict is sent, an exception raised, an asyncio.Event waited for."""

    script: list[Any]
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    self.reached.set()
                    await item.wait()
                else:
                    yield item
        finally:
            self.closed.set()


def serve(gateway: Gateway, source: Source, **options: Any) -> None:
    router = APIRouter(route_class=StrictRoute)

    @router.get("/events")
    async def events(request: Request) -> Any:
        return await sse_response(request, source.events(), **options)

    gateway.app.include_router(router)


async def test_events_then_done(gateway: Gateway, client: httpx.AsyncClient) -> None:
    serve(gateway, Source([{"a": 1}, {"b": "é"}]))
    response = await client.get("/events")
    assert response.text == 'data: {"a":1}\n\ndata: {"b":"é"}\n\ndata: [DONE]\n\n'
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(("script", "text"), [([], ""), ([{"a": 1}], 'data: {"a":1}\n\n')])
async def test_done_is_left_out_when_not_wanted(
    gateway: Gateway, client: httpx.AsyncClient, script: list[Any], text: str
) -> None:
    serve(gateway, Source(script), done=False)
    assert (await client.get("/events")).text == text


async def test_a_failure_before_the_first_event_is_an_http_status(gateway: Gateway, client: httpx.AsyncClient) -> None:
    source = Source([TEAPOT])
    serve(gateway, source)
    response = await client.get("/events")
    assert (response.status_code, response.json()) == (418, TEAPOT.body())
    assert source.closed.is_set()


async def test_a_failure_after_it_is_the_last_event(gateway: Gateway, client: httpx.AsyncClient) -> None:
    serve(gateway, Source([{"a": 1}, TEAPOT]))
    response = await client.get("/events")
    assert response.status_code == 200
    last = response.text.split("\n\n")[1]
    assert json.loads(last.removeprefix("data: ")) == TEAPOT.body()
    assert "[DONE]" not in response.text


async def test_a_bug_after_the_first_event_says_nothing_but_an_id(
    gateway: Gateway, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    serve(gateway, Source([{"a": 1}, KeyError("secret")]))
    with caplog.at_level(logging.ERROR):
        response = await client.get("/events")
    error = json.loads(response.text.split("\n\n")[1].removeprefix("data: "))["error"]
    assert error["message"].startswith("internal error, id ")
    assert "secret" not in response.text
    assert [record.name for record in caplog.records] == ["pydllm.gateway"]
    assert error["message"] in caplog.text


async def test_silence_is_filled_with_comments(
    start_gateway: Callable[..., Awaitable[Gateway]],
) -> None:
    gateway = await start_gateway(keepalive_interval=0.05)
    go = asyncio.Event()
    serve(gateway, Source([{"a": 1}, go, {"b": 2}]))
    text = await until_comments(gateway, go)
    assert text.startswith(b'data: {"a":1}\n\n: keep-alive\n\n')
    assert text.endswith(b'data: {"b":2}\n\ndata: [DONE]\n\n')


async def test_a_client_hears_something_when_the_first_event_is_late(
    start_gateway: Callable[..., Awaitable[Gateway]],
) -> None:
    gateway = await start_gateway(keepalive_interval=0.05)
    go = asyncio.Event()
    serve(gateway, Source([go, TEAPOT]))
    text = await until_comments(gateway, go)
    assert text.startswith(b": keep-alive\n\n")
    assert text.endswith(b"data: " + json.dumps(TEAPOT.body(), separators=(",", ":")).encode() + b"\n\n")


async def until_comments(gateway: Gateway, go: asyncio.Event) -> bytes:
    """The body of /events; `go` is set after the second comment. Chunk sizes are left out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(get("/events"))
    text = b""
    for _ in range(2):
        text += await asyncio.wait_for(reader.readuntil(b": keep-alive\n\n"), 20)
    go.set()
    text += await asyncio.wait_for(reader.read(), 20)
    writer.close()
    body = text.partition(b"\r\n\r\n")[2]
    return b"".join(body.split(b"\r\n")[1::2])


@pytest.mark.parametrize("first", [[], [{"a": 1}]], ids=["before the first event", "later"])
async def test_the_generator_is_closed_when_the_client_leaves(gateway: Gateway, first: list[Any]) -> None:
    source = Source([*first, asyncio.Event()])
    serve(gateway, source)
    await leave(gateway.port, get("/events"), source.reached, b'{"a":1}' if first else b"")
    await asyncio.wait_for(source.closed.wait(), 20)


async def test_a_reader_that_stops_reading_stops_the_generator(gateway: Gateway) -> None:
    source = Source([{"x": "y" * 100_000} for _ in range(1000)])
    serve(gateway, source)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1000)
    writer.write(get("/events"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    for _ in range(200):  # turns of the loop, in which an unbounded writer would have sent everything
        await asyncio.sleep(0)
    assert not source.closed.is_set()
    writer.transport.abort()
    await asyncio.wait_for(source.closed.wait(), 20)


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\x1c"])
def test_an_event_is_one_line_for_every_reader(separator: str) -> None:
    event = {"text": f"a{separator}b"}
    line = encode_event(event).decode().removesuffix("\n\n")
    assert len(line.splitlines()) == 1
    assert json.loads(line.removeprefix("data: ")) == event
