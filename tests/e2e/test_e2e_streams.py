"""On the real process: a concatenated stream is the unary text, stop strings never leak, characters never break."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from typing import TYPE_CHECKING

import pytest
from asking import CHAT, Candidate, client_of, gather, streamed, unary
from stack import ROOT, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx
    from asking import Json

DEMO = ROOT / "pydllm/demo_model"
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"
ALGORITHMS = ("confidence_threshold", "entropy_threshold", "llada_schedule")
MODES: dict[str, list[Json]] = {
    CHAT_PATH: [{}, {"stream_mode": "block_append"}, {"stream_mode": "denoise"}, {"diffusing": True}],
    TEXT_PATH: [{}, {"stream_mode": "block_append"}, {"stream_mode": "denoise"}],
}
QUESTIONS = (
    "Solve: 12 + 30.",
    "Hello",
    "Spell cat backwards.",
    "Sort: 31, 7, 56.",
    "Describe the sea.",
    "Grüße, 世界!",
)


def random_body(rng: random.Random) -> tuple[str, Json]:
    """A path and a request of any algorithm, temperature, block length, number of candidates and stop strings."""
    path = rng.choice([CHAT_PATH, TEXT_PATH])
    question = rng.choice(QUESTIONS)
    prompt = {"messages": [{"role": "user", "content": question}]} if path == CHAT_PATH else {"prompt": question}
    body = {
        **prompt,
        "max_tokens": rng.choice([1, 7, 8, 31, 32, 33, 60]),
        "temperature": rng.choice([0.0, 1.0, 6.0]),
        "seed": rng.randrange(2**64),
        "n": rng.choice([1, 1, 2, 3]),
        "ignore_eos": rng.choice([False, True, True]),
        "return_token_ids": True,
        "dllm": {"algorithm": rng.choice(ALGORITHMS), "block_length": rng.choice([1, 4, 8, 32])},
    }
    if rng.random() < 0.4:
        body["stop"] = rng.sample(["e", " the", "= ", "12", "ll", "s a"], rng.randint(1, 3))
    return path, body


async def check_modes(client: httpx.AsyncClient, path: str, body: Json) -> int:
    """Streams a request in every mode; the number of streams."""
    expected, usage = await unary(client, path, body)
    for mode in MODES[path]:
        found, found_usage = await streamed(client, path, in_mode(body, mode))
        assert shown(found) == shown(expected), (mode, body)
        assert found_usage == usage, (mode, body)
        if not mode.get("diffusing"):
            assert all(final.text.startswith(text) for final in found for text in final.seen)
    return len(MODES[path])


def in_mode(body: Json, mode: Json) -> Json:
    """The request as a stream of a mode; every provisional chunk is sent where there are any."""
    provisional = mode.get("stream_mode") == "denoise" or mode.get("diffusing")
    return {**body, **mode, "dllm": {**body["dllm"], **({"min_interval": 0} if provisional else {})}}


def shown(candidates: list[Candidate]) -> list[tuple[str, str | None, list[int]]]:
    return [(candidate.text, candidate.finish_reason, candidate.token_ids) for candidate in candidates]


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
async def test_a_concatenated_stream_is_the_unary_answer_in_every_mode(
    stack: Stack, count: int, record_property: Callable[[str, object], None]
) -> None:
    bodies = [random_body(random.Random(seed)) for seed in range(count)]
    async with client_of(stack.url) as client:
        streams = await gather([check_modes(client, path, body) for path, body in bodies])
    record_property("figure", f"{sum(streams)} streams of {count} random requests equal their unary answers")


async def test_provisional_chunks_change_nothing_for_a_reader_of_content(stack: Stack) -> None:
    body = {"messages": CHAT, "max_tokens": 32, "dllm": {"algorithm": "llada_schedule"}}
    async with client_of(stack.url) as client:
        plain, _ = await streamed(client, CHAT_PATH, body)
        denoised, _ = await streamed(client, CHAT_PATH, in_mode(body, {"stream_mode": "denoise"}))
    assert len(denoised[0].seen) > len(plain[0].seen) + 8
    assert [k for k, _ in itertools.groupby(denoised[0].seen)] == [k for k, _ in itertools.groupby(plain[0].seen)]


async def test_a_stop_string_never_leaks_a_prefix_wherever_it_lies(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    """The oracle is the text without stop strings, cut in Python. Blocks of 4 tokens: most stops span an edge."""
    body: Json = {
        "messages": CHAT, "max_tokens": 40, "temperature": 6.0, "ignore_eos": True, "seed": 3,
        "dllm": {"confidence_threshold": 0.0, "block_length": 4},
    }  # fmt: skip
    async with client_of(stack.url) as client:
        [[whole], _] = await unary(client, CHAT_PATH, body)
        text = whole.text
        stops = {text[at : at + size] for size in (1, 2, 5, 9) for at in range(0, len(text) - size, 3)}
        usable = sorted(stop for stop in stops if "�" not in stop)
        assert len(usable) > 60, text
        await gather([check_stop(client, {**body, "stop": stop}, text, stop) for stop in usable])
        decoy = [text[20:24] + "~", text[40:46] + "~"]  # begin like the text and never match
        [[kept], _] = await streamed(client, CHAT_PATH, {**body, "stop": decoy})
        assert kept.text == text
    record_property("figure", f"{len(usable)} stop strings cut where they first occur, none of a prefix of them seen")


async def check_stop(client: httpx.AsyncClient, body: Json, text: str, stop: str) -> None:
    expected = text[: text.index(stop)]
    [[answer], _] = await unary(client, CHAT_PATH, body)
    assert (answer.text, answer.finish_reason) == (expected, "stop"), stop
    for mode in ({}, {"stream_mode": "denoise"}):
        [[found], _] = await streamed(client, CHAT_PATH, {**body, **mode})
        assert (found.text, found.finish_reason) == (expected, "stop"), (mode, stop)
        assert all(expected.startswith(seen) for seen in found.seen), (mode, stop)


# How the words of the vocabulary begin and end once their characters are broken: a byte that ends a character of two to
# four bytes, and the bytes before it. Every end makes a character with every beginning.
BEGINNINGS = ("©", "¬")  # A9, AC
ENDS = ("Ã", "âĤ", "ðŁĺ")  # C3, E2 82, F0 9F 98
PLAIN = 262  # ids below are special tokens and single bytes


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo model with a vocabulary whose words share characters with their neighbours."""
    folder = tmp_path_factory.mktemp("broken") / "broken"
    shutil.copytree(DEMO, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = {id_: word for word, id_ in tokenizer["model"]["vocab"].items()}
    for id_ in range(PLAIN, len(words)):
        words[id_] = f"{BEGINNINGS[id_ % 2]}{id_}{ENDS[id_ % 3]}"
    tokenizer["model"].update(vocab={word: id_ for id_, word in words.items()}, merges=[])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with Stack(str(folder)) as stack:
        yield stack


def as_bytes(token_ids: list[int]) -> bytes:
    """What the tokens of that vocabulary stand for."""
    return b"".join(_word(id_) for id_ in token_ids)


def _word(id_: int) -> bytes:
    if id_ >= PLAIN:
        end = (b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98")[id_ % 3]
        return (b"\xa9", b"\xac")[id_ % 2] + str(id_).encode() + end
    return b"" if id_ < 6 else bytes([byte_order()[id_ - 6]])


def byte_order() -> list[int]:
    """The bytes as a byte-level vocabulary lists them: printable Latin-1 first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [byte for byte in range(256) if byte not in printable]


@pytest.mark.parametrize("block_length", [1, 2, 3, 8])
async def test_characters_split_over_blocks_arrive_whole(
    broken: Stack, block_length: int, record_property: Callable[[str, object], None]
) -> None:
    body: Json = {
        "messages": CHAT, "max_tokens": 40, "temperature": 6.0, "seed": 5, "n": 4, "ignore_eos": True,
        "return_token_ids": True, "dllm": {"block_length": block_length, "confidence_threshold": 0.0},
    }  # fmt: skip
    async with client_of(broken.url) as client:
        expected, _ = await unary(client, CHAT_PATH, body)
        for mode in MODES[CHAT_PATH]:
            found, _ = await streamed(client, CHAT_PATH, in_mode(body, mode))
            assert shown(found) == shown(expected), mode
            if not mode.get("diffusing"):
                assert all(final.text.startswith(text) for final in found for text in final.seen), mode
    for candidate in expected:
        assert candidate.text == as_bytes(candidate.token_ids).decode("utf-8", errors="replace")
    pairs = [pair for candidate in expected for pair in itertools.pairwise(candidate.token_ids)]
    joined = sum(min(pair) >= PLAIN for pair in pairs)
    assert joined > 40
    record_property("figure", f"blocks of {block_length}: {joined} characters shared by two tokens arrived whole")


async def test_a_stop_string_made_of_shared_characters_never_leaks(broken: Stack) -> None:
    body: Json = {
        "messages": CHAT, "max_tokens": 24, "temperature": 6.0, "seed": 5, "ignore_eos": True,
        "dllm": {"block_length": 2, "confidence_threshold": 0.0},
    }  # fmt: skip
    async with client_of(broken.url) as client:
        [[whole], _] = await unary(client, CHAT_PATH, body)
        places = [at for at, character in enumerate(whole.text) if ord(character) > 127 and character != "�"]
        stops = {whole.text[at : at + size] for at in places for size in (1, 2, 3)}
        usable = sorted(stop for stop in stops if "�" not in stop)
        assert len(usable) >= 10, whole.text
        await gather([check_stop(client, {**body, "stop": stop}, whole.text, stop) for stop in usable])
