"""What the engine did in the last seconds, from samples of its counters."""

from __future__ import annotations

import asyncio
import collections
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydllm.server.metrics_core import Stats

WINDOW_SECONDS = 10.0
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Means over the window; 0 where nothing happened."""

    tokens_per_second: float = 0.0
    tokens_per_forward: float = 0.0
    """Per forward pass and request."""
    steps_per_block: float = 0.0


class Window:
    """Samples of the last WINDOW_SECONDS. Event-loop thread only."""

    def __init__(self, stats: Callable[[], Stats], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stats = stats
        self._clock = clock
        self._samples: collections.deque[tuple[float, Stats]] = collections.deque()
        self.sample()

    def sample(self) -> None:
        """Takes the counters down, and forgets samples that are too old to begin the window."""
        now = self._clock()
        self._samples.append((now, self._stats()))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def rates(self) -> Rates:
        """From the oldest sample until now."""
        began, before = self._samples[0]
        seconds, after = self._clock() - began, self._stats()
        tokens = after.final_tokens - before.final_tokens
        return Rates(
            tokens_per_second=_ratio(tokens, seconds),
            tokens_per_forward=_ratio(tokens, after.request_forwards - before.request_forwards),
            steps_per_block=_ratio(
                after.denoise_steps - before.denoise_steps, after.blocks_finished - before.blocks_finished
            ),
        )

    async def run(self) -> None:
        """Samples until it is cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self.sample()


def _ratio(amount: float, of: float) -> float:
    return amount / of if of > 0 else 0.0
