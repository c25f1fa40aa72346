"""`pydllm serve` with its engine process, without the gateway."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without PYDLLM_… of its own, able to import the working tree; any free ports."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYDLLM_")}
    paths = [str(ROOT), str(ROOT / "proto/python"), str(ROOT / "gateway"), *filter(None, [kept.get("PYTHONPATH")])]
    ports = dict.fromkeys(("PYDLLM_GRPC_PORT", "PYDLLM_HTTP_PORT", "PYDLLM_METRICS_PORT"), "0")
    return {**kept, **ports, "PYTHONPATH": os.pathsep.join(paths), **variables}


class ServerProcess:
    """Starts on any free port and waits for the ready line; stops at the end."""

    def __init__(self, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pydllm", "serve", "--no-gateway", "--grpc-port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(),
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        found = re.search(r"grpc://(\S+)", ready)
        assert found, f"the server did not start: {self.errors()}"
        self.address = found[1]

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its engine notices
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(60)

    def errors(self) -> str:
        """What the server has written to stderr."""
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode()

    def wait_for_error(self, text: str) -> None:
        """Until stderr contains the text."""
        end = time.monotonic() + 60
        while text not in self.errors():
            assert time.monotonic() < end, self.errors()
            time.sleep(0.01)
