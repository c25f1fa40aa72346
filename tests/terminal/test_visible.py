"""Model output on a terminal: nothing in it is ever executed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydllm.terminal.visible import one_line, shown, visible


@given(st.text(st.characters()))
def test_no_control_character_is_left(text: str) -> None:
    for character in visible(text):
        assert character == "\n" or unicodedata.category(character) not in {"Cc", "Cs"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J", "␛[2J"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("a\rb", "a␍b"),
        ("a\r\nb", "a\nb"),
        ("\x9b31m", "\\u009b31m"),
        ("\x7f", "␡"),
        ("a\tb", "a    b"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\ud800", "\ufffd"),
        ("日本 é 👩‍🚀\n", "日本 é 👩‍🚀\n"),
    ],
)
def test_controls_become_pictures_and_text_stays(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_every_ascii_control_is_one_cell_wide() -> None:
    for code in (*range(0x20), 0x7F):
        if chr(code) not in "\n\t":
            assert len(shown(chr(code))) == 1


def test_an_error_is_one_line() -> None:
    assert one_line("a\n b\x1b[0m") == "a b␛[0m"
