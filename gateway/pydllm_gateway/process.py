"""A gateway process: its signals and, under a supervisor, the lines on stdin and stdout.

A supervisor writes one line of JSON to stdin, the fields of Settings; the end of stdin tells that it is gone. It reads
lines of JSON from stdout: {"event": "ready", "port": …} and {"event": "failed", "message": …, "code": 1 or 2}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from pydllm_gateway.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydllm_gateway.settings import Settings

log = logging.getLogger("pydllm.gateway")

ORPHAN_SECONDS = 5.0
"""That running requests have once the supervisor is gone."""
MAX_LINE_BYTES = 1 << 20
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Events:
    """The lines on stdout. Takes stdout for itself: whatever else prints goes to stderr from now on."""

    def __init__(self) -> None:
        self._out = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)

    def send(self, event: str, **fields: object) -> None:
        """Writes one line; a supervisor that is gone misses it."""
        line = json.dumps({"event": event, **fields}) + "\n"
        with contextlib.suppress(OSError):
            os.write(self._out, line.encode())


def configuration() -> bytes:
    """The first line of stdin, read unbuffered; what follows is only waited for."""
    given = b""
    while b"\n" not in given and len(given) < MAX_LINE_BYTES:
        part = os.read(_STDIN, 65536)
        if not part:
            break
        given += part
    return given.split(b"\n", 1)[0]


def log_to_stderr(level: str) -> None:
    """One format for every line; warnings of libraries too."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("pydllm").setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of every malformed request


async def serve(settings: Settings, ready: Callable[[int], None], *, watch_stdin: bool) -> None:
    """Answers until a signal, or the end of stdin if that is watched. Raises StartError."""
    gateway = Gateway(settings)
    await gateway.start()
    stop = _Stop(gateway)
    stop.install(watch_stdin=watch_stdin)
    ready(gateway.port)
    await gateway.wait()
    log.info("stopped")


class _Stop:
    """The first signal drains, the second ends the process at once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._signalled = False

    def install(self, *, watch_stdin: bool) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        if watch_stdin:
            self._loop.add_reader(_STDIN, self._on_stdin)

    def _on_signal(self, number: int) -> None:
        if self._signalled:
            sys.stderr.flush()
            os._exit(128 + number)
        self._signalled = True
        log.info("draining")
        self._gateway.drain()

    def _on_stdin(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            if os.read(_STDIN, 4096):
                return
            self._loop.remove_reader(_STDIN)
            log.warning("the supervisor is gone, draining")
            self._gateway.drain(min(ORPHAN_SECONDS, self._gateway.settings.drain_timeout))
