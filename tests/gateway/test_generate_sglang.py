"""POST /generate in SGLang's shape: what the engine is asked, what comes back, streams, lists and failures."""

from __future__ import annotations

import asyncio
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
from pydllm_gateway.native import sglang
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2
from rest_client import client_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    from fake_engine import FakeEngine
    from pydllm_gateway.server import Gateway

Json = dict[str, Any]

# sampling_params -> path in GenerateRequest, value there
SAMPLING: dict[str, list[tuple[Any, str, Any]]] = {
    "max_new_tokens": [(7, "sampling.max_tokens", 7), (0, "sampling.max_tokens", 0)],
    "min_new_tokens": [(3, "sampling.min_tokens", 3)],
    "temperature": [(0.5, "sampling.temperature", 0.5), (0, "sampling.temperature", 0.0)],
    "top_p": [(0.25, "sampling.top_p", 0.25)],
    "top_k": [(5, "sampling.top_k", 5), (-1, "sampling.top_k", 0), (0, "sampling.top_k", 0)],
    "min_p": [(0.125, "sampling.min_p", 0.125)],
    "frequency_penalty": [(-1.5, "sampling.frequency_penalty", -1.5)],
    "presence_penalty": [(1.5, "sampling.presence_penalty", 1.5)],
    "repetition_penalty": [(1.25, "sampling.repetition_penalty", 1.25)],
    "logit_bias": [({"5": -100, "6": 1.5}, "sampling.logit_bias", {5: -100.0, 6: 1.5})],
    "sampling_seed": [(2**64 - 1, "sampling.seed", 2**64 - 1), (0, "sampling.seed", 0)],
    "n": [(1, "sampling.n", 1)],
    "stop": [("end", "sampling.stop", ["end"]), (["a", "b"], "sampling.stop", ["a", "b"])],
    "stop_token_ids": [([4, 5], "sampling.stop_token_ids", [4, 5])],
    "no_stop_trim": [(True, "sampling.include_stop", True)],
    "ignore_eos": [(True, "sampling.ignore_eos", True), (False, "sampling.ignore_eos", False)],
    "skip_special_tokens": [(False, "output.skip_special_tokens", False)],
    "json_schema": [('{"type": "object"}', "constraint.json_schema", '{"type": "object"}')],
    "regex": [("[a-z]+", "constraint.regex", "[a-z]+")],
    "ebnf": [('root ::= "a"', "constraint.grammar", 'root ::= "a"')],
}


def value_at(message: Any, path: str) -> Any:
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    if message.DESCRIPTOR.fields_by_name[name].has_presence:
        assert message.HasField(name), f"{path} is not set"
    value = getattr(message, name)
    if hasattr(value, "items"):
        return dict(value)
    return list(value) if hasattr(value, "extend") else value


async def test_every_sampling_parameter_reaches_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert set(SAMPLING) == set(sglang.SAMPLING)
    for name, rows in SAMPLING.items():
        for value, path, expected in rows:
            await reply(client, {"text": "x", "sampling_params": {name: value}})
            assert value_at(engine.generate_requests[-1], path) == expected


@pytest.mark.parametrize(("path", "name"), [(path, name) for name, path in sglang.SAMPLING.items()])
async def test_the_engines_error_names_the_sampling_parameter(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, name: str
) -> None:
    path = "constraint" if path.startswith("constraint") else path  # the engine refuses the whole
    value = SAMPLING[name][0][0]
    engine.generates_for = {"y": [fail_at(path)]}
    error = await refused(client, {"text": "y", "sampling_params": {name: value}})
    assert error["param"] == f"sampling_params.{name}"
    assert error["message"] == f"sampling_params.{name}: expected something else"
    error = await refused(client, {"text": ["x", "y"], "sampling_params": [{}, {name: value}]})
    assert error["param"] == f"sampling_params[1].{name}"


def fail_at(path: str) -> Fail:
    return Fail(
        grpc.StatusCode.INVALID_ARGUMENT, f"{path}: expected something else", "INVALID_FIELD", (f"request.{path}",)
    )


