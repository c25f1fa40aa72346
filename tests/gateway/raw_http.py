"""HTTP by hand, for what no client library would send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object; fails when the body is none."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert "\n" not in error["message"]
        return error


def post(path: str, body: bytes, *headers: str, kind: str = "application/json", close: bool = True) -> bytes:
    """A request with Content-Length."""
    lines = [f"POST {path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}", *headers]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(path: str, *chunks: bytes) -> bytes:
    """A request with Transfer-Encoding; the chunks come as they are."""
    head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + b"".join(chunks)


def chunk(data: bytes) -> bytes:
    """One well-formed chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def get(path: str, *headers: str) -> bytes:
    """A request without a body."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: gateway", "Connection: close", *headers, "", ""]).encode(
        "latin-1"
    )


async def talk(port: int, *parts: bytes, leave: bool = False) -> list[Answer]:
    """Sends bytes on one connection and reads the answers until the server closes it; `leave` closes it unread."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        reading = asyncio.ensure_future(_read_all(reader))
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass  # the server had heard enough
        return [] if leave else _answers(await asyncio.wait_for(reading, 30))
    finally:
        reading.cancel()
        writer.close()


async def ask(port: int, *parts: bytes) -> Answer:
    """The one answer to what was sent."""
    answers = await talk(port, *parts)
    assert len(answers) == 1, answers
    return answers[0]


async def leave(port: int, request: bytes, reached: asyncio.Event, read_until: bytes = b"") -> None:
    """Sends a request, waits for the event that shows that it is worked on, and closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await asyncio.wait_for(reached.wait(), 20)
    if read_until:
        await asyncio.wait_for(reader.readuntil(read_until), 20)
    writer.close()
    await writer.wait_closed()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    data = b""
    while True:
        try:
            part = await reader.read(65536)
        except ConnectionError:
            return data
        if not part:
            return data
        data += part


def _answers(data: bytes) -> list[Answer]:
    answers = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        number = int(status.split()[1])
        length = int(headers.get("content-length", len(rest))) if number != 100 else 0
        if number != 100:
            answers.append(Answer(number, headers, rest[:length]))
        data = rest[length:]
    return answers
