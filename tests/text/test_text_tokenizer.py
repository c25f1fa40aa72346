from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from text_reference import CHECKPOINTS, FAMILIES, NAMES, relaxed, save, sentencepiece, tokenizer_of

from pydllm.errors import CheckpointError, InvalidRequestError
from pydllm.text import SpecialToken, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

VALID_TEXT = st.text(st.characters(exclude_categories=("Cs",)))


def edited(tmp_path: Path, *, config: object = None, tokenizer: object = None) -> Path:
    """A copy of llada-tiny's files with one of them replaced by `object` as JSON."""
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(CHECKPOINTS / "llada-tiny" / file, tmp_path / file)
    new = {"tokenizer_config.json": config, "tokenizer.json": tokenizer}
    for file, value in new.items():
        if value is not None:
            (tmp_path / file).write_text(json.dumps(value))
    return tmp_path


def llada_json() -> dict:
    return json.loads((CHECKPOINTS / "llada-tiny/tokenizer.json").read_text())


@pytest.mark.parametrize("name", NAMES)
@relaxed
@given(text=VALID_TEXT)
def test_decoding_the_encoding_of_valid_text_gives_the_text(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode(text, add_special_tokens=True)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("name", NAMES)
@relaxed
@given(text=VALID_TEXT)
def test_token_bytes_of_an_encoding_are_the_utf8_of_the_text(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@relaxed
@given(text=VALID_TEXT)
def test_ids_are_those_of_the_tokenizers_library(text: str) -> None:
    reference = tokenizers.Tokenizer.from_file(str(CHECKPOINTS / "llada-tiny/tokenizer.json"))
    assert tokenizer_of("llada-tiny").encode(text, add_special_tokens=True) == reference.encode(text).ids


def test_special_tokens_carry_their_text_and_id() -> None:
    tokenizer = tokenizer_of("llada-tiny")
    assert tokenizer.special_tokens["mask_token"] == SpecialToken("<|mdm_mask|>", 332)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id) == (330, 331, 331, 332)
    assert tokenizer.vocab_size == 336
    assert tokenizer.special_ids == frozenset(range(330, 336))


def test_a_special_token_typed_in_a_prompt_becomes_its_id() -> None:
    assert tokenizer_of("llada-tiny").encode("<|mdm_mask|>", add_special_tokens=False) == [332]


@pytest.mark.parametrize("outside", [336, 351, 126_463, 2**31, 2**32, 2**80, -1])
def test_ids_outside_the_vocabulary_are_no_text(outside: int) -> None:
    tokenizer = tokenizer_of("llada-tiny")
    a = tokenizer.encode("a", add_special_tokens=False)
    assert tokenizer.decode([*a, outside, *a], skip_special_tokens=False) == "aa"
    assert tokenizer.token_bytes(outside) == b""
    assert tokenizer.token_text(outside) is None


def test_sentencepiece_tokens_have_spaces_and_single_bytes() -> None:
    tokenizer = tokenizer_of("sentencepiece")
    assert tokenizer.token_bytes(tokenizer.token_to_id("▁a") or 0) == b" a"
    assert tokenizer.token_bytes(tokenizer.token_to_id("<0xE2>") or 0) == b"\xe2"
    assert tokenizer.token_bytes(tokenizer.token_to_id("</s>") or 0) == b"</s>"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_id_has_bytes_and_text(family: str) -> None:
    tokenizer = tokenizer_of(family)
    for token_id in range(tokenizer.vocab_size):
        assert isinstance(tokenizer.token_bytes(token_id), bytes)
        assert isinstance(tokenizer.decode([token_id], skip_special_tokens=True), str)


def test_the_post_processor_adds_special_tokens_only_when_asked(tmp_path: Path) -> None:
    backend = sentencepiece()
    bos = backend.token_to_id("<s>")
    special = [("<s>", bos)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=special)
    tokenizer = Tokenizer.load(save(tmp_path, backend))
    plain = tokenizer.encode("b", add_special_tokens=False)
    assert tokenizer.encode("b", add_special_tokens=True) == [bos, *plain]


def test_truncation_and_padding_of_the_file_do_not_touch_prompts(tmp_path: Path) -> None:
    backend = sentencepiece()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    tokenizer = Tokenizer.load(save(tmp_path, backend))
    assert len(tokenizer.encode("bbbbb", add_special_tokens=True)) == 5


@pytest.mark.parametrize("text", ["\ud800", "fine \udfff", "a\udcff"])
def test_a_lone_surrogate_is_refused_under_the_callers_field(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="lone surrogate at character") as caught:
        tokenizer_of("llada-tiny").encode(text, add_special_tokens=False, field="prompt.text")
    assert caught.value.field == "prompt.text"


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="expected text, got"):
        tokenizer_of("llada-tiny").encode(value, add_special_tokens=False)  # type: ignore[arg-type]


