"""A gateway process under a supervisor: the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydllm_gateway
import pydllm_proto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SUPERVISED = ("-m", "pydllm_gateway", "--supervised")


@dataclass
class GatewayProcess:
    """A running process; `event` is its first line."""

    process: asyncio.subprocess.Process
    event: dict[str, Any]
    log: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.event["port"])

    @property
    def rss(self) -> int:
        """Resident memory, bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    async def exit(self, seconds: float = 20.0) -> int:
        """Waits for the end; stdout must have stayed silent since the first line."""
        assert self.process.stdout is not None
        code = await asyncio.wait_for(self.process.wait(), seconds)
        assert await self.process.stdout.read() == b""
        return code

    def close_stdin(self) -> None:
        """What happens when the supervisor dies."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def logged(self) -> str:
        """What it wrote to stderr so far."""
        return self.log.read_text()


async def spawn(log: Path, *arguments: str) -> asyncio.subprocess.Process:
    """A Python process that finds the packages where this one did."""
    folders = {str(Path(package.__file__ or "").parents[1]) for package in (pydllm_gateway, pydllm_proto)}
    with log.open("wb") as stderr:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sorted(folders)), "GRPC_VERBOSITY": "NONE"},
        )


@contextlib.asynccontextmanager
async def running(log: Path, **settings: Any) -> AsyncIterator[GatewayProcess]:
    """A supervised gateway, killed at the end if it still runs. `settings` is its configuration line."""
    process = await spawn(log, *SUPERVISED)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"port": 0, **settings}).encode() + b"\n")
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        yield GatewayProcess(process, json.loads(line), log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
