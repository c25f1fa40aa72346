"""A supervisor as a process of its own: real signals, and what its children do when it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes import appears, everything_ended, is_alive, pid

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import asyncio, logging, pathlib, sys
sys.path[:0] = sys.argv[2:]
import fakes
from pydllm.supervisor.stop import Stop
from pydllm.supervisor.supervisor import supervise
async def main():
    stop, folder = Stop(), pathlib.Path(sys.argv[1])
    steps = [["event", fakes.READY], ["hang"]] if (folder / "hang").exists() else fakes.SERVE
    specs = [fakes.spec(folder, name, steps) for name in ("engine", "gateway")]
    with stop.installed():
        return await supervise(specs, timing=fakes.TIMING, stop=stop, announce=lambda _: print("ready", flush=True))
sys.exit(asyncio.run(main()))
"""


@pytest.fixture
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    if getattr(request, "param", None):
        (tmp_path / request.param).touch()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait(30)
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_zero(number: int, supervisor: subprocess.Popen[str], tmp_path: Path) -> None:
    supervisor.send_signal(number)
    assert supervisor.wait(30) == 0
    assert (tmp_path / "engine.0.stopped").exists()
    assert (tmp_path / "gateway.0.stopped").exists()


@pytest.mark.parametrize("supervisor", ["hang"], indirect=True)
def test_a_second_signal_exits_with_its_number(supervisor: subprocess.Popen[str], tmp_path: Path) -> None:
    supervisor.send_signal(signal.SIGTERM)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(10) in (128 + signal.SIGINT, 128 + signal.SIGTERM)  # the kernel may swap two that wait
    assert everything_ended(tmp_path)


async def test_children_of_a_killed_supervisor_notice(supervisor: subprocess.Popen[str], tmp_path: Path) -> None:
    children = [pid(tmp_path, name) for name in ("engine", "gateway")]
    assert all(map(is_alive, children))
    supervisor.kill()
    for name in ("engine", "gateway"):
        await appears(tmp_path / f"{name}.0.orphaned", 10)
