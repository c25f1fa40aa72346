"""How long work takes on a device, and how long it would have to.

On a GPU by events on the stream that the work runs on, behind a kernel that spins: the host is then ahead of the
device, so that a short kernel is not as long as its launch. Elsewhere by the wall's clock.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from pydllm import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
SPIN_CYCLES = 4_000_000
"""About 2 ms of a GPU, in which the host queues all samples."""
ROTATED_BYTES = 192 << 20
"""Inputs rotate over copies of together as much: more than the second-level cache of any GPU."""


def on_gpu(device: str) -> bool:
    """Whether torch can compute where `device` is: not so for the emulated device of a test build."""
    return device.startswith("cuda") and torch.cuda.is_available()


def refusal(device: str, *, tiny: bool) -> str:
    """Why nothing can be measured there; "" when it can. Full sizes are for a GPU: elsewhere they take hours."""
    try:
        _core.ops.Workplace(device=device)
    except _core.CoreError as error:
        return str(error)
    if not tiny and not on_gpu(device):
        return f"device: expected a CUDA device that torch finds, too, got {device}; --tiny runs anywhere"
    return ""


def torch_device(device: str) -> torch.device:
    return torch.device(device if on_gpu(device) else "cpu")


class Clock:
    """Of one device. `stream`: the handle of the stream that the work runs on, 0 for torch's own."""

    def __init__(self, device: str, *, stream: int = 0, settle: Callable[[], object] = lambda: None) -> None:
        self.settle = settle
        """Called when a series of calls has been queued: waits for them, and frees what they needed."""
        self.stream: Any = None
        if on_gpu(device):
            self.stream = torch.cuda.ExternalStream(stream, device) if stream else torch.cuda.current_stream(device)

    def microseconds(self, calls: Sequence[Callable[[], object]], samples: int) -> float:
        """The median of `samples` calls, taken in turn, after as many to warm up."""
        in_turn = [calls[i % len(calls)] for i in range(samples)]
        for call in in_turn:
            call()
        self._wait()
        found = self._by_events(in_turn) if self.stream is not None else self._by_wall(in_turn)
        self._wait()
        return statistics.median(found)

    def _wait(self) -> None:
        self.settle()
        if self.stream is not None:
            torch.cuda.synchronize()

    def _by_events(self, calls: list[Callable[[], object]]) -> list[float]:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in calls]
        with torch.cuda.stream(self.stream):
            torch.cuda._sleep(SPIN_CYCLES)
            for call, (begin, end) in zip(calls, events, strict=True):
                begin.record(self.stream)
                call()
                end.record(self.stream)
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) * 1e3 for begin, end in events]

    def _by_wall(self, calls: list[Callable[[], object]]) -> list[float]:
        found = []
        for call in calls:
            begin = time.perf_counter()
            call()
            self.settle()
            found.append((time.perf_counter() - begin) * 1e6)
        return found


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches, measured in this run with torch's own kernels."""

    bytes_per_second: float
    flops_per_second: float

    def floor(self, moved: float, flops: float) -> float:
        """Seconds that no kernel can beat which moves so many bytes and does so many operations."""
        return max(moved / self.bytes_per_second, flops / self.flops_per_second)


def measured_ceilings(device: str, *, tiny: bool) -> Ceilings:
    """A large copy (bytes read and written), a large bfloat16 product on random data."""
    where, clock = torch_device(device), Clock(device)
    size, edge = (1 << 22, 256) if tiny else (1 << 30, 8192)
    source = torch.empty(size, dtype=torch.uint8, device=where).random_(0, 255)
    target = torch.empty_like(source)
    copied = clock.microseconds([lambda: target.copy_(source)], 10)
    a, b = (torch.randn(edge, edge, device=where, dtype=torch.bfloat16) for _ in range(2))
    multiplied = clock.microseconds([lambda: a @ b], 10)
    return Ceilings(2 * size / copied * 1e6, 2 * edge**3 / multiplied * 1e6)


def machine(device: str) -> dict[str, str]:
    """What was measured on."""
    name = torch.cuda.get_device_name(device) if on_gpu(device) else "no GPU: nothing here is a measurement of one"
    return {"device": device, "name": name, "torch": torch.__version__, "cuda": str(torch.version.cuda)}


def attempted(what: str, work: Callable[[], T], problems: list[str]) -> T | None:
    """What `work` returns; where it fails that is a problem of its own, and the other figures are still to be had."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - torch, the core and the device have many ways to fail
        first_line = (str(error).splitlines() or [""])[0]
        problems.append(f"{what}: {type(error).__name__}: {first_line}")
        return None


def shown(value: float | None, digits: str) -> str:
    """A figure in the format `digits`, "-" where there is none."""
    return "-" if value is None else format(value, digits)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
