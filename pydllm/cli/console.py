"""What commands write beside their result: error lines and loading progress, on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

OK = 0
FAILED = 1
"""The checkpoint, the model or a request failed."""
USAGE = 2
"""Flags, environment, configuration file, address: nothing was attempted."""
INTERRUPTED = 130

Report = Callable[[int, int], None]


def fail(command: str, message: object, code: int) -> int:
    """Prints one line and returns the exit code."""
    line = " ".join(str(message).split())
    print(f"pydllm {command}: {line}", file=sys.stderr)
    return code


def _silent(done: int, total: int) -> None:
    """Reports nothing."""


@contextlib.contextmanager
def loading(label: str, *, quiet: bool = False) -> Iterator[Report]:
    """A progress bar on a terminal, elsewhere one plain line (nothing when quiet).

    Yields what takes (bytes done, bytes in all).
    """
    if not sys.stderr.isatty():
        if not quiet:
            print(f"loading {label}", file=sys.stderr, flush=True)
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=quiet) as bar:
        task = bar.add_task(f"loading {label}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
