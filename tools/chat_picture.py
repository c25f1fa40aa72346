"""Draws docs/pictures/chat.svg and chat-animated.svg: `pydllm chat` with the demo model, in the middle of an answer.

The session, its commands, the cells and the counters are those of `pydllm chat`; only the times in the counter lines
are fixed, so that the same build gives the same files. Usage: python tools/chat_picture.py [DIRECTORY]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from pydllm.llm import LLM
from pydllm.outputs import BlockSnapshot, Finished
from pydllm.terminal import commands
from pydllm.terminal.answer import Answer
from pydllm.terminal.cells import BUCKETS, CERTAIN, END, END_STYLE, MASK, MASK_STYLE, Pieces
from pydllm.terminal.conversation import PROMPT
from pydllm.terminal.local import LocalBackend
from pydllm.terminal.screen import frame
from pydllm.terminal.session import Session
from pydllm.terminal.settings import initial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from pydllm.outputs import StreamEvent

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
LINES = ("How do you work?", "/algorithm llada_schedule", "/set remasking=random", "/seed 2", "Describe a fox.")
"""What is typed: an answer in one forward, then one step by step in a random order."""
SHOWN_CELLS = 21
"""The picture stops where the last answer has this many of its 32 cells."""
SECONDS = 0.002
"""Every time in the counter lines of finished answers."""

COLUMNS, ROWS = 84, 14
CHARACTER, LINE, MARGIN, BAR = 8.4, 19, 16, 34
FRAME_SECONDS, LAST_SECONDS = 0.28, 2.8

Lines = list[list[Segment]]


@dataclass
class Film:
    """What stands on the screen for good so far, and the frames of the answer that is being drawn."""

    console: Console = field(
        default_factory=lambda: Console(
            file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, color_system="truecolor"
        )
    )
    above: Lines = field(default_factory=list)
    frames: list[Lines] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    """Committed cells of each frame."""

    def add(self, renderable: RenderableType) -> None:
        self.above += self.drawn(renderable)

    def drawn(self, renderable: RenderableType) -> Lines:
        return [list(Segment.simplify(line)) for line in self.console.render_lines(renderable, pad=False)]


def main() -> None:
    """Writes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to write (default: docs/pictures)")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    still, animated = pictures()
    (folder / "chat.svg").write_text(still, encoding="utf-8")
    (folder / "chat-animated.svg").write_text(animated, encoding="utf-8")


def pictures() -> tuple[str, str]:
    """The SVG in the middle of the last answer, and the one that moves."""
    film = record()
    at = next(number for number, count in enumerate(film.cells) if count >= SHOWN_CELLS)
    return _svg(film.above, [film.frames[at]]), _svg(film.above, film.frames)


def record() -> Film:
    """Types the lines; every answer but the last is there at once."""
    film = Film()
    with LLM(threads=1) as llm:
        backend = LocalBackend(llm, "the embedded demo model", embedded=True)
        settings = initial(backend.algorithms, backend.default_params)
        session = Session(backend, settings, notify=lambda line: film.add(Text(line, style="yellow")))
        pieces = Pieces(backend.texts)
        for line in LINES:
            film.add(Text(f"{PROMPT}{line}"))
            if commands.is_command(line):
                film.add(Text(commands.run(session, line).text, style="dim"))
            else:
                _answer(session, pieces, line, film)
    return film


def _answer(session: Session, pieces: Pieces, question: str, film: Film) -> None:
    film.frames, film.cells = [], []
    answer = Answer(first_block=session.first_block)
    for event in _fixed(session.ask(question)):
        answer.accept(event, None)
        if isinstance(event, BlockSnapshot | Finished) or not film.frames:
            _draw(answer, pieces, film)
    session.answered(answer.text)
    if question != LINES[-1]:
        film.above += [*film.frames[-1], []]


def _draw(answer: Answer, pieces: Pieces, film: Film) -> None:
    cells = answer.cells(pieces)
    shown = frame(answer.text, cells, answer.counters(cells, None), width=COLUMNS, height=ROWS)
    film.frames.append(film.drawn(shown.renderable()))
    tokens = answer.snapshot.token_ids if answer.snapshot is not None else []
    film.cells.append(sum(token is not None for token in tokens))


