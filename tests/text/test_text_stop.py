from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_reference import first_match, relaxed

from pydllm.errors import InvalidRequestError
from pydllm.text import StopMatch, StopMatcher

SHORT = st.text("ab", min_size=1, max_size=4)


@relaxed
@given(text=st.text("abc", max_size=40), stops=st.lists(SHORT, max_size=5), cuts=st.lists(st.integers(0, 40)))
def test_the_match_that_ends_first_is_found_in_every_splitting(text: str, stops: list[str], cuts: list[int]) -> None:
    matcher = StopMatcher(stops)
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    for a, b in itertools.pairwise(edges):
        matcher.push(text[a:b])
    assert matcher.match == first_match(text, stops)


@relaxed
@given(text=st.text("abc", max_size=30), stops=st.lists(SHORT, min_size=1, max_size=5))
def test_what_is_held_is_the_longest_beginning_of_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    if matcher.push(text):
        assert matcher.held == 0
        return
    beginnings = [n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])]
    assert matcher.held == max(beginnings, default=0)


def test_of_two_that_end_together_the_first_listed_wins() -> None:
    assert StopMatcher(["b", "ab"]).push("xab") == StopMatch("b", 2, 3)
    assert StopMatcher(["ab", "b"]).push("xab") == StopMatch("ab", 1, 3)


def test_a_shorter_stop_string_ends_the_text_before_a_longer_one_is_complete() -> None:
    assert StopMatcher(["abcd", "bc"]).push("abcd") == StopMatch("bc", 1, 3)


def test_without_stop_strings_nothing_is_held() -> None:
    matcher = StopMatcher([])
    assert matcher.push("anything") is None
    assert (matcher.held, matcher.length) == (0, 8)


def test_text_after_the_match_changes_nothing() -> None:
    matcher = StopMatcher(["x"])
    matcher.push("ax")
    assert matcher.push("bbx") == StopMatch("x", 1, 2)
    assert matcher.length == 2


def test_repetitive_text_takes_linear_work() -> None:
    class Counting(StopMatcher):
        lookups = 0

        def _next(self, state: int, character: str) -> int:
            self.lookups += 1
            return super()._next(state, character)

    matcher = Counting(["a" * 4000 + "b"])
    built = matcher.lookups
    matcher.push("a" * 20_000)
    assert matcher.lookups - built == 20_000
    assert matcher.held == 4000


def test_sixteen_stop_strings_of_full_length_are_accepted() -> None:
    stops = [chr(ord("a") + i) * 4096 for i in range(16)]
    match = StopMatcher(stops).push("b" * 5000)
    assert match == StopMatch("b" * 4096, 0, 4096)


@pytest.mark.parametrize(
    ("stops", "field", "message"),
    [
        (["a"] * 17, "sampling.stop", "at most 16 stop strings, got 17"),
        ([""], "sampling.stop[0]", "1 to 4096 characters, got 0"),
        (["a", "b" * 4097], "sampling.stop[1]", "got 4097"),
        (["\ud800"], "sampling.stop[0]", "lone surrogate"),
        ([3], "sampling.stop[0]", "expected text, got int"),
        ([None], "sampling.stop[0]", "expected text, got NoneType"),
        ("abc", "sampling.stop", "expected a list of strings, got str"),
    ],
)
def test_bad_stop_strings_are_named(stops: list[str], field: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        StopMatcher(stops)
    assert caught.value.field == field
