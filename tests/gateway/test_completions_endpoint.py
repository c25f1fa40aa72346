"""POST /v1/completions: one prompt or several, as text or as ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import fake_engine
import grpc
import pytest
from fake_engine import Block, Fail
from openai_calls import COMPLETIONS, complete, refused
from pydllm_proto.v1 import generation_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    from fake_engine import FakeEngine

REFUSAL = Fail(grpc.StatusCode.INVALID_ARGUMENT, "prompt: too long", "CONTEXT_LENGTH_EXCEEDED", ("prompt",))


def texts(*values: str) -> list[Any]:
    """A script with one candidate per text."""
    return [fake_engine.answer(pb.GenerateRequest(), *values)]


async def test_the_answer_is_openais_object(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"prompt": "once"}
    answer = await client.post(COMPLETIONS, json=body, headers={"x-request-id": "abc"})
    assert answer.json() == {
        "id": "cmpl-abc",
        "object": "text_completion",
        "created": 1_700_000_100,
        "model": "fake",
        "system_fingerprint": None,
        "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    assert engine.generate_requests[0].prompt == "once"
    assert engine.generate_requests[0].request_id == "cmpl-abc"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [""]),
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", ""], ["a", ""]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([[]], [[]]),
    ],
)
async def test_every_form_of_prompt_becomes_one_call_each(
    client: httpx.AsyncClient, engine: FakeEngine, prompt: Any, expected: list[Any]
) -> None:
    answer = await complete(client, prompt=prompt)
    assert answer.status_code == 200
    sent = {
        request.request_id.removeprefix(answer.json()["id"]): (
            request.prompt if request.WhichOneof("input") == "prompt" else list(request.prompt_token_ids.ids)
        )
        for request in engine.generate_requests
    }
    assert [sent[key] for key in sorted(sent)] == expected
    assert all(request.WhichOneof("input") for request in engine.generate_requests)
    assert len(answer.json()["choices"]) == len(expected)


async def test_choices_are_ordered_by_prompt_then_candidate(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    first, second = Block(), Block()
    engine.generates += [[first, *texts("a0", "a1")], [second, *texts("b0", "b1")]]
    call = asyncio.create_task(complete(client, prompt=["a", "b"], n=2))
    await asyncio.wait_for(first.reached.wait(), 10)
    await asyncio.wait_for(second.reached.wait(), 10)  # both run at once
    scripts = {request.prompt: gate for request, gate in zip(engine.generate_requests, (first, second), strict=True)}
    scripts["b"].go.set()
    scripts["a"].go.set()
    body = (await call).json()
    assert [(choice["index"], choice["text"][1]) for choice in body["choices"]] == [
        (0, "0"),
        (1, "1"),
        (2, "0"),
        (3, "1"),
    ]
    assert {choice["text"][0] for choice in body["choices"][:2]} != {
        choice["text"][0] for choice in body["choices"][2:]
    }
    assert body["usage"] == body["usage"] | {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}


async def test_one_failing_prompt_fails_the_request_and_cancels_the_others(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    waits = Block()
    engine.generates += [[waits, *texts("x")], [REFUSAL]]
    response = await complete(client, prompt=["a", "b"])
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    failed = engine.generate_requests[1]
    index = failed.request_id.rpartition("-")[2]
    assert error["param"] == f"prompt[{index}]"
    assert error["message"] == f"prompt[{index}]: too long"
    await asyncio.wait_for(waits.cancelled.wait(), 10)


async def test_a_single_prompt_is_named_without_a_number(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.failures["Generate"] = REFUSAL
    refused(await complete(client, prompt="a"), "prompt")
    refused(await complete(client, prompt=[1, 2]), "prompt")


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        (3, "prompt"),
        ({}, "prompt"),
        ([], "prompt"),
        (["a", 3], "prompt[1]"),
        ([1, "a"], "prompt[1]"),
        ([1, [2]], "prompt[1]"),
        ([[1], 2], "prompt[1]"),
        ([[1], ["a"]], "prompt[1][0]"),
        ([[1, 2**32]], "prompt[0][1]"),
        ([-1], "prompt[0]"),
        ([1.0], "prompt[0]"),
        ([True], "prompt[0]"),
        ([None], "prompt[0]"),
    ],
)
async def test_prompts_that_are_none_are_400s_that_name_the_place(
    client: httpx.AsyncClient, engine: FakeEngine, prompt: Any, param: str
) -> None:
    refused(await complete(client, prompt=prompt), param)
    assert not engine.generate_requests


async def test_prompt_is_required(client: httpx.AsyncClient) -> None:
    response = await client.post(COMPLETIONS, json={"model": "fake"})
    assert refused(response, "prompt")["code"] == "missing_required_parameter"


async def test_too_many_prompts_are_refused_before_any_runs(
    start_gateway: Callable[..., Awaitable[Any]], engine: FakeEngine
) -> None:
    import httpx

    gateway = await start_gateway(max_prompts=2)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False) as client:
        assert (await complete(client, prompt=["a", "b"])).status_code == 200
        del engine.generate_requests[:]
        error = refused(await complete(client, prompt=["a", "b", "c"]), "prompt")
    assert "at most 2" in error["message"]
    assert not engine.generate_requests


@pytest.mark.parametrize("prompt", ["head", [1, 2]])
async def test_suffix_makes_a_canvas_with_a_hole_of_max_tokens(
    client: httpx.AsyncClient, engine: FakeEngine, prompt: Any
) -> None:
    assert (await complete(client, prompt=prompt, suffix=" tail", max_tokens=5)).status_code == 200
    before, hole, after = engine.generate_requests[-1].canvas.segments
    assert (before.text or list(before.token_ids.ids)) == prompt
    assert hole.mask_length == 5
    assert after.text == " tail"


async def test_suffix_needs_max_tokens_and_an_empty_one_is_none(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    refused(await complete(client, suffix=" tail"), "suffix")
    assert (await complete(client, suffix="")).status_code == 200
    assert engine.generate_requests[-1].WhichOneof("input") == "prompt"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("canvas", "suffix"),
        ("canvas.segments", "prompt"),
        ("canvas.segments[0].text", "prompt"),
        ("canvas.segments[0].token_ids.ids[3]", "prompt[3]"),
        ("canvas.segments[1].mask_length", "max_tokens"),
        ("canvas.segments[2].text", "suffix"),
    ],
)
async def test_errors_of_a_canvas_name_the_field_it_came_from(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, name: str
) -> None:
    engine.failures["Generate"] = Fail(
        grpc.StatusCode.INVALID_ARGUMENT, f"{path}: expected less", "INVALID_FIELD", (path,)
    )
    answer = await complete(client, suffix=" tail", max_tokens=5)
    refused(answer, name)
    assert answer.json()["error"]["message"] == f"{name}: expected less"


async def test_best_of_may_only_repeat_n(client: httpx.AsyncClient) -> None:
    assert (await complete(client, n=3, best_of=3)).status_code == 200
    refused(await complete(client, n=2, best_of=3), "best_of")
    refused(await complete(client, n=2, best_of=1), "best_of")


async def test_a_client_that_leaves_cancels_every_prompt(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gates = [Block(), Block(), Block()]
    engine.generates += [[gate] for gate in gates]
    call = asyncio.create_task(complete(client, prompt=["a", "b", "c"]))
    await asyncio.wait_for(asyncio.gather(*(gate.reached.wait() for gate in gates)), 10)
    call.cancel()
    await asyncio.wait_for(asyncio.gather(*(gate.cancelled.wait() for gate in gates)), 10)
    assert engine.cancellations == 3
