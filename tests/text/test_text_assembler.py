from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_reference import NAMES, first_match, relaxed, tokenizer_of

from pydllm.errors import InvalidRequestError
from pydllm.text import CandidateAssembler, StopHit

LLADA = tokenizer_of("llada-tiny")
EOT = 335


def ids_of(text: str) -> list[int]:
    return LLADA.encode(text, add_special_tokens=False)


def letters(text: str) -> list[int]:
    """One token per character."""
    return [i for c in text for i in ids_of(c)]


@dataclass
class Run:
    text: str
    token_ids: list[int]
    hit: StopHit | None


def run(
    assembler: CandidateAssembler, ids: list[int], *, cuts: list[int], takes: list[int | None], ending: bool
) -> Run:
    """Feeds `ids` cut at `cuts`, takes after each part what `takes` says, and concatenates."""
    edges = [0, *sorted(min(c, len(ids)) for c in cuts), len(ids)]
    parts = [ids[a:b] for a, b in itertools.pairwise(edges)]
    text, tokens = "", []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        assembler.feed(part, ending_token=ending and last and bool(part))
        if number < len(takes):
            released = assembler.take(takes[number])
            assert released.token_offset == len(tokens)
            text, tokens = text + released.text, tokens + released.token_ids
    hit = assembler.finish()
    released = assembler.take()
    assert assembler.finished
    return Run(text + released.text, tokens + released.token_ids, hit)


TEXTS = st.text("ab é🙂", max_size=25)
STOPS = st.lists(st.text("ab é", min_size=1, max_size=3), max_size=4)
CUTS = st.lists(st.integers(0, 40), max_size=8)
TAKES = st.lists(st.none() | st.integers(0, 40), max_size=8)


@relaxed
@given(text=TEXTS, stops=STOPS, cuts=CUTS, takes=TAKES, include=st.booleans(), ending=st.booleans())
def test_released_text_is_the_text_up_to_the_stop_in_every_splitting(
    text: str, stops: list[str], cuts: list[int], takes: list[int | None], include: bool, ending: bool
) -> None:
    ids = [*ids_of(text), EOT] if ending else ids_of(text)
    cuts = [c for c in cuts if c < len(ids)]
    assembler = CandidateAssembler(LLADA, stop=stops, include_stop=include)
    result = run(assembler, ids, cuts=cuts, takes=takes, ending=ending)
    match = first_match(text, stops)
    if match:
        assert result.text == text[: match.end if include else match.start]
        assert result.hit is not None
        assert result.hit.stop == match.stop
        whole = next(k for k in range(len(ids) + 1) if len(decoded_prefix(ids, k)) >= match.end)
        assert result.hit.token_count == whole
        assert result.token_ids == ids[:whole]
    else:
        assert result.text == (text + "<|eot_id|>" if include and ending else text)
        assert result.hit is None
        assert result.token_ids == ids


def decoded_prefix(ids: list[int], count: int) -> str:
    """Whole characters of the first tokens."""
    return b"".join(map(LLADA.token_bytes, ids[:count])).decode("utf-8", "ignore")


@pytest.mark.parametrize("name", NAMES)
@relaxed
@given(
    ids=st.lists(st.integers(0, 345), max_size=40),
    stops=st.lists(st.text("ae \N{REPLACEMENT CHARACTER}", min_size=1, max_size=2), max_size=3),
    cuts=CUTS,
    takes=TAKES,
    include=st.booleans(),
    skip=st.booleans(),
)
def test_any_tokens_give_the_same_text_streamed_and_whole(
    name: str,
    ids: list[int],
    stops: list[str],
    cuts: list[int],
    takes: list[int | None],
    include: bool,
    skip: bool,
) -> None:
    tokenizer = tokenizer_of(name)
    options = {"stop": stops, "include_stop": include, "skip_special_tokens": skip}
    streamed = run(CandidateAssembler(tokenizer, **options), ids, cuts=cuts, takes=takes, ending=False)
    whole = run(CandidateAssembler(tokenizer, **options), ids, cuts=[], takes=[], ending=False)
    assert streamed == whole
    text = tokenizer.decode(ids, skip_special_tokens=skip)
    match = first_match(text, stops)
    expected = text[: match.end if include else match.start] if match else text
    assert whole.text == expected


def test_a_stop_string_over_a_block_edge_never_shows_a_fragment() -> None:
    assembler = CandidateAssembler(LLADA, stop=["STOP"])
    assembler.feed(letters("oneST"))
    assert assembler.take(5).text == "one"
    assert assembler.feed(letters("OPtwo")) == StopHit("STOP", 7)
    assert assembler.finished
    released = assembler.take(10)
    assert (released.text, released.token_ids) == ("", letters("OP"))


