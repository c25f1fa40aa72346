"""Rows of the screen."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from pydllm.terminal.layout import Span, as_text, rows

SPANS = st.lists(
    st.builds(
        Span,
        st.text(st.sampled_from("ab  日本é\u0301\n\r\t👩\u200d🚀\u202e\x1b░"), max_size=30),
        st.sampled_from(["", "red", "bold"]),
        st.booleans(),
    ),
    max_size=8,
)


def texts(text: str, width: int, *, free: bool = False) -> list[str]:
    return [row.text for row in rows([Span(text, free=free)], width)]


@given(SPANS, st.integers(6, 40))
@example([Span("a\u200d\u202e")], 6)
@example([Span("\u200d".join("abcdefgh"))], 6)
def test_no_row_is_wider_than_the_terminal(spans: list[Span], width: int) -> None:
    for row in rows(spans, width):
        assert sum(cell_len(character) for character in row.text) <= width


@given(SPANS, st.integers(1, 40))
@example([Span("\u200d\r\n")], 1)
def test_rows_stand_for_every_character_once(spans: list[Span], width: int) -> None:
    out = rows(spans, width)
    assert sum(row.taken for row in out) == sum(len(span.text) for span in spans)


@given(
    st.text(st.sampled_from("abc 日\n"), max_size=60),
    st.text(st.sampled_from("abc 日\n"), max_size=60),
    st.integers(2, 12),
)
def test_rows_before_that_of_the_last_character_do_not_depend_on_what_follows(head: str, tail: str, width: int) -> None:
    before, after = rows([Span(head)], width), rows([Span(head), Span(tail, "red", free=True)], width)
    taken = 0
    for old, new in zip(before, after, strict=False):
        taken += old.taken
        if taken >= len(head):
            break
        assert old == new


def test_words_stay_whole_and_the_space_goes_with_the_break() -> None:
    assert texts("one two three", 7) == ["one two", "three"]
    assert texts("one  two", 4) == ["one ", "two"]


def test_a_word_longer_than_the_row_is_cut() -> None:
    assert texts("abcdefgh", 3) == ["abc", "def", "gh"]


def test_wide_characters_break_anywhere_and_never_in_half() -> None:
    assert texts("日本語です", 5) == ["日本", "語で", "す"]
    assert texts("a日本", 4) == ["a日", "本"]


def test_marks_and_joined_characters_stay_together() -> None:
    assert texts("e\u0301e\u0301", 1) == ["e\u0301", "e\u0301"]
    assert texts("👩\u200d🚀x", 4) == ["👩\u200d🚀", "x"]


def test_masks_fill_the_row_beside_words() -> None:
    spans = [Span("word "), Span("░░░░", "dim", free=True), Span("end")]
    assert [row.text for row in rows(spans, 8)] == ["word ░░░", "░end"]


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb"])
def test_line_feeds_end_rows(text: str) -> None:
    assert texts(text, 80) == ["a", "b"]


def test_styles_survive_and_markup_is_text() -> None:
    text = as_text(rows([Span("[bold]x[/bold]", "red"), Span(" y")], 80))
    assert text.plain == "[bold]x[/bold] y"
    assert [(span.start, span.end, span.style) for span in text.spans if span.style] == [(0, 14, "red")]
