"""HTTP spoken by hand, as badly as wanted."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What came back; status 0: the connection was closed without an answer."""

    status: int
    head: str
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def post(path: str, body: bytes, *headers: str, content_type: str = "application/json") -> bytes:
    """A whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunked(path: str, body: bytes) -> bytes:
    """A request whose body is sent as it is under Transfer-Encoding: chunked."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(address: str, data: bytes, *, end: bool = False, timeout: float = 20) -> Reply:
    """Sends bytes and reads one reply. `end`: no more bytes will follow, and the server is told."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before it was read to the end
        return _read(connection)


def _read(connection: socket.socket) -> Reply:
    received = bytearray()
    while not _complete(received):
        try:
            piece = connection.recv(65536)
        except ConnectionError:
            break
        if not piece:
            break
        received += piece
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return Reply(status, head.decode("latin-1"), body)


def _complete(received: bytearray) -> bool:
    head, found, body = bytes(received).partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.decode("latin-1").lower().split("\r\n"):
        if line.startswith("content-length:"):
            return len(body) >= int(line.split(":")[1])
    return body.endswith(b"0\r\n\r\n")
