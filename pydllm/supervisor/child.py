"""One run of a child process: its configuration goes in as one line, its events come out as lines, its end is a value.

Standard input stays open for as long as this process lives, so that a child learns from its end that it is alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

log = logging.getLogger("pydllm.supervisor")

Event = Mapping[str, Any]

FAILED = 1
USAGE = 2
_LONGEST_LINE = 2**20


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How a child is started."""

    name: str
    """What messages call it."""
    command: tuple[str, ...]
    config: Event
    """Its whole configuration; what JSON can hold."""
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class End:
    """How a run ended."""

    words: str
    """The process and its end, for a log line."""
    status: int
    """Exit code; negative: the signal that killed it."""
    message: str | None = None
    """Why it could not start, when it said so itself."""
    code: int = FAILED
    """The exit code it asks for when it could not start: 1 or 2."""


def no_start(name: str, error: OSError) -> End:
    """The end of a run that could not even begin."""
    return End(words=f"{name} process cannot be started: {error.strerror}", status=FAILED)


class Child:
    """A running child. Made by `start`; event-loop thread only."""

    def __init__(self, spec: Spec, process: asyncio.subprocess.Process) -> None:
        self._name = spec.name
        self._process = process
        self._ready: asyncio.Future[Event | None] = asyncio.get_running_loop().create_future()
        self._failure: Event = {}
        self._reading = asyncio.create_task(self._read())
        cast("asyncio.StreamWriter", process.stdin).write(json.dumps(spec.config).encode() + b"\n")

    @classmethod
    async def start(cls, spec: Spec) -> Child:
        """Starts the process in a session of its own, away from the terminal's Ctrl-C. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *spec.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=spec.environment,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )
        return cls(spec, process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it has said so; stays true after its end."""
        return self._ready.done() and self._ready.result() is not None

    async def ready(self) -> Event | None:
        """Its ready event; None when it ended before."""
        return await asyncio.shield(self._ready)

    async def end(self) -> End:
        """Waits for its end."""
        await asyncio.shield(self._reading)
        status = await self._process.wait()
        message, code = self._failure.get("message"), self._failure.get("code")
        return End(
            words=f"{self._name} process {self.pid} {_ending(status)}",
            status=status,
            message=message if isinstance(message, str) and message else None,
            code=USAGE if code == USAGE or (not self._failure and status == USAGE) else FAILED,
        )

    def terminate(self) -> None:
        """Asks it to drain."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self) -> None:
        stdout = cast("asyncio.StreamReader", self._process.stdout)
        try:
            while line := await _line(stdout):
                self._take(line)
        finally:
            if not self._ready.done():
                self._ready.set_result(None)

    def _take(self, line: bytes) -> None:
        event = _parsed(line)
        match event.get("event"):
            case "ready" if not self._ready.done():
                self._ready.set_result(event)
            case "failed":
                self._failure = event
            case "ready":
                pass
            case _:
                log.warning("%s process %d wrote no event: %.200r", self._name, self.pid, line)


async def _line(stdout: asyncio.StreamReader) -> bytes:
    """The next line; empty at the end. A line over the limit is dropped."""
    while True:
        try:
            return await stdout.readline()
        except ValueError:
            log.warning("a line of more than %d bytes from a child process was dropped", _LONGEST_LINE)


def _parsed(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
