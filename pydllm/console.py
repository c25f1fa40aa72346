"""What a process that loads a model writes on stderr meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Report = Callable[[int, int], None]


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
