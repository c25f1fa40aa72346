"""Model output and other people's text as a terminal may show it: control characters become visible, never executed."""

from __future__ import annotations

import io
import unicodedata
from typing import TextIO

TAB = "    "
_DIRECTION_OVERRIDES = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
_SEPARATORS = frozenset("\u2028\u2029")


def shown(character: str) -> str:
    """What to print for one character. Line feeds stay; tabs become spaces."""
    if character == "\n" or character.isprintable():
        return character
    if character == "\t":
        return TAB
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "\u2421"
    if character in _DIRECTION_OVERRIDES or character in _SEPARATORS or unicodedata.category(character) == "Cc":
        return f"\\u{ord(character):04x}"
    return "\ufffd" if unicodedata.category(character) == "Cs" else character


def visible(text: str) -> str:
    """The text with `shown` applied to each character; a carriage return that ends a line is dropped."""
    return "".join(map(shown, text.replace("\r\n", "\n")))


def is_unicode(text: str) -> bool:
    """Whether the text holds no lone surrogates, as bytes that are no UTF-8 do."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: object) -> str:
    """The same for an error or notice: one line."""
    return visible(" ".join(str(text).split()))


def lenient(stream: TextIO, errors: str = "replace") -> TextIO:
    """The stream, which from now on writes what its encoding does not have as the codec error handler `errors` says."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=errors)
    return stream
