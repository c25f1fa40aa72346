from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_reference import FAMILIES, NAMES, relaxed, tokenizer_of

from pydllm.text import IncrementalDetokenizer

IDS = st.lists(st.integers(0, 360) | st.integers(-10, -1), max_size=60)
"""Negative ones count from the vocabulary's end, where the pieces that are not bytes are."""


def split(ids: list[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *sorted(min(c, len(ids)) for c in cuts), len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("family", FAMILIES)
@relaxed
@given(ids=IDS, cuts=st.lists(st.integers(0, 60), max_size=20), skip=st.booleans())
def test_deltas_concatenate_to_the_full_decode(family: str, ids: list[int], cuts: list[int], skip: bool) -> None:
    tokenizer = tokenizer_of(family)
    if family not in NAMES:
        ids = [i % (tokenizer.vocab_size + (i >= 0)) for i in ids]
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    text = "".join(detokenizer.push(part) for part in split(ids, cuts)) + detokenizer.flush()
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("family", ["llada-tiny", "sentencepiece"])
@relaxed
@given(raw=st.binary(max_size=40))
def test_broken_utf8_streams_as_it_decodes(family: str, raw: bytes) -> None:
    tokenizer = tokenizer_of(family)
    ids_of = {tokenizer.token_bytes(i): i for i in reversed(range(tokenizer.vocab_size))}
    ids = [ids_of[bytes([b])] for b in raw]
    if family == "sentencepiece":
        ids = [tokenizer.token_to_id(f"<0x{b:02X}>") or 0 for b in raw]
    detokenizer = IncrementalDetokenizer(tokenizer)
    text = "".join(detokenizer.push([i]) for i in ids) + detokenizer.flush()
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
@relaxed
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_valid_text_never_shows_a_part_of_a_character(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=False)
    shown = ""
    for token_id in tokenizer.encode(text, add_special_tokens=False):
        shown += detokenizer.push([token_id])
        assert text.startswith(shown)
    assert shown == text
    assert detokenizer.flush() == ""


def test_an_emoji_appears_with_its_last_byte_and_a_cut_one_at_the_flush() -> None:
    tokenizer = tokenizer_of("llada-tiny")
    ids = tokenizer.encode("🙂", add_special_tokens=False)
    assert len(ids) == 4
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.push([i]) for i in ids] == ["", "", "", "🙂"]
    assert detokenizer.push(ids[:3]) == ""
    assert detokenizer.flush() == "\N{REPLACEMENT CHARACTER}"


def test_a_run_of_byte_tokens_waits_until_nothing_can_break_it() -> None:
    tokenizer = tokenizer_of("sentencepiece")
    detokenizer = IncrementalDetokenizer(tokenizer)
    e_acute = [tokenizer.token_to_id("<0xC3>") or 0, tokenizer.token_to_id("<0xA9>") or 0]
    assert detokenizer.push(e_acute) == ""
    assert detokenizer.push([tokenizer.token_to_id("b") or 0]) == "éb"


def test_special_tokens_appear_only_when_kept() -> None:
    tokenizer = tokenizer_of("llada-tiny")
    a = tokenizer.encode("a", add_special_tokens=False)
    assert IncrementalDetokenizer(tokenizer).push([*a, 335]) == "a"
    assert IncrementalDetokenizer(tokenizer, skip_special_tokens=False).push([*a, 335]) == "a<|eot_id|>"


def test_a_long_stream_takes_linear_work() -> None:
    tokenizer = tokenizer_of("sentencepiece")
    decoded = 0
    original = tokenizer.decode

    class Counting:
        decoder_kind = tokenizer.decoder_kind
        special_ids = tokenizer.special_ids
        token_text = tokenizer.token_text

        def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
            nonlocal decoded
            decoded += len(ids)
            return original(ids, skip_special_tokens=skip_special_tokens)

    detokenizer = IncrementalDetokenizer(Counting())  # type: ignore[arg-type]
    for token_id in [tokenizer.token_to_id("▁a") or 0, tokenizer.token_to_id("b") or 0] * 1000:
        detokenizer.push([token_id])
    assert decoded <= 4 * 2000
