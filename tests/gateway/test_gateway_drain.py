"""The process: ready and failed lines, drain on SIGTERM and at the end of stdin, and an end in every case."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from typing import TYPE_CHECKING

import httpx
import pytest
from fake_engine import Block, FakeEngine, block, finished, started
from gateway_process import SUPERVISED, GatewayProcess, running, spawn
from raw_http import ask, get, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STREAM = post("/v1/completions", b'{"prompt": "x", "stream": true}', close=False)
UNARY = post("/v1/completions", b'{"prompt": "x"}', close=False)


@contextlib.asynccontextmanager
async def busy(gateway: GatewayProcess, engine: FakeEngine, waiting: Block) -> AsyncIterator[asyncio.StreamReader]:
    """A stream whose first block has arrived and whose second one is waited for."""
    engine.streams = [[started(), block("a"), waiting, block("b", 1), finished()]]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(STREAM)
    await asyncio.wait_for(waiting.reached.wait(), 20)
    await asyncio.wait_for(reader.readuntil(b'"a"'), 20)
    yield reader
    writer.close()


async def refuses(port: int) -> None:
    """Waits until nobody listens any more."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 20)


async def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones(engine: FakeEngine, tmp_path: Path) -> None:
    waiting = Block()
    async with running(tmp_path / "log", engine=engine.target) as gateway, busy(gateway, engine, waiting) as reader:
        gateway.process.send_signal(signal.SIGTERM)
        await refuses(gateway.port)
        waiting.go.set()
        assert b"data: [DONE]" in await rest(reader)
        assert await gateway.exit() == 0
        assert "Traceback" not in gateway.logged()


async def test_what_outlasts_the_drain_timeout_is_cut_with_a_503(engine: FakeEngine, tmp_path: Path) -> None:
    waiting, unary_waiting = Block(), Block()
    async with (
        running(tmp_path / "log", engine=engine.target, drain_timeout=0.3) as gateway,
        busy(gateway, engine, waiting) as reader,
    ):
        engine.generates = [[unary_waiting]]
        unary = asyncio.ensure_future(ask(gateway.port, UNARY))
        await asyncio.wait_for(unary_waiting.reached.wait(), 20)
        gateway.process.send_signal(signal.SIGTERM)
        text = await rest(reader)
        assert b'"service_unavailable_error"' in text
        assert b"[DONE]" not in text
        answer = await unary
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        await asyncio.wait_for(waiting.cancelled.wait(), 20)
        await asyncio.wait_for(unary_waiting.cancelled.wait(), 20)
        assert await gateway.exit() == 0
        assert "Traceback" not in gateway.logged()


async def test_a_body_that_still_arrives_is_cut_too(engine: FakeEngine, tmp_path: Path) -> None:
    async with running(tmp_path / "log", engine=engine.target, drain_timeout=0.3) as gateway:
        half = post("/tokenize", b"{}").replace(b"Content-Length: 2", b"Content-Length: 20")
        half = half.replace(b"Host", b"Expect: 100-continue\r\nHost").removesuffix(b"{}")
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(half)
        await asyncio.wait_for(reader.readuntil(b"100"), 20)  # it waits for the body now
        gateway.process.send_signal(signal.SIGTERM)
        assert b"HTTP/1.1 503" in await rest(reader)
        assert await gateway.exit() == 0
        writer.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_process_at_once(
    engine: FakeEngine, tmp_path: Path, number: signal.Signals
) -> None:
    waiting = Block()
    async with running(tmp_path / "log", engine=engine.target) as gateway, busy(gateway, engine, waiting):
        gateway.process.send_signal(signal.SIGTERM)
        await refuses(gateway.port)
        gateway.process.send_signal(number)
        assert await gateway.exit() == 128 + number


async def test_the_end_of_stdin_ends_the_process(engine: FakeEngine, tmp_path: Path) -> None:
    waiting = Block()
    async with (
        running(tmp_path / "log", engine=engine.target, drain_timeout=0.3) as gateway,
        busy(gateway, engine, waiting),
    ):
        gateway.close_stdin()
        assert await gateway.exit() == 0
        await asyncio.wait_for(waiting.cancelled.wait(), 20)


async def test_idle_keep_alive_connections_do_not_hold_up_the_end(engine: FakeEngine, tmp_path: Path) -> None:
    async with (
        running(tmp_path / "log", engine=engine.target) as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False) as client,
    ):
        assert (await client.get("/health")).status_code == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.exit(10) == 0


async def test_a_dead_engine_is_a_503_and_the_gateway_stays(engine: FakeEngine, tmp_path: Path) -> None:
    async with running(tmp_path / "log", engine=engine.target) as gateway:
        await engine.stop()
        answer = await ask(gateway.port, post("/tokenize", b'{"prompt": "x"}'))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        await engine.start(engine.target)
        async with asyncio.timeout(20):
            while (await ask(gateway.port, get("/ready"))).status != 200:
                pass
        assert (await ask(gateway.port, post("/tokenize", b'{"prompt": "x"}'))).status == 200


async def test_a_port_in_use_is_a_failed_line_with_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(tmp_path / "log", port=port) as gateway:
            message = f"port {port} on 127.0.0.1 is in use"
            assert gateway.event == {"event": "failed", "message": message, "code": 2}
            assert await gateway.exit() == 2


async def test_a_wrong_option_is_a_failed_line_with_code_2(tmp_path: Path) -> None:
    async with running(tmp_path / "log", prot=1) as gateway:
        assert gateway.event == {"event": "failed", "message": "prot: no such option", "code": 2}
        assert await gateway.exit() == 2
        assert gateway.logged() == ""


@pytest.mark.parametrize("line", [b"", b"{}[]\n"])
async def test_a_line_that_is_no_configuration_is_a_failed_line(tmp_path: Path, line: bytes) -> None:
    process = await spawn(tmp_path / "log", *SUPERVISED)
    out, _ = await asyncio.wait_for(process.communicate(line), 30)
    event = json.loads(out)
    assert (event["event"], event["code"], process.returncode) == ("failed", 2, 2)
    assert (tmp_path / "log").read_text() == ""
