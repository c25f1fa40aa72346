"""One answer as it comes in, and what a frame shows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking import Script, answer_events, appended, finished, snapshot

from pydllm.outputs import Started
from pydllm.terminal.answer import Answer, duration
from pydllm.terminal.cells import MASK, Pieces
from pydllm.terminal.screen import frame

if TYPE_CHECKING:
    from pydllm.outputs import StreamEvent

PIECES = Pieces(Script().texts)


def test_text_is_the_concatenation_of_the_blocks_and_snapshots_change_nothing() -> None:
    answer = Answer()
    events: list[StreamEvent] = [
        Started(0, 7),
        snapshot([None, 98]),
        appended("ab", [97, 98]),
        snapshot([99, None], block_index=1),
        appended("cd", [99, 100], block=1),
        finished(tokens=4),
    ]
    assert "".join(answer.accept(event, 0.1) for event in events) == answer.text == "abcd"
    output = answer.output()
    assert (output.text, output.token_ids, output.prompt_tokens) == ("abcd", [97, 98, 99, 100], 7)


def test_the_provisional_block_goes_when_it_is_final() -> None:
    answer = Answer(first_block=4)
    assert [cell.text for cell in answer.cells(PIECES)] == [MASK] * 4
    answer.accept(snapshot([97, None]), 0.0)
    assert [cell.text for cell in answer.cells(PIECES)] == ["a", MASK]
    answer.accept(appended("ab", [97, 98]), 0.0)
    assert answer.cells(PIECES) == ()


def test_a_snapshot_of_the_next_block_outlives_the_end_of_the_one_before() -> None:
    answer = Answer()
    answer.accept(snapshot([99], block_index=1), 0.0)
    answer.accept(appended("ab", block=0), 0.0)
    assert [cell.text for cell in answer.cells(PIECES)] == ["c"]


def test_counters_on_the_way_count_steps_cells_and_tokens() -> None:
    answer = Answer()
    assert answer.counters((), 0.0) == "waiting for the first step"
    answer.accept(appended("ab", [97, 98], steps=3), 0.5)
    answer.accept(snapshot([97, None, 0], block_index=1, step=1), 1.0)
    cells = answer.cells(PIECES)
    line = answer.counters(cells, 2.0)
    assert line == "block 2: 2 of 3 cells · 2.0 tokens/s · 0.80 tokens/step · 5 steps · first block 500 ms · 2.00 s"
    assert answer.counters(cells, None) == "block 2: 2 of 3 cells · 0.80 tokens/step · 5 steps · first block 500 ms"


def test_counters_at_the_end_are_those_of_the_engine() -> None:
    answer = Answer()
    for event in answer_events("x"):
        answer.accept(event, 9.0)
    assert answer.counters((), 9.0) == "16 tokens/s · 2.00 tokens/forward · 4 forwards · first block 250 ms · 500 ms"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("stop", ""),
        ("stop_sequence", ""),
        ("length", "max_tokens"),
        ("repetition", "max_repetition_run"),
        ("new", "new"),
    ],
)
def test_an_answer_that_was_cut_short_says_why(reason: str, words: str) -> None:
    answer = Answer()
    answer.accept(finished(reason), 1.0)
    assert answer.counters((), 1.0).endswith(words or "500 ms")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00123, "1.23 ms"), (0.0412, "41 ms"), (1.234, "1.23 s"), (99.5, "99.50 s"), (120.4, "120 s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_unfinished_answer_has_no_output() -> None:
    with pytest.raises(ValueError, match="not finished"):
        Answer().output()


@given(
    st.text(st.sampled_from("ab 日\n\x1b"), max_size=200),
    st.lists(st.sampled_from([None, 97, 0]), max_size=40),
    st.integers(1, 30),
    st.integers(1, 12),
)
def test_a_frame_fits_any_terminal_and_loses_no_final_text(
    text: str, tokens: list[int | None], width: int, height: int
) -> None:
    answer = Answer()
    answer.accept(snapshot(tokens), 0.0)
    cells = answer.cells(PIECES)
    shown = frame(text, cells, "10 tokens/s · 4 forwards", width=width, height=height)
    assert len(shown.live) + len(shown.counters) <= max(height, 1)
    assert shown.taken <= len(text)
    rest = frame(text[shown.taken :], cells, "10 tokens/s · 4 forwards", width=width, height=height)
    assert rest.done == []
    assert rest.live == shown.live


def test_a_long_answer_scrolls_up_for_good() -> None:
    shown = frame("one two three four five six", (), "c", width=5, height=4)
    assert [row.text.rstrip() for row in shown.done] == ["one", "two", "three", "four"]
    assert [row.text.rstrip() for row in shown.live] == ["five", "six"]