@pytest.mark.parametrize(
    ("body", "path", "param"),
    [
        ({"text": "x"}, "prompt", "text"),
        ({"input_ids": [1, 2]}, "prompt_token_ids.ids[1]", "input_ids[1]"),
        ({"input_ids": [[1, 2]]}, "prompt_token_ids.ids[1]", "input_ids[0][1]"),
        ({"text": ["x"]}, "prompt", "text[0]"),
        ({"text": "x", "rid": "a"}, "request_id", "rid"),
        ({"text": ["x"], "rid": ["a"]}, "request_id", "rid[0]"),
        ({"text": "x", "priority": 1}, "priority", "priority"),
        ({"text": "x", "cache_salt": "a"}, "cache_salt", "cache_salt"),
        ({"text": "x", "dllm": {"algorithm": "a"}}, "diffusion.algorithm", "dllm.algorithm"),
        ({"text": "x", "dllm": {"steps": 4}}, "diffusion.extra.steps", "dllm.steps"),
    ],
)
async def test_the_engines_error_names_the_field(
    client: httpx.AsyncClient, engine: FakeEngine, body: Json, path: str, param: str
) -> None:
    engine.generates = [[fail_at(path)]]
    assert (await refused(client, body))["param"] == param


@pytest.mark.parametrize(
    ("mode", "path", "param"),
    [
        ({"stream_mode": "denoise"}, "options.mode", "stream_mode"),
        ({"dllm": {"stream_mode": "denoise", "step_interval": 0}}, "options.step_interval", "dllm.step_interval"),
        ({"dllm": {"stream_mode": "denoise", "mask_text": "#" * 99}}, "options.mask_text", "dllm.mask_text"),
        ({"dllm": {"stream_mode": "denoise", "min_interval": 1e6}}, "options.min_interval", "dllm.min_interval"),
        ({"sampling_params": {"top_p": 2}}, "request.sampling.top_p", "sampling_params.top_p"),
    ],
)
async def test_an_error_before_the_first_event_of_a_stream_is_a_400(
    client: httpx.AsyncClient, engine: FakeEngine, mode: Json, path: str, param: str
) -> None:
    message = (
        f"{path.removeprefix('request.')}: no"  # details carry the whole path, the message begins within the request
    )
    engine.streams = [[Fail(grpc.StatusCode.INVALID_ARGUMENT, message, "INVALID_FIELD", (path,))]]
    assert (await refused(client, {"text": "x", "stream": True, **mode}))["param"] == param