def test_a_beginning_that_turns_out_harmless_is_released_later() -> None:
    assembler = CandidateAssembler(LLADA, stop=["STOP"])
    assembler.feed(letters("aST"))
    assert assembler.take().text == "a"
    assembler.feed(letters("E"))
    assert assembler.take().text == "STE"
    assembler.feed(letters("ST"))
    assert assembler.take().text == ""
    assert assembler.finish() is None
    assert assembler.take().text == "ST"


def test_text_of_an_unfinished_block_stays_with_the_caller_until_taken() -> None:
    assembler = CandidateAssembler(LLADA)
    assembler.feed(letters("abcdef"))
    first = assembler.take(4)
    assert (first.text, first.token_ids, first.token_offset) == ("abcd", letters("abcd"), 0)
    assert assembler.take(4).text == ""
    assert assembler.take(2).token_ids == []
    rest = assembler.take()
    assert (rest.text, rest.token_ids, rest.token_offset) == ("ef", letters("ef"), 4)


def test_a_stop_string_beats_the_ending_token_of_the_same_step() -> None:
    assembler = CandidateAssembler(LLADA, stop=["b"])
    assert assembler.feed([*letters("abc"), EOT], ending_token=True) == StopHit("b", 2)
    released = assembler.take()
    assert (released.text, released.token_ids) == ("a", letters("ab"))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("end", [EOT, letters("z")[0]])
def test_the_ending_token_is_a_token_but_no_text(end: int, skip: bool) -> None:
    assembler = CandidateAssembler(LLADA, skip_special_tokens=skip)
    assert assembler.feed([*letters("ab"), end], ending_token=True) is None
    released = assembler.take()
    assert (released.text, released.token_ids) == ("ab", [*letters("ab"), end])
    assert assembler.finished


@pytest.mark.parametrize(("end", "text"), [(EOT, "ab<|eot_id|>"), (letters("z")[0], "abz")])
def test_include_stop_keeps_the_text_of_the_ending_token(end: int, text: str) -> None:
    assembler = CandidateAssembler(LLADA, include_stop=True)
    assembler.feed([*letters("ab"), end], ending_token=True)
    assert assembler.take().text == text


def test_the_ending_tokens_own_text_completes_no_stop_string() -> None:
    assembler = CandidateAssembler(LLADA, stop=["bz"])
    assert assembler.feed(letters("abz"), ending_token=True) is None
    assert assembler.take().text == "ab"


def test_an_ending_token_alone_ends_an_empty_text() -> None:
    assembler = CandidateAssembler(LLADA, stop=["x"])
    assembler.feed([EOT], ending_token=True)
    assert (assembler.take().text, assembler.token_ids) == ("", [EOT])


def test_eos_tokens_that_did_not_end_it_are_text_only_when_special_tokens_are() -> None:
    kept = CandidateAssembler(LLADA, skip_special_tokens=False)
    kept.feed([331, *letters("a"), 331])
    kept.finish()
    assert kept.take().text == "<|endoftext|>a<|endoftext|>"
    skipped = CandidateAssembler(LLADA)
    skipped.feed([331, *letters("a"), 331])
    skipped.finish()
    assert skipped.take().text == "a"


def test_tokens_after_the_end_are_dropped() -> None:
    assembler = CandidateAssembler(LLADA, stop=["b"])
    assembler.feed(letters("ab"))
    assert assembler.feed(letters("cd")) == StopHit("b", 2)
    assert assembler.feed([EOT], ending_token=True) == StopHit("b", 2)
    assert assembler.token_count == 2
    assert assembler.take().text == "a"


def test_an_incomplete_character_at_the_end_becomes_one_replacement() -> None:
    assembler = CandidateAssembler(LLADA)
    assembler.feed(ids_of("a🙂")[:-1])
    assert assembler.take().text == "a"
    assembler.finish()
    assert assembler.take().text == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_inside_one_token_is_cut_out_of_it() -> None:
    pieces = {LLADA.token_bytes(i): i for i in range(LLADA.vocab_size)}
    long = max((p for p in pieces if p.isalpha()), key=len)
    assert len(long) >= 3
    assembler = CandidateAssembler(LLADA, stop=[long[1:2].decode()])
    hit = assembler.feed([pieces[long]])
    assert hit is not None
    assert hit.token_count == 1
    assert assembler.take().text == long[:1].decode()


def test_bad_stop_strings_are_named() -> None:
    with pytest.raises(InvalidRequestError, match="at most 16"):
        CandidateAssembler(LLADA, stop=["a"] * 17)
