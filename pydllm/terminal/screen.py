"""The live view of one answer: rich draws it, at most 30 times a second and only when something came in."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live

from pydllm.outputs import BlockAppended, Finished
from pydllm.terminal.answer import Answer, spans_of
from pydllm.terminal.keyboard import Interrupts, no_echo, one_interrupt
from pydllm.terminal.layout import Row, Span, as_text, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from rich.console import Console, RenderableType

    from pydllm.outputs import StreamEvent
    from pydllm.terminal.cells import Cell, Pieces

FRAME_SECONDS = 1 / 30
COUNTER_STYLE = "dim"


@dataclass(frozen=True)
class Frame:
    """What one drawing shows. `done` leaves the live region for good, above it."""

    done: list[Row]
    live: list[Row]
    counters: list[Row]

    @property
    def taken(self) -> int:
        """Characters of the final text in `done`."""
        return sum(row.taken for row in self.done)

    def renderable(self) -> RenderableType:
        """The live region."""
        return Group(as_text(self.live), as_text(self.counters))


def frame(text: str, cells: Sequence[Cell], counters: str, *, width: int, height: int) -> Frame:
    """Final text not yet printed for good, the block behind it and the counters, for a terminal of this size.

    What does not fit goes: final rows upwards for good; rows of a block larger than the screen are not shown.
    """
    width, below = max(1, width), rows([Span(counters, COUNTER_STYLE)], max(1, width))
    body = rows([Span(text), *spans_of(cells)], width)
    room = max(1, height - 1 - len(below))
    done = min(max(0, len(body) - room), _settled(body, len(text)))
    return Frame(body[:done], body[done:][-room:], below[: max(0, height - 2)])


def _settled(body: Sequence[Row], text_length: int) -> int:
    """Rows that later text cannot change: those before the row of the last final character."""
    count = taken = 0
    while count < len(body) and taken + body[count].taken < text_length:
        taken += body[count].taken
        count += 1
    return count


class Screen:
    """Shows answers one after the other on a console."""

    def __init__(self, console: Console, pieces: Pieces, *, pace: float = 0.0) -> None:
        """`pace`: seconds that every step stays on the screen at least."""
        self._console = console
        self._pieces = pieces
        self._pace = pace

    def show(self, events: Generator[StreamEvent], answer: Answer) -> None:
        """Draws the answer until it is finished. Whatever ends it early is raised when the screen is in order.

        Ctrl-C raises KeyboardInterrupt. Either way the events are closed, which cancels the request.
        """
        with contextlib.closing(events), no_echo(), one_interrupt() as interrupts:
            drawing = _Drawing(self._console, self._pieces, answer, timed=not self._pace)
            with drawing.running(interrupts):
                for event in events:
                    drawing.accept(event)
                    if self._pace and not isinstance(event, BlockAppended | Finished):
                        time.sleep(self._pace)


class _Drawing:
    """One answer on the screen: the main thread takes events, a thread of its own draws."""

    def __init__(self, console: Console, pieces: Pieces, answer: Answer, *, timed: bool) -> None:
        """`timed`: the time that passes here is the model's."""
        self._console = console
        self._pieces = pieces
        self._answer = answer
        self._tail = ""
        self._began = time.monotonic() if timed else None
        self._lock = threading.Lock()
        self._painter = _Painter(self._draw)
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop"
        )

    def accept(self, event: StreamEvent) -> None:
        """Takes an event; it is drawn soon."""
        with self._lock:
            self._tail += self._answer.accept(event, self._elapsed())
        self._painter.touch()

    @contextlib.contextmanager
    def running(self, interrupts: Interrupts) -> Generator[None]:
        """Draws in the background; at the end once more, and that stays."""
        with self._live:
            self._painter.start()
            try:
                yield
            finally:
                interrupts.ignore()
                self._painter.close()
                self._draw()

    def _elapsed(self) -> float | None:
        return None if self._began is None else time.monotonic() - self._began

    def _draw(self) -> None:
        with self._lock:
            text = self._tail
            cells = self._answer.cells(self._pieces)
            counters = self._answer.counters(cells, self._elapsed())
        shown = frame(text, cells, counters, width=self._console.width, height=self._console.height)
        with self._lock:
            self._tail = self._tail[shown.taken :]
        self._live.update(shown.renderable(), refresh=not shown.done)
        if shown.done:
            self._console.print(as_text(shown.done))  # rich draws the live region again below it


class _Painter:
    """Calls `draw` after `touch`, at most once per frame."""

    def __init__(self, draw: Callable[[], None]) -> None:
        self._draw = draw
        self._touched = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pydllm-screen", daemon=True)

    def start(self) -> None:
        """Begins to draw."""
        self._thread.start()

    def touch(self) -> None:
        """There is something new."""
        self._touched.set()

    def close(self) -> None:
        """Ends the thread; it does not draw any more."""
        self._closed.set()
        self._touched.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._touched.wait()
            self._touched.clear()
            if self._closed.is_set():
                return
            try:
                self._draw()
            except Exception:  # noqa: BLE001 - the last drawing, in the main thread, raises it again
                return
            self._closed.wait(FRAME_SECONDS)
