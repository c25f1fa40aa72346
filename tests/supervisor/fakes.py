"""Children that keep the supervisor's contract and do on command what real ones do by accident."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydllm.supervisor.child import Spec
from pydllm.supervisor.keeper import Timing

if TYPE_CHECKING:
    from collections.abc import Callable

# Each run of a child takes the next list of steps from its configuration; the last list is repeated.
SCRIPT = r"""
import json, os, pathlib, signal, sys, threading, time
config = json.loads(sys.stdin.readline())
folder, name = pathlib.Path(config["folder"]), config["name"]
number = len(list(folder.glob(name + ".*.config")))
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())

def note(what, text=""):
    draft = folder / f"{name}.{number}.{what}.draft"
    draft.write_text(text)
    draft.rename(folder / f"{name}.{number}.{what}")

def watch():
    sys.stdin.read()
    note("orphaned")
    os._exit(0)

def until(condition):
    while not condition():
        time.sleep(0.005)

def step(what, *arguments):
    if what == "event":
        print(json.dumps(arguments[0]), flush=True)
    elif what == "print":
        print(arguments[0], flush=True)
    elif what == "exit":
        os._exit(arguments[0])
    elif what == "kill":
        os.kill(os.getpid(), arguments[0])
    elif what == "serve":
        until(stopped.is_set)
        note("stopped")
    elif what == "wait":
        until((folder / arguments[0]).exists)
    elif what == "hang":
        until(lambda: False)

threading.Thread(target=watch, daemon=True).start()
note("pid", str(os.getpid()))
note("config", json.dumps(config))
for given in config["runs"][min(number, len(config["runs"]) - 1)]:
    step(*given)
"""

READY = {"event": "ready", "model": "fake", "grpc_port": 4001, "metrics_port": 4002, "port": 4003}
SERVE: list[list[Any]] = [["event", READY], ["serve"]]
TIMING = Timing(first_backoff=0.01, longest_backoff=0.04, drain=20.0, starting=20.0)


def failed(message: str, code: int) -> list[list[Any]]:
    """The steps of a child that cannot start."""
    return [["event", {"event": "failed", "message": message, "code": code}], ["exit", code]]


def spec(folder: Path, name: str, *runs: list[list[Any]], **config: Any) -> Spec:
    """A fake child that does these steps, run by run."""
    return Spec(
        name=name,
        command=(sys.executable, "-I", "-S", "-c", SCRIPT),
        config={"folder": str(folder), "name": name, "runs": runs or [SERVE], **config},
        environment=dict(os.environ),
    )


def pid(folder: Path, name: str, run: int = 0) -> int:
    """The process id of one run."""
    return int((folder / f"{name}.{run}.pid").read_text())


def is_alive(process: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def visible(process: int) -> str:
    """Arguments and environment of a process, as its user can see them from outside."""
    parts = (Path(f"/proc/{process}/{what}").read_bytes() for what in ("cmdline", "environ"))
    return b"\0".join(parts).decode(errors="replace")


async def until(condition: Callable[[], bool], what: object, seconds: float = 30.0) -> None:
    """Waits for something that happens in another process or task."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.005)


async def appears(path: Path, seconds: float = 30.0) -> None:
    """Waits for a note of a child."""
    await until(path.exists, path.name, seconds)


def everything_ended(folder: Path) -> bool:
    """Whether no run of any child is left."""
    return not any(is_alive(int(path.read_text())) for path in folder.glob("*.pid"))
