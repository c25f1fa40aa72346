"""Styled text into rows of a given width: words stay whole, wide characters and masks may stand anywhere.

Row breaks before the last word do not depend on what follows it, so rows of final text can be printed for good.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len
from rich.text import Text

from pydllm.terminal.visible import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_JOINER = "\u200d"
_WIDEST = 6
"""Cells of joined characters that stay on one row: the narrowest terminal that is drawn for has no more."""

Kind = Literal["word", "space", "free", "line"]
"""free: a row may end before and after it. line: a line feed."""


@dataclass(frozen=True)
class Span:
    """A stretch of text in one style."""

    text: str
    style: str = ""
    free: bool = False


@dataclass(frozen=True)
class Row:
    """One row of the screen."""

    spans: tuple[Span, ...]
    taken: int
    """Characters of the input that it stands for, spaces and the line feed at its end included."""

    @property
    def text(self) -> str:
        """What it shows, unstyled."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True)
class _Glyph:
    """A character with the marks that combine with it."""

    text: str
    style: str
    kind: Kind
    width: int
    taken: int = 1


def rows(spans: Iterable[Span], width: int) -> list[Row]:
    """Breaks the spans into rows of at most `width` cells. Control characters are made visible."""
    breaker = _Breaker(width)
    for glyph in _glyphs(spans):
        breaker.add(glyph)
    return [*breaker.rows, _row(breaker.line)]


def as_text(lines: Sequence[Row]) -> Text:
    """The rows as one renderable that never wraps again."""
    text = Text(no_wrap=True, overflow="crop")
    for number, row in enumerate(lines):
        text.append("\n" if number else "")
        for span in row.spans:
            text.append(span.text, span.style)
    return text


class _Breaker:
    """Takes glyphs, fills `line` and moves what no longer fits with it to `rows`."""

    def __init__(self, width: int) -> None:
        self.rows: list[Row] = []
        self.line: list[_Glyph] = []
        self._width = width
        self._used = 0

    def add(self, glyph: _Glyph) -> None:
        if glyph.kind == "line":
            self.line.append(glyph)
            self._end(len(self.line))
        elif glyph.kind == "space" and self.line and self._used + glyph.width > self._width:
            self.line.append(replace(glyph, text="", width=0))  # goes with the break
        else:
            while self.line and self._used + glyph.width > self._width:
                self._end(_cut(self.line, glyph))
            self.line.append(glyph)
            self._used += glyph.width

    def _end(self, cut: int) -> None:
        self.rows.append(_row(self.line[:cut]))
        self.line = self.line[cut:]
        self._used = sum(glyph.width for glyph in self.line)


def _glyphs(spans: Iterable[Span]) -> list[_Glyph]:
    out: list[_Glyph] = []
    before = ""
    for span in spans:
        for character in span.text:
            printed = shown(character)
            if out and before == "\r" and character == "\n":
                out[-1] = replace(_glyph(printed, span), taken=2)
            elif out and printed == character and _joins(printed, out[-1]):
                out[-1] = _joined(out[-1], printed)
            else:
                out.append(_glyph(printed, span))
            before = character
    return out


def _glyph(printed: str, span: Span) -> _Glyph:
    if printed == "\n":
        return _Glyph("", span.style, "line", 0)
    width = cell_len(printed)
    if printed.isspace() and printed != "\u00a0":
        return _Glyph(printed, span.style, "space", width)
    wide = width > 1 and len(printed) == 1
    return _Glyph(printed, span.style, "free" if wide or span.free else "word", width)


def _joins(printed: str, last: _Glyph) -> bool:
    """Combining marks belong to the character before, and so does what follows a joiner, within bounds."""
    if last.kind in ("line", "space") or printed == "\n":
        return False
    width = cell_len(printed)
    return width == 0 or (last.text.endswith(_JOINER) and last.width + width <= _WIDEST)


def _joined(glyph: _Glyph, printed: str) -> _Glyph:
    """Never narrower than its parts: a terminal that does not join them still has room."""
    text = glyph.text + printed
    width = max(glyph.width + cell_len(printed), cell_len(text))
    return _Glyph(text, glyph.style, glyph.kind, width, glyph.taken + 1)


def _cut(line: Sequence[_Glyph], following: _Glyph) -> int:
    """Where the row ends: behind a space, beside a free glyph, else where it is full."""
    kinds = [glyph.kind for glyph in (*line, following)]
    for end in range(len(line), 0, -1):
        if kinds[end - 1] in ("space", "free") or kinds[end] == "free":
            return end
    return len(line)


def _row(line: Sequence[_Glyph]) -> Row:
    spans: list[Span] = []
    for glyph in line:
        if spans and spans[-1].style == glyph.style:
            spans[-1] = Span(spans[-1].text + glyph.text, glyph.style)
        elif glyph.text:
            spans.append(Span(glyph.text, glyph.style))
    return Row(tuple(spans), sum(glyph.taken for glyph in line))