def _fixed(events: Iterator[StreamEvent]) -> Iterator[StreamEvent]:
    for event in events:
        if isinstance(event, Finished):
            stats = dataclasses.replace(
                event.stats, queue_time=0.0, time_to_first_block=SECONDS, generation_time=SECONDS
            )
            yield dataclasses.replace(event, stats=stats)
        else:
            yield event


def _svg(above: Lines, frames: Sequence[Lines]) -> str:
    """One frame below what stands there for good, or several as an animation that repeats."""
    width = COLUMNS * CHARACTER + 2 * MARGIN
    rows = len(above) + max(map(len, frames)) + 2
    height = BAR + rows * LINE + MARGIN
    body = [_rows(frames[0], first=len(above))] if len(frames) == 1 else list(_moving(frames, len(above)))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">',
            "<title>pydllm chat in the middle of an answer: masked cells, tokens by confidence, counters</title>",
            f"<style>{_FONT}{_animation(len(frames)) if len(frames) > 1 else ''}</style>",
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{SVG_EXPORT_THEME.background_color.hex}"/>',
            *_window_buttons(),
            f'<text x="{width / 2:g}" y="22" text-anchor="middle" fill="#aaaaaa">pydllm chat</text>',
            _rows(above),
            *body,
            _rows(_legend(), first=rows - 1),
            "</svg>\n",
        ]
    )


_FONT = "text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}"


def _window_buttons() -> Iterator[str]:
    for number, color in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        yield f'<circle cx="{20 + 18 * number}" cy="17" r="5.5" fill="{color}"/>'


def _moving(frames: Sequence[Lines], first: int) -> Iterator[str]:
    for number, lines in enumerate(frames):
        delay = number * FRAME_SECONDS
        yield f'<g class="f" style="animation-delay:{delay:.2f}s">\n{_rows(lines, first=first)}\n</g>'


def _animation(count: int) -> str:
    """Every frame has its time; the last stays on until the film begins again."""
    total = (count - 1) * FRAME_SECONDS + LAST_SECONDS
    share = 100 * FRAME_SECONDS / total
    last = 100 * LAST_SECONDS / total
    return (
        f".f{{visibility:hidden;animation:f {total:.2f}s step-end infinite}}"
        f"@keyframes f{{0%{{visibility:visible}}{share:.3f}%{{visibility:hidden}}}}"
        f".f:nth-of-type({count}){{animation-name:l}}"
        f"@keyframes l{{0%{{visibility:visible}}{last:.3f}%{{visibility:hidden}}}}"
    )


def _rows(lines: Lines, *, first: int = 0) -> str:
    return "\n".join(_row(line, BAR + (first + number) * LINE + 14) for number, line in enumerate(lines) if line)


def _row(line: Sequence[Segment], y: float) -> str:
    parts = []
    at = 0
    for segment in line:
        width = cell_len(segment.text)
        if segment.text.strip():
            parts.append(_span(segment, MARGIN + at * CHARACTER, width * CHARACTER, y))
        at += width
    return "".join(parts)


def _span(segment: Segment, x: float, width: float, y: float) -> str:
    style = segment.style
    color = SVG_EXPORT_THEME.foreground_color
    if style is not None and style.color is not None and not style.color.is_default:
        color = style.color.get_truecolor(SVG_EXPORT_THEME)
    look = ' font-weight="bold"' if style is not None and style.bold else ""
    look += ' opacity="0.6"' if style is not None and style.dim else ""
    size = f'x="{x:g}" y="{y:g}" textLength="{width:g}" lengthAdjust="spacingAndGlyphs"'
    return f'<text {size} fill="{color.hex}"{look}>{escape(segment.text)}</text>'


def _legend() -> Lines:
    text = (
        Text(f"{MASK} ", MASK_STYLE).append("masked   ", "dim").append(f"{END} ", END_STYLE).append("no text   ", "dim")
    )
    text.append("confidence  ", "dim")
    for bound, color in BUCKETS:
        text.append(f"< {bound:g}  ", color)
    return Film().drawn(text.append(f"≥ {BUCKETS[-1][0]:g}", CERTAIN))


if __name__ == "__main__":
    main()
