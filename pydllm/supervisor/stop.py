"""What the operator asks for with signals: the first drains, the second ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Remembers signals. Event-loop thread only."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.number = 0
        """The second signal."""

    def take(self, number: int) -> None:
        """Counts one signal."""
        if self.first.is_set():
            self.number = number
            self.second.set()
        self.first.set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Takes SIGTERM and SIGINT of this process while the block runs."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.take, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
