"""Streams of the OpenAI endpoints: chunks that the openai client parses, and whose text adds up to the unary answer."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fake_engine import Block, Fail, block, finished, started
from openai_calls import CHAT, COMPLETIONS, entries, events_of, post, stream, text_of
from pydllm_gateway.answers.merge import merged
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx
    from fake_engine import FakeEngine

BOTH = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
BROKEN = Fail(grpc.StatusCode.INTERNAL, "internal error, id 7")
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def snapshot(text: str, ids: list[int], *, index: int = 0, step: int = 0, candidate: int = 0) -> Any:
    message = pb.StreamGenerateResponse(candidate_index=candidate)
    confidences = [0.0 if token == 2 else 0.9 for token in ids]
    message.block_snapshot.MergeFrom(
        pb.BlockSnapshot(
            block_index=index, step=step, token_offset=4 * index, token_ids=ids, text=text, confidences=confidences
        )
    )
    return message


async def test_chat_chunks_are_openais(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    chunks = await stream(client, CHAT, request_id="abc")
    head = {
        "id": "chatcmpl-abc",
        "object": "chat.completion.chunk",
        "created": 1_700_000_100,
        "model": "fake",
        "system_fingerprint": None,
    }
    deltas = [{"role": "assistant", "content": ""}, {"content": "hel"}, {"content": "lo"}, {}]
    reasons = [None, None, None, "stop"]
    assert chunks == [
        head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in zip(deltas, reasons, strict=True)
    ]
    assert engine.stream_requests[0].options.mode == pb.STREAM_MODE_BLOCK_APPEND
    assert not engine.stream_requests[0].options.snapshot_text


async def test_completion_chunks_are_openais(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, COMPLETIONS, request_id="abc")
    assert {chunk["id"] for chunk in chunks} == {"cmpl-abc"}
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]
        for text, reason in [("hel", None), ("lo", None), ("", "stop")]
    ]


@BOTH
async def test_the_usage_chunk_comes_last_and_the_others_say_null(client: httpx.AsyncClient, path: str) -> None:
    plain = await stream(client, path)
    assert all("usage" not in chunk for chunk in plain)
    chunks = await stream(client, path, stream_options={"include_usage": True})
    assert len(chunks) == len(plain) + 1
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * len(plain)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == USAGE
    assert chunks[-1].keys() - {"usage"} == plain[-1].keys()


@BOTH
async def test_continuous_usage_is_on_every_chunk(client: httpx.AsyncClient, engine: FakeEngine, path: str) -> None:
    counts = [(3, 0), (3, 1), (3, 2), (3, 2)]
    script = [started(), block("hel"), block("lo", 1), finished()]
    for message, (prompt, completion) in zip(script, counts, strict=True):
        message.usage.prompt_tokens, message.usage.completion_tokens = prompt, completion
    engine.streams.append(script)
    chunks = await stream(client, path, stream_options={"continuous_usage_stats": True})
    assert engine.stream_requests[0].options.continuous_usage
    totals = [chunk["usage"]["total_tokens"] for chunk in chunks]
    assert totals == [total for total in (3, 4, 5, 5) if path == CHAT or total > 3]
    assert all(chunk["choices"] for chunk in chunks)


@BOTH
async def test_candidates_interleave_and_each_has_its_ends(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    length = types_pb2.FINISH_REASON_LENGTH
    engine.streams.append(
        [
            started(),
            block("b1", candidate_index=1),
            block("a1"),
            finished(candidate_index=1, finish_reason=length),
            block("a2", 1),
            finished(),
        ]
    )
    chunks = await stream(client, path, n=2)
    for index, text, reason in [(0, "a1a2", "stop"), (1, "b1", "length")]:
        assert text_of(chunks, index) == text
        mine = entries(chunks, index)
        assert [entry["finish_reason"] for entry in mine] == [None] * (len(mine) - 1) + [reason]
        if path == CHAT:
            assert [entry["delta"].get("role") for entry in mine] == ["assistant"] + [None] * (len(mine) - 1)
            assert mine[-1]["delta"] == {}


async def test_several_prompts_are_one_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gates = [Block(), Block()]
    engine.streams += [
        [started(), gate, block("x"), block("y", candidate_index=1), finished(candidate_index=1), finished()]
        for gate in gates
    ]
    fields = {"prompt": ["a", "b"], "n": 2, "stream_options": {"include_usage": True}}
    call = asyncio.create_task(stream(client, COMPLETIONS, **fields))
    for gate in gates:
        await asyncio.wait_for(gate.reached.wait(), 10)  # both run at once
        gate.go.set()
    chunks = await call
    assert [text_of(chunks, index) for index in range(4)] == ["x", "y", "x", "y"]
    assert [entries(chunks, index)[-1]["finish_reason"] for index in range(4)] == ["stop"] * 4
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["usage"]["total_tokens"] == 10
    ids = {request.request.request_id for request in engine.stream_requests}
    assert ids == {chunks[0]["id"] + "-0", chunks[0]["id"] + "-1"}


@BOTH
async def test_block_text_and_token_ids_pass_unchanged(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    texts = ["é🙂\u2028", "", 'da"ta: [DONE]\n\n', "\x00\r\n", ""]
    script: list[Any] = [started()]
    for number, text in enumerate(texts):
        message = block(text, number)
        message.block_appended.token_ids.extend([number, number + 10] if number < 4 else [])
        script.append(message)
    engine.streams.append([*script, finished()])
    chunks = await stream(client, path, return_token_ids=True)
    assert text_of(chunks) == "".join(texts)
    ids = [token for entry in entries(chunks) for token in entry.get("token_ids", [])]
    assert ids == [0, 10, 1, 11, 2, 12, 3, 13]


DENOISED = [
    started(),
    snapshot("░░░░", [2, 2, 2, 2]),
    snapshot("h░l░", [5, 2, 6, 2], step=1),
    block("hel"),
    snapshot("░o", [2, 7], index=1, step=2),
    block("lo", 1),
    finished(),
]


@BOTH
async def test_denoise_shows_provisional_blocks_beside_text_that_adds_up(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    engine.streams.append(DENOISED)
    chunks = await stream(client, path, stream_mode="denoise")
    options = engine.stream_requests[0].options
    assert (options.mode, options.snapshot_text) == (pb.STREAM_MODE_SNAPSHOTS, True)
    assert engine.stream_requests[0].request.output.stats
    assert text_of(chunks) == "hello"
    events = [entry["dllm"] for entry in entries(chunks) if entry.get("dllm", {}).get("event")]
    assert [event["event"] for event in events] == ["snapshot", "snapshot", "block", "snapshot", "block"]
    assert events[1] == {
        "event": "snapshot",
        "block_index": 0,
        "step": 1,
        "token_offset": 0,
        "text": "h░l░",
        "token_ids": [5, None, 6, None],
        "confidences": [0.9, 0.0, 0.9, 0.0],
    }
    assert events[4] == {"event": "block", "block_index": 1, "steps": 0, "token_offset": 0}
    final = entries(chunks)[-1]
    assert final["finish_reason"] == "stop"
    assert final["dllm"]["finish_reason"] == "stop"
    assert {"nfe", "steps", "blocks", "tokens_per_forward"} <= final["dllm"].keys()
    provisional = next(entry for entry in entries(chunks) if entry.get("dllm", {}).get("event") == "snapshot")
    assert provisional["delta"] == {} if path == CHAT else provisional["text"] == ""


async def test_stream_mode_may_stand_in_dllm_with_its_intervals(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    dllm = {"stream_mode": "denoise", "step_interval": 3, "min_interval": 1.25, "mask_text": "_"}
    await stream(client, CHAT, dllm=dllm)
    options = engine.stream_requests[0].options
    assert options.mode == pb.STREAM_MODE_SNAPSHOTS
    assert (options.step_interval, options.mask_text) == (3, "_")
    assert (options.min_interval.seconds, options.min_interval.nanos) == (1, 250_000_000)
    path = "options.step_interval"
    fail = Fail(grpc.StatusCode.INVALID_ARGUMENT, f"{path}: expected more, got 0", "INVALID_FIELD", (path,))
    engine.failures["StreamGenerate"] = fail
    response = await post(client, CHAT, stream=True, dllm=dllm | {"step_interval": 0})
    assert response.json()["error"]["param"] == "dllm.step_interval"


async def test_nothing_of_dllm_is_streamed_unless_asked_for(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for mode in (None, "block_append"):
        chunks = await stream(client, CHAT, stream_mode=mode)
        assert all("dllm" not in entry for entry in entries(chunks))
    chunks = await stream(client, CHAT, dllm={})
    events = [entry.get("dllm", {}).get("event") for entry in entries(chunks)]
    assert events == [None, "block", "block", None]
    assert entries(chunks)[-1]["dllm"]["nfe"] == 0


async def test_diffusing_replaces_the_content_and_ends_with_the_whole_text(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.streams.append(DENOISED)
    chunks = await stream(client, CHAT, diffusing=True)
    assert engine.stream_requests[0].options.mode == pb.STREAM_MODE_SNAPSHOTS
    contents = [entry["delta"]["content"] for entry in entries(chunks) if entry["delta"].get("content")]
    assert contents == ["░░░░", "h░l░", "hel", "hel░o", "hello"]
    assert entries(chunks)[-1]["delta"] == {}
    assert entries(chunks)[-1]["finish_reason"] == "stop"


async def test_diffusing_takes_back_what_never_became_final(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """A request cut by its budget of forward passes shows its last block once more, then ends without it."""
    limit = types_pb2.FINISH_REASON_STEP_LIMIT
    engine.streams.append([started(), block("hel"), snapshot("l░", [6, 2], index=1), finished(finish_reason=limit)])
    chunks = await stream(client, CHAT, diffusing=True)
    contents = [entry["delta"]["content"] for entry in entries(chunks) if entry["delta"].get("content")]
    assert contents == ["hel", "hell░", "hel"]


async def test_diffusing_keeps_candidates_apart(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.streams.append(
        [
            started(),
            block("a"),
            snapshot("░", [2], candidate=1),
            snapshot("░", [2], index=1),
            block("b", candidate_index=1),
            finished(candidate_index=1),
            block("c", 1),
            finished(),
        ]
    )
    chunks = await stream(client, CHAT, diffusing=True, n=2)
    shown = [[e["delta"]["content"] for e in entries(chunks, i) if e["delta"].get("content")] for i in (0, 1)]
    assert shown == [["a", "a░", "ac"], ["░", "b"]]


@BOTH
async def test_a_failure_before_the_first_chunk_is_an_http_status(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    full = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "QUEUE_FULL")
    engine.streams.append([full])
    response = await post(client, path, stream=True)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "queue_full"


@BOTH
async def test_a_failure_after_it_is_an_error_event_without_done(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    engine.streams.append([started(), block("hel"), BROKEN])
    events = events_of(await post(client, path, stream=True, stream_options={"include_usage": True}))
    assert json.loads(events[-1])["error"]["type"] == "server_error"
    assert "[DONE]" not in events
    assert all(json.loads(event)["choices"] for event in events[:-1])


async def test_one_failing_prompt_ends_the_stream_and_cancels_the_others(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    waits, fails = Block(), Block()
    engine.streams += [[started(), block("x"), waits], [fails, BROKEN]]
    body = {"prompt": ["a", "b"], "stream": True}
    async with client.stream("POST", COMPLETIONS, json=body) as response:
        lines = response.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: "))["choices"]
        fails.go.set()  # only now: calls of their own may overtake each other
        rest = [line.removeprefix("data: ") async for line in lines if line]
    assert json.loads(rest[-1])["error"]["type"] == "server_error"
    await asyncio.wait_for(waits.cancelled.wait(), 10)


async def test_a_client_that_leaves_cancels_every_prompt_of_a_stream(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    gates = [Block(), Block()]
    engine.streams += [[started(), block("x"), gate] for gate in gates]
    body = {"prompt": ["a", "b"], "stream": True}
    async with client.stream("POST", COMPLETIONS, json=body) as response:
        assert response.status_code == 200
        await asyncio.wait_for(asyncio.gather(*(gate.reached.wait() for gate in gates)), 10)
    await asyncio.wait_for(asyncio.gather(*(gate.cancelled.wait() for gate in gates)), 10)
    assert engine.cancellations == 2


async def test_merged_streams_stop_reading_for_a_reader_that_does_not_read() -> None:
    produced = 0

    async def endless() -> AsyncGenerator[int, None]:
        nonlocal produced
        while True:
            produced += 1
            yield produced

    stream = merged([endless(), endless()])
    assert await anext(stream) == (0, 1)
    for _ in range(200):
        await asyncio.sleep(0)
    assert produced < 50
    await asyncio.wait_for(stream.aclose(), 10)


async def test_merged_streams_are_closed_with_their_reader() -> None:
    closed = []

    async def endless(name: str) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield name
        finally:
            closed.append(name)

    stream = merged([endless("a"), endless("b")])
    await anext(stream)
    await asyncio.wait_for(stream.aclose(), 10)
    assert sorted(closed) == ["a", "b"]
