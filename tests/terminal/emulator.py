"""A terminal small enough to be judged by eye: it knows the sequences that the live view may use and no other."""

from __future__ import annotations

import re
import unicodedata

_SEQUENCE = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])")


class Terminal:
    """Text goes in with `write`; `lines` is everything above and on the screen. Unknown sequences are errors."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cursor_visible = True
        self.styles: set[str] = set()
        self._cells: list[list[str]] = [[]]
        self._row = self._column = 0
        self._top = 0

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]

    def write(self, text: str) -> None:
        """Characters and whole sequences."""
        at = 0
        while at < len(text):
            found = _SEQUENCE.match(text, at)
            if found:
                self._control(bool(found[1]), found[2], found[3])
                at = found.end()
                continue
            self._put(text[at])
            at += 1

    def _control(self, private: bool, arguments: str, letter: str) -> None:
        if private:
            assert (arguments, letter) in {("25", "h"), ("25", "l"), ("2004", "h"), ("2004", "l")}, (arguments, letter)
            self.cursor_visible = self.cursor_visible if arguments == "2004" else letter == "h"
        elif letter == "m":
            self.styles.add(arguments)
        elif letter == "A":
            self._row = max(self._top, self._row - int(arguments or 1))
        elif (letter, arguments) == ("K", "2"):
            self._cells[self._row] = []
        elif (letter, arguments) in {("K", ""), ("K", "0")}:
            del self._cells[self._row][self._column :]
        else:
            raise AssertionError(f"unexpected sequence CSI {arguments} {letter}")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        elif character == "\x07" or unicodedata.combining(character) or character in "\u200d\ufe0f":
            pass
        else:
            assert character.isprintable(), f"a control character reached the terminal: {character!r}"
            self._print(character)

    def _print(self, character: str) -> None:
        width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if self._column + width > self.columns:
            self._column = 0
            self._down()
        row = self._cells[self._row]
        row += [" "] * (self._column + width - len(row))
        row[self._column] = character
        if width == 2:
            row[self._column + 1] = ""
        self._column += width

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._cells):
            self._cells.append([])
        self._top = max(self._top, self._row - self.rows + 1)
