"""POST /v1/chat/completions: messages in, OpenAI's body out, failures in OpenAI's words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import fake_engine
import grpc
import pytest
from fake_engine import Block, Fail
from openai_calls import CHAT, LEAST, chat, refused
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

if TYPE_CHECKING:
    import httpx
    from fake_engine import FakeEngine

CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}]


def turns(engine: FakeEngine) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in engine.generate_requests[-1].chat.messages]


async def test_roles_and_text_parts_reach_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d🙂"}]},
        {"role": "assistant", "content": "e", "refusal": None, "annotations": [], "audio": None, "tool_calls": None},
        {"role": "user", "content": ""},
    ]
    assert (await chat(client, messages=messages)).status_code == 200
    assert turns(engine) == [("system", "a"), ("system", "b"), ("user", "cd🙂"), ("assistant", "e"), ("user", "")]


async def test_tool_calls_and_their_answers_reach_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    assert (await chat(client, messages=messages)).status_code == 200
    _, call, result = engine.generate_requests[-1].chat.messages
    assert json.loads(call.tool_calls_json) == CALLS
    assert call.content == ""
    assert (result.role, result.content, result.tool_call_id) == ("tool", "42", "c1")


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}, "content[1]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "content[0]"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "content[0]"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, "content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {}}]},
         "content[0].prompt_cache_breakpoint"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "colour": 1}]}, "content[0].colour"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
        ({"role": "user", "content": [{"text": "a"}]}, "content[0].type"),
        ({"role": "user", "content": ["a"]}, "content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "content[0].text"),
        ({"role": "user", "content": 3}, "content"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user"}, "content"),
        ({"role": "assistant", "content": None}, "content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "content"),
        ({"role": "function", "content": "x", "name": "f"}, "role"),
        ({"role": "User", "content": "x"}, "role"),
        ({"content": "x"}, "role"),
        ({"role": "user", "content": "x", "name": "ann"}, "name"),
        ({"role": "user", "content": "x", "nick": "ann"}, "nick"),
        ({"role": "user", "content": "x", "tool_calls": CALLS}, "tool_calls"),
        ({"role": "user", "content": "x", "tool_call_id": "c1"}, "tool_call_id"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "refusal"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio"),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}, "function_call"),
        ({"role": "assistant", "content": "x", "annotations": [{}]}, "annotations"),
    ],
)  # fmt: skip
async def test_what_a_message_cannot_hold_is_a_400_that_names_its_place(
    client: httpx.AsyncClient, engine: FakeEngine, message: dict[str, Any], param: str
) -> None:
    messages = [{"role": "user", "content": "hi"}, message]
    refused(await chat(client, messages=messages), f"messages[1].{param}")
    assert not engine.generate_requests


async def test_messages_must_be_a_list_of_objects(client: httpx.AsyncClient) -> None:
    refused(await chat(client, messages="hi"), "messages")
    refused(await chat(client, messages=["hi"]), "messages[0]")
    assert refused(await client.post(CHAT, json={}), "messages")["code"] == "missing_required_parameter"


async def test_the_engines_words_about_messages_name_the_message(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    path = "chat.messages"
    engine.failures["Generate"] = Fail(
        grpc.StatusCode.INVALID_ARGUMENT, f"{path}: expected at least one message", "INVALID_FIELD", (path,)
    )
    assert refused(await chat(client, messages=[]), "messages")["message"] == "messages: expected at least one message"


async def test_the_answer_is_openais_object(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    response = fake_engine.answer(pb.GenerateRequest(), "two", "one")
    response.candidates[0].index, response.candidates[1].index = 1, 0
    response.candidates[0].finish_reason = types_pb2.FINISH_REASON_LENGTH
    response.usage.cached_prompt_tokens, response.usage.reasoning_tokens = 1, 1
    engine.generates.append([response])
    answer = await client.post(CHAT, json=LEAST[CHAT] | {"n": 2}, headers={"x-request-id": "abc"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "id": "chatcmpl-abc",
        "object": "chat.completion",
        "created": 1_700_000_100,
        "model": "fake",
        "system_fingerprint": None,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, text, reason in [(0, "one", "stop"), (1, "two", "length")]
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }
    assert engine.generate_requests[0].request_id == "chatcmpl-abc"


def candidate(**values: Any) -> pb.GenerateResponse:
    response = fake_engine.answer(pb.GenerateRequest(), "x")
    response.candidates[0].MergeFrom(types_pb2.Candidate(**values))
    return response


STATS = types_pb2.DiffusionStats(forward_passes=4, denoise_steps=5, blocks=2, tokens_per_forward=2.1)
STATS.time_to_first_block.nanos = 250_000_000
STATS.generation_time.seconds, STATS.queue_time.nanos = 3, 1_500_000


async def test_dllm_in_the_request_brings_statistics(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    ended = {"finish_reason": types_pb2.FINISH_REASON_STOP_SEQUENCE, "matched_stop": "\n", "stats": STATS}
    engine.generates += [[candidate(**ended)], [candidate(**ended)]]
    choice = (await chat(client, dllm={})).json()["choices"][0]
    assert choice["dllm"] == {
        "nfe": 4,
        "steps": 5,
        "blocks": 2,
        "edited_tokens": 0,
        "tokens_per_forward": 2.1,
        "time_to_first_block": 0.25,
        "generation_time": 3.0,
        "queue_time": 0.0015,
        "finish_reason": "stop_sequence",
        "stop_match": "\n",
    }
    assert engine.generate_requests[-1].output.stats
    assert "dllm" not in (await chat(client)).json()["choices"][0]
    assert not engine.generate_requests[-1].output.stats


@pytest.mark.parametrize(
    ("reason", "word", "detail"),
    [
        (types_pb2.FINISH_REASON_STOP, "stop", "stop"),
        (types_pb2.FINISH_REASON_STOP_SEQUENCE, "stop", "stop_sequence"),
        (types_pb2.FINISH_REASON_LENGTH, "length", "length"),
        (types_pb2.FINISH_REASON_STEP_LIMIT, "length", "step_limit"),
        (types_pb2.FINISH_REASON_REPETITION, "length", "repetition"),
    ],
)
async def test_finish_reason_is_openais_word_and_dllm_has_the_detail(
    client: httpx.AsyncClient, engine: FakeEngine, reason: Any, word: str, detail: str
) -> None:
    engine.generates.append([candidate(finish_reason=reason, matched_stop_token_id=9)])
    choice = (await chat(client, dllm={})).json()["choices"][0]
    assert choice["finish_reason"] == word
    assert choice["dllm"]["finish_reason"] == detail
    assert choice["dllm"]["stop_match"] == 9


async def test_token_ids_come_back_when_asked_for(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.generates += [[candidate(token_ids=[5, 6])], [candidate(token_ids=[5, 6])]]
    assert (await chat(client, return_token_ids=True)).json()["choices"][0]["token_ids"] == [5, 6]
    assert "token_ids" not in (await chat(client)).json()["choices"][0]


async def test_request_id_of_the_body_names_the_answer(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await chat(client, request_id="mine")).json()["id"] == "chatcmpl-mine"
    longest = "i" * 100
    assert (await chat(client, request_id=longest)).json()["id"] == f"chatcmpl-{longest}"
    assert len(engine.generate_requests[-1].request_id) <= 128


async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    message = "model: there is no model 'gpt' here, there is 'fake'"
    engine.failures["Generate"] = Fail(grpc.StatusCode.NOT_FOUND, message, "MODEL_NOT_FOUND", ("model",))
    response = await chat(client, model="gpt")
    assert response.status_code == 404
    error = {"message": message, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    assert response.json() == {"error": error}


async def test_a_client_that_leaves_cancels_a_unary_answer(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    import asyncio

    gate = Block()
    engine.generates.append([gate])
    call = asyncio.create_task(chat(client))
    await asyncio.wait_for(gate.reached.wait(), 10)
    call.cancel()
    await asyncio.wait_for(gate.cancelled.wait(), 10)


async def test_the_schema_documents_every_field(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    fields = schema["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "dllm", "diffusing", "chat_template_kwargs", "tools"} <= set(fields)
