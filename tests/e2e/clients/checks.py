"""What the client scripts share: named checks, each run against the server given on the command line.

A script is run as `python SCRIPT.py JSON`, with the Setting below as JSON, in an environment that has its client and
nothing of this project. It prints one JSON object: for every check its figure, or the error that ended it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SUM = "Solve: 12 + 30."
ANSWER = "12 + 30 = 42"
CHAT = [{"role": "user", "content": SUM}]
# Keeps the engine busy for seconds: one token per forward pass.
SLOW = {"ignore_eos": True, "dllm": {"algorithm": "llada_schedule", "steps": 200, "block_length": 8}}


@dataclass(frozen=True)
class Setting:
    """Where the server is."""

    url: str
    model: str
    metrics_url: str
    keyed_url: str
    key: str

    @property
    def base_url(self) -> str:
        return self.url + "/v1"


_checks: dict[str, Callable[[Setting], object]] = {}


def check(function: Callable[[Setting], object]) -> Callable[[Setting], object]:
    """Registers a check; what it returns is its figure."""
    _checks[function.__name__] = function
    return function


def busy(setting: Setting) -> float:
    """Requests in the engine, running or waiting."""
    with urllib.request.urlopen(setting.metrics_url, timeout=10) as response:
        page = response.read().decode()
    gauges = re.findall(r"^pydllm_num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", page, re.MULTILINE)
    assert len(gauges) >= 2, "the engine's page lacks its gauges"
    return sum(map(float, gauges))


def seconds_until_idle(setting: Setting) -> float:
    """Until the engine has no request."""
    start = time.monotonic()
    while busy(setting):
        assert time.monotonic() - start < 1.5, "the engine still works for a client that is gone"
        time.sleep(0.01)
    return time.monotonic() - start


def wait_until_busy(setting: Setting) -> None:
    start = time.monotonic()
    while not busy(setting):
        assert time.monotonic() - start < 10, "the request never reached the engine"
        time.sleep(0.01)


def main() -> None:
    setting = Setting(**json.loads(sys.argv[1]))
    outcomes: dict[str, Any] = {}
    for name, function in _checks.items():
        try:
            outcomes[name] = {"figure": function(setting)}
        except Exception:
            outcomes[name] = {"error": traceback.format_exc()}
    print(json.dumps(outcomes), flush=True)
    os._exit(0)  # no client thread may hold up the end
