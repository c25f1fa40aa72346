"""The keyboard while an answer is drawn: one Ctrl-C cancels it, and what is typed does not tear the picture."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import TextIO


class Interrupts:
    """The first SIGINT raises KeyboardInterrupt; the next ones, and all after `ignore`, do nothing."""

    def __init__(self) -> None:
        self._spent = False

    def ignore(self) -> None:
        """From here on the work must not be interrupted."""
        self._spent = True

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._spent:
            self._spent = True
            raise KeyboardInterrupt


@contextlib.contextmanager
def one_interrupt() -> Iterator[Interrupts]:
    """Handles SIGINT for a while. Only the main thread may enter."""
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, interrupts)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def no_echo() -> Iterator[None]:
    """Typed characters wait for the next prompt instead of being shown now."""
    if not _owns_terminal():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is open and a terminal."""
    return stream is not None and stream.isatty()


def _owns_terminal() -> bool:
    """Whether stdin is a terminal and this process runs in its foreground; others would be stopped by SIGTTOU."""
    try:
        return is_terminal(sys.stdin) and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False
