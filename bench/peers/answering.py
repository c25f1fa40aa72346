"""The line protocol of the peers: a JSON object {command: {argument: value}} in, one JSON object out. Only the standard
library: llama.cpp's peer runs in an environment of its own."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def answer(commands: dict[str, Callable[..., Any]]) -> None:
    """Answers on standard output until standard input ends; a failed command is {"error": ...}, a peer stays alive."""
    for line in sys.stdin:
        [(name, arguments)] = json.loads(line).items()
        try:
            result = commands[name](**arguments)
        except Exception as error:  # noqa: BLE001 - whatever it was, the driver has to hear of it
            result = {"error": f"{name}: {type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


def clocked(work: Callable[[], object]) -> dict[str, float]:
    """Seconds on the wall and of this process's CPU time, all its threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