async def test_prompts_are_text_or_token_ids(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await reply(client, {"text": ""})
    await reply(client, {"text": "höllo"})
    await reply(client, {"input_ids": [5, 0, 2**32 - 1]})
    await reply(client, {"input_ids": []})
    empty, text, ids, no_ids = engine.generate_requests
    assert empty.WhichOneof("input") == "prompt"
    assert text.prompt == "höllo"
    assert list(ids.prompt_token_ids.ids) == [5, 0, 2**32 - 1]
    assert no_ids.WhichOneof("input") == "prompt_token_ids"


async def test_a_plain_request_sets_nothing_but_what_the_reply_needs(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await reply(client, {"text": "x", "rid": "mine"})
    output = types_pb2.OutputOptions(token_ids=True, stats=True)
    assert engine.generate_requests == [pb.GenerateRequest(prompt="x", request_id="mine", output=output)]


async def test_priority_and_cache_salt_reach_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await reply(client, {"text": "x", "priority": -3, "cache_salt": "a"})
    await reply(client, {"text": ["x", "y"], "cache_salt": ["a", "b"]})
    first, second, third = engine.generate_requests
    assert (first.priority, first.cache_salt) == (-3, "a")
    assert {(r.prompt, r.cache_salt) for r in (second, third)} == {("x", "a"), ("y", "b")}


async def test_a_reply_has_every_field_of_sglangs(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.generates = [[response(candidate(text="höllo"), request_id="mine")]]
    given = await reply(client, {"text": "x", "rid": "mine"})
    latency = given["meta_info"].pop("e2e_latency")
    assert 0 < latency < 20
    assert given == {
        "text": "höllo",
        "output_ids": [7, 8, 1],
        "meta_info": {
            "id": "mine",
            "finish_reason": {"type": "stop", "matched": 1},
            "prompt_tokens": 4,
            "completion_tokens": 3,
            "cached_tokens": 2,
        },
    }


@pytest.mark.parametrize(
    ("reason", "more", "expected"),
    [
        ("STOP", {}, {"type": "stop", "matched": 1}),
        ("STOP_SEQUENCE", {"matched_stop": "end"}, {"type": "stop", "matched": "end"}),
        ("STOP_SEQUENCE", {"matched_stop_token_id": 0}, {"type": "stop", "matched": 0}),
        ("LENGTH", {}, {"type": "length", "length": 3}),
        ("STEP_LIMIT", {}, {"type": "length", "length": 3}),
        ("REPETITION", {}, {"type": "length", "length": 3}),
    ],
)
async def test_finish_reason_says_what_matched_or_how_many_tokens(
    client: httpx.AsyncClient, engine: FakeEngine, reason: str, more: Json, expected: Json
) -> None:
    number = types_pb2.FinishReason.Value(f"FINISH_REASON_{reason}")
    engine.generates = [[response(candidate(finish_reason=number, **more))]]
    assert (await reply(client, {"text": "x"}))["meta_info"]["finish_reason"] == expected
    engine.streams = [[started(), appended("hello", (7, 8, 1)), ended(number, **more)]]
    assert (await events(client, {"text": "x"}))[-1]["meta_info"]["finish_reason"] == expected


async def test_the_id_is_rid_or_the_request_id(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await reply(client, {"text": "x", "rid": "mine"}, headers={"x-request-id": "other"})
    await reply(client, {"text": "x"}, headers={"x-request-id": "other"})
    await reply(client, {"text": ["x"]}, headers={"x-request-id": "other"})
    await reply(client, {"text": ["x"], "rid": "mine"})
    await reply(client, {"input_ids": [[1]], "rid": ["mine"]})
    ids = [request.request_id for request in engine.generate_requests]
    assert ids == ["mine", "other", "other_0", "mine_0", "mine"]


@pytest.mark.parametrize("rid", [["a"], ["a", "a"], ["a", "b", "c"], [], "", ["a", ""]])
async def test_an_id_that_names_no_prompt_is_refused(client: httpx.AsyncClient, engine: FakeEngine, rid: Any) -> None:
    assert (await refused(client, {"text": ["x", "y"], "rid": rid}))["param"] == "rid"
    assert not engine.generate_requests


async def test_several_prompts_run_at_once_and_answer_in_order(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    waits = [Block(), Block(), Block()]
    engine.generates = [[wait, response(candidate(text=f"answer {i}"))] for i, wait in enumerate(waits)]
    asking = asyncio.create_task(reply(client, {"text": ["a", "b", "c"], "rid": "r"}))
    for wait in waits:
        await within(wait.reached)  # all of them run before any has answered
    order = {request.prompt: i for i, request in enumerate(engine.generate_requests)}
    for wait in reversed(waits):
        wait.go.set()
    assert [one["text"] for one in await asking] == [f"answer {order[prompt]}" for prompt in "abc"]
    assert {(r.prompt, r.request_id) for r in engine.generate_requests} == {("a", "r_0"), ("b", "r_1"), ("c", "r_2")}


async def test_each_prompt_of_a_list_has_its_own_parameters(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    params = [{"max_new_tokens": 5}, {"max_new_tokens": 6, "stop": "z"}]
    await reply(client, {"input_ids": [[1], [2]], "sampling_params": params})
    await reply(client, {"text": ["c", "d"], "sampling_params": params[0]})
    seen = {
        (*r.prompt_token_ids.ids, r.prompt): (r.sampling.max_tokens, *r.sampling.stop) for r in engine.generate_requests
    }
    assert seen == {(1, ""): (5,), (2, ""): (6, "z"), ("c",): (5,), ("d",): (5,)}


@pytest.mark.parametrize("field", ["sampling_params", "cache_salt"])
async def test_a_list_of_another_length_than_the_prompts_is_refused(
    client: httpx.AsyncClient, engine: FakeEngine, field: str
) -> None:
    value: Any = {"sampling_params": {}, "cache_salt": "a"}[field]
    for prompts, count in (["x", "y"], 1), (["x"], 2), ("x", 2), ("x", 0):
        error = await refused(client, {"text": prompts, field: [value] * count})
        assert error["param"] == field
    assert not engine.generate_requests


async def test_n_candidates_are_a_list_prompt_by_prompt(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.generates = [[response(candidate(1, "b"), candidate(0, "a", ids=(7,)))]]
    given = await reply(client, {"text": "x", "sampling_params": {"n": 2}})
    assert [one["text"] for one in given] == ["a", "b"]
    assert [one["meta_info"]["completion_tokens"] for one in given] == [1, 3]
    assert engine.generate_requests[-1].sampling.n == 2


async def test_a_list_of_one_prompt_is_answered_with_a_list(client: httpx.AsyncClient) -> None:
    assert [one["text"] for one in await reply(client, {"text": ["x"]})] == ["hello"]


@pytest.mark.parametrize("body", [{"text": []}, {"text": ["x"] * 4}, {"input_ids": [[1]] * 4}])
async def test_the_number_of_prompts_is_bounded(
    start_gateway: Callable[..., Awaitable[Gateway]], engine: FakeEngine, body: Json
) -> None:
    async with client_of(await start_gateway(max_prompts=3)) as client:
        error = await refused(client, body)
        assert error["param"] in body
        assert "expected 1 to 3 prompts" in error["message"]
        assert not engine.generate_requests
        await reply(client, {"text": ["x"] * 3})


async def test_one_failure_fails_all_and_cancels_the_others(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    waits = [Block(), Block()]
    failure = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "QUEUE_FULL")
    engine.generates = [[waits[0], response()], [waits[1], response()], [failure]]
    given = await client.post("/generate", json={"text": ["a", "b", "c"]})
    assert (given.status_code, given.json()["error"]["code"]) == (429, "queue_full")
    for wait in waits:
        if wait.reached.is_set():
            await within(wait.cancelled)


async def test_a_stream_is_cumulative_and_ends_with_the_unary_reply(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.streams = [[started(), appended("hé", (7,)), appended("llo", (8, 1), 1, offset=1), ended()]]
    engine.generates = [[response(candidate(text="héllo"), request_id="r")]]
    first, second, last = await events(client, {"text": "x", "rid": "r"})
    meta = {"id": "r", "finish_reason": None, "prompt_tokens": 4, "completion_tokens": 1, "cached_tokens": 2}
    assert first == {"text": "hé", "output_ids": [7], "meta_info": meta}
    assert second == {"text": "héllo", "output_ids": [7, 8, 1], "meta_info": {**meta, "completion_tokens": 3}}
    unary = await reply(client, {"text": "x", "rid": "r"})
    assert 0 < last["meta_info"].pop("e2e_latency") < 20
    del unary["meta_info"]["e2e_latency"]
    assert last == unary


async def test_a_stream_asks_for_what_its_chunks_show(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await events(client, {"text": "x", "rid": "r"})
    output = types_pb2.OutputOptions(token_ids=True, stats=True)
    assert engine.stream_requests == [
        pb.StreamGenerateRequest(
            request=pb.GenerateRequest(prompt="x", request_id="r", output=output),
            options=pb.StreamOptions(mode=pb.STREAM_MODE_BLOCK_APPEND, continuous_usage=True),
        )
    ]


async def test_chunks_of_several_candidates_are_numbered(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.streams = [
        [started(), appended("a0", (7,)), appended("a1", (8,), of=1), ended(of=1), ended()] for _ in range(2)
    ]
    params = [{"n": 2}, {"n": 2}]
    chunks = await events(client, {"text": ["x", "y"], "rid": "r", "sampling_params": params})
    done = {chunk["index"]: chunk for chunk in chunks if chunk["meta_info"]["finish_reason"]}
    assert sorted(done) == [0, 1, 2, 3]
    assert [done[i]["text"] for i in range(4)] == ["a0", "a1", "a0", "a1"]
    assert [done[i]["output_ids"] for i in range(4)] == [[7], [8], [7], [8]]
    assert [done[i]["meta_info"]["id"] for i in range(4)] == ["r_0", "r_0", "r_1", "r_1"]
    assert len(chunks) == 8


async def test_a_single_prompt_streams_without_an_index(client: httpx.AsyncClient) -> None:
    assert all("index" not in chunk for chunk in await events(client, {"text": "x"}))
    assert all(chunk["index"] == 0 for chunk in await events(client, {"text": ["x"]}))


async def test_a_failure_within_a_stream_ends_it_without_done_and_cancels_the_others(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    wait, failure = Block(), Fail(grpc.StatusCode.UNAVAILABLE, "draining", "DRAINING")
    hold = Block()
    engine.streams = [[started(), appended("a", (7,)), wait, ended()], [started(), appended("b", (7,)), hold, failure]]
    asking = asyncio.create_task(client.post("/generate", json={"text": ["x", "y"], "stream": True}))
    await within(wait.reached)
    await within(hold.reached)
    hold.go.set()
    given = await asking
    lines = [line for line in given.text.split("\n\n") if line]
    assert given.status_code == 200
    assert '"code": "unavailable"' in lines[-1] or '"code":"unavailable"' in lines[-1]
    assert "[DONE]" not in given.text
    await within(wait.cancelled)


async def test_dllm_reaches_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    options = {"algorithm": "entropy_threshold", "block_length": 16, "entropy_threshold": 0.5, "steps": 4}
    await reply(client, {"text": ["x", "y"], "dllm": options})
    for request in engine.generate_requests:
        assert request.diffusion.algorithm == "entropy_threshold"
        assert (request.diffusion.block_length, request.diffusion.entropy_threshold) == (16, 0.5)
        assert dict(request.diffusion.extra) == {"steps": 4}


async def test_dllm_adds_the_statistics(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.generates = [[response(candidate())], [response(candidate())]]
    assert "dllm" not in await reply(client, {"text": "x"})
    assert (await reply(client, {"text": "x", "dllm": {}}))["dllm"] == DLLM_STATISTICS


@pytest.mark.parametrize("where", [{"stream_mode": "denoise"}, {"dllm": {"stream_mode": "denoise"}}])
async def test_denoise_adds_the_block_as_it_stands(client: httpx.AsyncClient, engine: FakeEngine, where: Json) -> None:
    shown = snapshot("l░", (8, 2), step=3, offset=1)
    engine.streams = [[started(), appended("he", (7,)), shown, appended("llo", (8, 1), 1, offset=1), ended()]]
    block, provisional, final, done = await events(client, {"text": "x", **where})
    assert block["dllm"] == {"event": "block", "block_index": 0, "steps": 2, "token_offset": 0}
    assert (provisional["text"], provisional["output_ids"]) == ("he", [7])  # only what is final
    assert provisional["dllm"] == {
        "event": "snapshot",
        "block_index": 1,
        "step": 3,
        "token_offset": 1,
        "text": "l░",
        "token_ids": [8, None],
        "confidences": [0.75, 0],
    }
    assert final["text"] == done["text"] == "hello"
    assert done["dllm"] == DLLM_STATISTICS
    options = engine.stream_requests[0].options
    assert (options.mode, options.snapshot_text) == (pb.STREAM_MODE_SNAPSHOTS, True)


async def test_how_often_provisional_blocks_come_can_be_chosen(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    options = {"step_interval": 3, "min_interval": 0.25, "mask_text": "#"}
    await events(client, {"text": "x", "stream_mode": "denoise", "dllm": options})
    given = engine.stream_requests[0].options
    assert (given.step_interval, given.min_interval.ToMilliseconds(), given.mask_text) == (3, 250, "#")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream_mode": "denoise"}, "stream_mode"),
        ({"dllm": {"stream_mode": "denoise"}}, "dllm.stream_mode"),
        ({"stream": True, "dllm": {"step_interval": 2}}, "dllm.step_interval"),
        ({"dllm": {"mask_text": "#"}}, "dllm.mask_text"),
        ({"stream": True, "stream_mode": "denoise", "dllm": {"stream_mode": "block_append"}}, "dllm.stream_mode"),
    ],
)
async def test_stream_options_that_would_do_nothing_are_refused(
    client: httpx.AsyncClient, engine: FakeEngine, body: Json, param: str
) -> None:
    assert (await refused(client, {"text": "x", **body}))["param"] == param
    assert not engine.generate_requests
    assert not engine.stream_requests


async def test_disconnect_cancels_every_prompt_of_a_unary_call(gateway: Gateway, engine: FakeEngine) -> None:
    waits = [Block(), Block(), Block()]
    engine.generates = [[wait, response(candidate())] for wait in waits]
    await leave(gateway, {"text": ["a", "b", "c"]}, *waits)
    for wait in waits:
        await within(wait.cancelled)
    assert engine.cancellations == 3


async def test_disconnect_cancels_every_prompt_of_a_stream(gateway: Gateway, engine: FakeEngine) -> None:
    waits = [Block(), Block()]
    engine.streams = [[started(), appended("a", (7,)), wait, ended()] for wait in waits]
    await leave(gateway, {"text": ["a", "b"], "stream": True}, *waits, read_until=b'"output_ids":[7]')
    for wait in waits:
        await within(wait.cancelled)
    assert engine.cancellations == 2
