"""POST /generate in Diffulex's shape: what the engine is asked, what comes back, both kinds of stream, failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fake_engine import Block, Fail, started
from generate_calls import (
    DLLM_STATISTICS,
    appended,
    candidate,
    ended,
    events,
    leave,
    refused,
    reply,
    response,
    snapshot,
    within,
)
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

if TYPE_CHECKING:
    import httpx
    from fake_engine import FakeEngine
    from pydllm_gateway.server import Gateway

Json = dict[str, Any]

OUTPUT = types_pb2.OutputOptions(token_ids=True, stats=True)
SCRIPT = [
    started(),
    snapshot("h░", (7, 2), step=0, offset=0, index=0),
    appended("he", (7, 8), steps=2),
    snapshot("l░", (9, 2), step=1, offset=2),
    appended("llo", (9, 1), 1, steps=3, offset=2),
    ended(),
]
FINAL = {
    "id": "mine",
    "text": "hello",
    "token_ids": [7, 8, 9, 1],
    "nfe": 9,
    "finish_reason": "stop",
    "full_text": "hello",
    "full_token_ids": [7, 8, 9, 1],
    "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7},
}
MINE = {"x-request-id": "mine"}


@pytest.fixture
def mine(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """The client with a request id of its own."""
    client.headers.update(MINE)
    return client


async def test_every_field_reaches_the_engine(mine: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"max_tokens": 7, "temperature": 0.5, "max_nfe": 9, "max_repetition_run": 3, "ignore_eos": True, "user": "u"}
    await reply(mine, {"prompt": "x", **body})
    sampling = types_pb2.SamplingParams(max_tokens=7, temperature=0.5, max_repetition_run=3, ignore_eos=True)
    diffusion = types_pb2.DiffusionParams(max_forward_passes=9)
    assert engine.generate_requests == [
        pb.GenerateRequest(prompt="x", request_id="mine", output=OUTPUT, sampling=sampling, diffusion=diffusion)
    ]


async def test_an_explicit_zero_is_a_value(mine: httpx.AsyncClient, engine: FakeEngine) -> None:
    await reply(mine, {"prompt": "x", "temperature": 0, "max_repetition_run": 0, "max_nfe": 0, "ignore_eos": False})
    request = engine.generate_requests[0]
    assert all(request.sampling.HasField(name) for name in ("temperature", "max_repetition_run", "ignore_eos"))
    assert request.diffusion.HasField("max_forward_passes")
    assert not request.sampling.HasField("max_tokens")


async def test_a_plain_request_sets_nothing_but_what_the_reply_needs(
    mine: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await reply(mine, {"prompt": "x"})
    assert engine.generate_requests == [pb.GenerateRequest(prompt="x", request_id="mine", output=OUTPUT)]


async def test_the_prompt_may_be_token_ids(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await reply(client, {"prompt": [5, 0, 2**32 - 1]})
    await reply(client, {"prompt": []})
    first, second = engine.generate_requests
    assert list(first.prompt_token_ids.ids) == [5, 0, 2**32 - 1]
    assert second.WhichOneof("input") == "prompt_token_ids"


async def test_a_reply_has_every_field_of_diffulexs_and_usage(mine: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.generates = [[response(candidate(ids=(7, 8, 9, 1)), request_id="mine")]]
    assert await reply(mine, {"prompt": "x"}) == FINAL


@pytest.mark.parametrize(
    ("reason", "word"),
    [("STOP", "stop"), ("LENGTH", "length"), ("STEP_LIMIT", "length"), ("REPETITION", "length")],
)
async def test_finish_reason_is_openais_word_and_dllm_has_the_detail(
    client: httpx.AsyncClient, engine: FakeEngine, reason: str, word: str
) -> None:
    number = types_pb2.FinishReason.Value(f"FINISH_REASON_{reason}")
    engine.generates = [[response(candidate(finish_reason=number))]]
    given = await reply(client, {"prompt": "x", "dllm": {}})
    assert given["finish_reason"] == word
    assert given["dllm"] == {**DLLM_STATISTICS, "finish_reason": reason.lower()}


async def test_block_append_sends_what_is_final_once(mine: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.streams = [[message for message in SCRIPT if message.WhichOneof("event") != "block_snapshot"]]
    first, second, last = await events(mine, {"prompt": "x", "stream_mode": "block_append"})
    common = {"event": "append", "id": "mine", "finished": False}
    assert first == {**common, "token_offset": 0, "text": "he", "token_ids": [7, 8], "nfe": 2}
    assert second == {**common, "token_offset": 2, "text": "llo", "token_ids": [9, 1], "nfe": 5}
    assert last == {"event": "final", **FINAL}
    assert first["text"] + second["text"] == last["text"]
    assert engine.stream_requests[0].options == pb.StreamOptions(
        mode=pb.STREAM_MODE_BLOCK_APPEND, continuous_usage=True
    )


@pytest.mark.parametrize("mode", [{}, {"stream_mode": "denoise"}, {"dllm": {"stream_mode": "denoise"}}])
async def test_denoise_is_the_default_and_sends_the_whole_buffer(
    mine: httpx.AsyncClient, engine: FakeEngine, mode: Json
) -> None:
    engine.streams = [SCRIPT]
    *buffers, last = await events(mine, {"prompt": "x", **mode})
    for event in (*buffers, last):
        event.pop("dllm", None)
    assert last == {"event": "final", **FINAL}
    assert buffers[2] == {
        "event": "buffer_snapshot",
        "id": "mine",
        "token_offset": 0,
        "absolute_start": 3,
        "absolute_end": 7,
        "text": "hel░",
        "token_ids": [7, 8, 9, 2],
        "nfe": 4,
        "finished": False,
        "final_tokens": 2,
        "mask_token_id": 2,
    }
    assert [buffer["text"] for buffer in buffers] == ["h░", "he", "hel░", "hello"]
    assert [buffer["final_tokens"] for buffer in buffers] == [0, 2, 2, 4]
    assert [buffer["nfe"] for buffer in buffers] == [1, 2, 4, 5]
    assert buffers[-1]["token_ids"] == last["token_ids"]
    options = engine.stream_requests[0].options
    assert (options.mode, options.snapshot_text) == (pb.STREAM_MODE_SNAPSHOTS, True)


async def test_dllm_adds_facts_to_every_event(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.streams = [SCRIPT]
    given = await events(client, {"prompt": "x", "dllm": {"step_interval": 2, "mask_text": "#"}})
    assert [event["dllm"].get("event") for event in given] == ["snapshot", "block", "snapshot", "block", None]
    assert given[2]["dllm"]["token_ids"] == [9, None]
    assert given[2]["dllm"]["confidences"] == [0.75, 0]
    assert given[-1]["dllm"] == DLLM_STATISTICS
    options = engine.stream_requests[0].options
    assert (options.step_interval, options.mask_text) == (2, "#")


async def test_without_dllm_no_event_has_it(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.streams = [SCRIPT]
    assert all("dllm" not in event for event in await events(client, {"prompt": "x", "stream_mode": "denoise"}))


@pytest.mark.parametrize(
    ("path", "param", "body"),
    [
        ("prompt", "prompt", {}),
        ("prompt_token_ids.ids[0]", "prompt[0]", {"prompt": [1]}),
        ("sampling.max_tokens", "max_tokens", {"max_tokens": 0}),
        ("sampling.temperature", "temperature", {"temperature": -1}),
        ("diffusion.max_forward_passes", "max_nfe", {"max_nfe": 0}),
        ("diffusion.max_forward_passes", "dllm.max_forward_passes", {"dllm": {"max_forward_passes": 0}}),
        ("sampling.max_repetition_run", "max_repetition_run", {"max_repetition_run": 1}),
        ("sampling.ignore_eos", "ignore_eos", {"ignore_eos": True}),
        ("diffusion.cache", "dllm.cache", {"dllm": {"cache": "dual"}}),
    ],
)
async def test_the_engines_error_names_the_field(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, param: str, body: Json
) -> None:
    failure = Fail(grpc.StatusCode.INVALID_ARGUMENT, f"{path}: no", "INVALID_FIELD", (path,))
    engine.generates, engine.streams = [[failure]], [[failure]]
    for stream in (False, True):
        error = await refused(client, {"prompt": "x", "stream": stream, **body})
        assert (error["param"], error["message"]) == (param, f"{param}: no")


async def test_stream_options_without_a_stream_are_refused(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for body in (
        {"dllm": {"step_interval": 2}},
        {"stream": True, "stream_mode": "block_append", "dllm": {"step_interval": 2}},
    ):
        assert (await refused(client, {"prompt": "x", **body}))["param"] == "dllm.step_interval"
    assert not engine.generate_requests
    assert not engine.stream_requests


async def test_an_engine_that_is_gone_is_a_503_with_retry_after(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await engine.stop()
    for stream in (False, True):
        given = await client.post("/generate", json={"prompt": "x", "stream": stream})
        assert given.status_code == 503
        assert given.headers["retry-after"]


async def test_disconnect_cancels_a_unary_call(gateway: Gateway, engine: FakeEngine) -> None:
    waiting = Block()
    engine.generates = [[waiting, response(candidate())]]
    await leave(gateway, {"prompt": "x"}, waiting)
    await within(waiting.cancelled)
    assert engine.cancellations == 1


@pytest.mark.parametrize("mode", ["block_append", "denoise"])
async def test_disconnect_cancels_a_stream(gateway: Gateway, engine: FakeEngine, mode: str) -> None:
    waiting = Block()
    engine.streams = [[started(), appended("a", (7,)), waiting, ended()]]
    body = {"prompt": "x", "stream": True, "stream_mode": mode}
    await leave(gateway, body, waiting, read_until=b'"token_ids":[7]')
    await within(waiting.cancelled)
    assert engine.cancellations == 1