def test_nul_and_control_characters_are_text() -> None:
    tokenizer = tokenizer_of("llada-tiny")
    text = "a\0b\x1b\x7f\u2028"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_an_absent_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not found"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b"\xff\xfe{}",
        b'{"model": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}',
        b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":99999999999},"merges":[]}}',
        b'{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":["x y"]}}',
        b'{"version":"1.0","model":{"type":"Evil"}}',
    ],
)
def test_a_broken_tokenizer_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value).startswith("tokenizer.json: ")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(200 << 30)
    with pytest.raises(CheckpointError, match="larger than"):
        Tokenizer.load(tmp_path)


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_chain_of_replacements_that_explodes_is_refused(tmp_path: Path) -> None:
    bomb = llada_json()
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    bomb["normalizer"] = {"type": "Sequence", "normalizers": [step] * 60}
    with pytest.raises(CheckpointError, match="normalizer grows text"):
        Tokenizer.load(edited(tmp_path, tokenizer=bomb))


def test_a_runaway_regular_expression_fails_the_request_alone(tmp_path: Path) -> None:
    slow = llada_json()
    pattern = {"Regex": "(a+)+$"}
    slow["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer.load(edited(tmp_path, tokenizer=slow))
    with pytest.raises(InvalidRequestError, match="cannot encode") as caught:
        tokenizer.encode("a" * 40 + "b", add_special_tokens=False, field="prompt")
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("token", ["</s>", {"content": "</s>", "lstrip": False}])
def test_a_special_token_is_a_string_or_an_object(tmp_path: Path, token: object) -> None:
    save(tmp_path, sentencepiece())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token, "pad_token": None}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<s>", "bos_token": "<s>"}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_tokens["eos_token"].text == "</s>"
    assert tokenizer.bos_id == tokenizer.token_to_id("<s>")
    assert tokenizer.pad_id is None, "an explicit null in tokenizer_config.json is a value"


def test_a_named_token_outside_the_vocabulary_has_no_id(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(edited(tmp_path, config={"eos_token": "<nowhere>"}))
    assert tokenizer.special_tokens["eos_token"] == SpecialToken("<nowhere>", None)
    assert tokenizer.eos_id is None


@pytest.mark.parametrize("token", [7, [], {}, {"content": 3}, {"content": None}, True, "\ud800"])
def test_a_malformed_special_token_is_named(tmp_path: Path, token: object) -> None:
    with pytest.raises(CheckpointError, match="eos_token: expected a string"):
        Tokenizer.load(edited(tmp_path, config={"eos_token": token}))


def test_tokens_that_only_the_configuration_knows_are_added(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"336": {"content": "<|new|>", "special": True}}}
    tokenizer = Tokenizer.load(edited(tmp_path, config=config))
    assert tokenizer.encode("a<|new|>", add_special_tokens=False)[-1] == 336
    assert tokenizer.decode([336], skip_special_tokens=True) == ""
    assert tokenizer.vocab_size == 337


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ([], "expected an object"),
        ({"x": {"content": "a"}}, "bad id"),
        ({"-1": {"content": "a"}}, "bad id"),
        ({"9" * 5000: {"content": "a"}}, "bad id"),
        ({"1": "a"}, "expected a token"),
        ({"1": {"content": ""}}, "expected a token"),
        ({"1": {"content": "<|x|>", "special": "yes"}}, "true or false"),
        ({"7": {"content": "<|eot_id|>", "special": True}}, "has id 7, but 335"),
        ({"9000": {"content": "<|x|>", "special": True}}, "has id 9000, but 336"),
    ],
)
def test_malformed_added_tokens_are_named(tmp_path: Path, added: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(edited(tmp_path, config={"added_tokens_decoder": added}))


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"[1]", b"{", b'{"a": Infinity}', b"\xff", b"[" * 50_000])
def test_a_broken_configuration_is_named(tmp_path: Path, file: str, content: bytes) -> None:
    (edited(tmp_path) / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        Tokenizer.load(tmp_path)
