"""`pydllm serve` as people run it: a supervisor, an engine process and a gateway process, on free ports of loopback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-one-of-two"
"""That the server of the fixture `keyed` demands."""
READY = re.compile(r"pydllm ready: model (\S+) on https?://(\S+) and grpcs?://(\S+)")
_SAMPLE = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without PYDLLM_… of its own, able to import the working tree."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYDLLM_")}
    paths = [str(ROOT), str(ROOT / "gateway"), str(ROOT / "proto/python"), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **variables}


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, timeout: float = 10) -> str:
    """The body of a GET."""
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return str(response.read().decode())


def rss(pid: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def children(pid: int) -> dict[str, int]:
    """The processes that `pydllm serve` runs: "engine" and "gateway" with their pids."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (folder / "cmdline").read_text().split("\0")
            except (OSError, IndexError):
                continue  # gone meanwhile
            if parent == pid:
                found["gateway" if "pydllm_gateway" in words else "engine"] = int(folder.name)
    return found


@dataclass(frozen=True)
class Reading:
    """Sums of the engine's Prometheus samples by name, over all labels."""

    samples: dict[str, float]

    def __getitem__(self, name: str) -> float:
        return self.samples[f"pydllm_{name}"]


class Stack:
    """Starts at construction and waits for the ready line; stops at the end of the `with`."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self.metrics_port = free_port()
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", str(self.metrics_port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pydllm", "serve", *ports, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(**variables),
        )
        assert self.process.stdout is not None
        found = READY.search(self.process.stdout.readline())
        if not found:
            self.kill()
            raise AssertionError(f"the server did not start: {self.errors()}")
        self.model, self.http, self.grpc = found.groups()

    @property
    def url(self) -> str:
        """Of the gateway, without a path."""
        return f"http://{self.http}"

    @property
    def metrics_url(self) -> str:
        """The engine's Prometheus page."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def engine(self) -> Reading:
        """The engine's metrics now."""
        sums: dict[str, float] = {}
        for name, value in _SAMPLE.findall(get(self.metrics_url)):
            sums[name] = sums.get(name, 0.0) + float(value)
        return Reading(sums)

    def busy(self) -> float:
        """Requests in the engine, running or waiting."""
        now = self.engine()
        return now["num_requests_running"] + now["num_requests_waiting"]

    def wait_busy(self, requests: int = 1) -> None:
        """Until the engine has that many requests."""
        self._wait(lambda: self.busy() >= requests, "the engine never got the requests")

    def wait_idle(self) -> float:
        """Until the engine has no request; the seconds that took. Its pages are free and its step counter stands."""
        start = time.monotonic()
        self._wait(lambda: self.busy() == 0, "requests are still in the engine")
        return time.monotonic() - start

    def _wait(self, condition: object, failure: str) -> None:
        end = time.monotonic() + 30
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < end, failure
            time.sleep(0.01)

    def pids(self) -> dict[str, int]:
        """Of the engine and the gateway."""
        return children(self.process.pid)

    def errors(self) -> str:
        """What all three processes have written to stderr."""
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode(errors="replace")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Ends everything at once."""
        if self.process.poll() is None:
            own = self.pids().values()
            self.process.kill()
            for pid in own:
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        self.kill()
        self._errors.close()
