"""POST /generate tells two shapes apart, and no field of theirs is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from generate_calls import refused, reply
from pydllm_gateway.native import diffulex, sglang
from pydllm_gateway.schemas.common import DllmOptions
from pydllm_gateway.schemas.diffulex import DiffulexRequest
from pydllm_gateway.schemas.sglang import REFUSED_FIELDS, REFUSED_SAMPLING, SglangRequest, SglangSampling

if TYPE_CHECKING:
    import httpx
    from fake_engine import FakeEngine

_FIELDS = json.loads((Path(__file__).parent / "native_fields.json").read_text())

# As in the sources of both; of SamplingParams those that clients set.
GENERATE_REQ_INPUT = _FIELDS["sglang"]["GenerateReqInput"]
SAMPLING_PARAMS = _FIELDS["sglang"]["SamplingParams"]
DIFFULEX = _FIELDS["diffulex"]["GenerateRequest"]


def test_every_field_of_sglang_is_honoured_or_refused() -> None:
    assert set(SglangRequest.model_fields) | set(REFUSED_FIELDS) == {*GENERATE_REQ_INPUT, "stream_mode", "dllm"}
    assert set(SglangSampling.model_fields) | set(REFUSED_SAMPLING) == set(SAMPLING_PARAMS)
    assert set(SglangSampling.model_fields) == set(sglang.SAMPLING)


def test_no_field_is_both_honoured_and_refused() -> None:
    assert not set(SglangRequest.model_fields) & set(REFUSED_FIELDS)
    assert not set(SglangSampling.model_fields) & set(REFUSED_SAMPLING)


def test_every_field_of_diffulex_is_honoured() -> None:
    assert set(DiffulexRequest.model_fields) == {*DIFFULEX, "dllm"}
    assert set(diffulex.FIELDS) | {"prompt", "stream", "stream_mode", "user"} == set(DIFFULEX)


async def test_a_field_that_cannot_be_honoured_is_a_400_that_names_it(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for field, refusal in REFUSED_FIELDS.items():
        error = await refused(client, {"text": "x", field: "something"})
        assert (error["param"], error["code"]) == (field, "unsupported_parameter")
        assert refusal.why in error["message"]
    assert not engine.generate_requests


async def test_a_sampling_parameter_that_cannot_be_honoured_is_a_400_that_names_it(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for field in REFUSED_SAMPLING:
        error = await refused(client, {"text": "x", "sampling_params": {field: "something"}})
        assert (error["param"], error["code"]) == (f"sampling_params.{field}", "unsupported_parameter")
        error = await refused(client, {"text": ["x", "y"], "sampling_params": [{}, {field: "something"}]})
        assert error["param"] == f"sampling_params[1].{field}"
    assert not engine.generate_requests


async def test_values_that_change_nothing_are_taken(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    tables = {"": REFUSED_FIELDS, "sampling_params": REFUSED_SAMPLING}
    bodies: list[dict[str, Any]] = []
    for parent, table in tables.items():
        for name, field in table.items():
            fields = [{name: value} for value in (None, [], [None], *field.neutral, list(field.neutral))]
            bodies += [{"text": "x", **({parent: given} if parent else given)} for given in fields]
    for body in bodies:
        await reply(client, body)
    assert len(engine.generate_requests) == len(bodies)
    assert all(request == engine.generate_requests[0] for request in map(_without_id, engine.generate_requests))


def _without_id(request: Any) -> Any:
    request.request_id = ""
    return request


@pytest.mark.parametrize(
    ("field", "value"),
    [("return_logprob", 0), ("return_logprob", [False, True]), ("top_logprobs_num", False), ("log_metrics", False)],
)
async def test_a_neutral_value_of_another_type_is_refused(client: httpx.AsyncClient, field: str, value: Any) -> None:
    assert (await refused(client, {"text": "x", field: value}))["param"] == field


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"stream": True}, "text"),
        ({"sampling_params": {}}, "text"),
        ({"text": None, "prompt": None}, "text"),
        ({"text": "x", "prompt": "y"}, "prompt"),
        ({"input_ids": [1], "prompt": "y"}, "prompt"),
        ({"prompt": "y", "sampling_params": {"top_p": 1}}, "prompt"),
        ({"text": "x", "input_ids": [1]}, "input_ids"),
    ],
)
async def test_fields_of_both_shapes_or_of_none_are_refused(
    client: httpx.AsyncClient, engine: FakeEngine, body: dict[str, Any], param: str
) -> None:
    error = await refused(client, body)
    assert error["param"] == param
    assert "expected text or input_ids" in error["message"]
    assert not engine.generate_requests


async def test_null_is_the_same_as_leaving_a_field_out(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    sglang_nulls = dict.fromkeys({*GENERATE_REQ_INPUT, "prompt", "stream_mode", "dllm"} - {"text"})
    await reply(client, {"text": "x", **sglang_nulls})
    await reply(client, {"text": "x", "sampling_params": dict.fromkeys(SAMPLING_PARAMS)})
    await reply(client, {"prompt": "x", **dict.fromkeys({*DIFFULEX, "dllm", "text"} - {"prompt"})})
    await reply(client, {"prompt": "x", "dllm": dict.fromkeys(DllmOptions.model_fields)})
    await reply(client, {"text": "x"})
    plain = _without_id(engine.generate_requests[-1])
    for request in engine.generate_requests:
        request.ClearField("diffusion") if not request.diffusion.ByteSize() else None
        assert _without_id(request) == plain


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text": "x", "max_tokens": 3}, "max_tokens"),
        ({"text": "x", "diffusing": True}, "diffusing"),
        ({"text": "x", "sampling_params": {"max_tokens": 3}}, "sampling_params.max_tokens"),
        ({"text": ["x", "y"], "sampling_params": [{}, {"seed": 3}]}, "sampling_params[1].seed"),
        ({"prompt": "x", "top_p": 0.5}, "top_p"),
        ({"prompt": "x", "rid": "a"}, "rid"),
    ],
)
async def test_an_unknown_field_is_a_400_that_names_it(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    error = await refused(client, body)
    assert (error["param"], error["code"]) == (param, "unknown_parameter")


WRONG = [
    ({"text": 5}, "text"),
    ({"text": ["a", 5]}, "text[1]"),
    ({"text": {"a": 1}}, "text"),
    ({"input_ids": "abc"}, "input_ids"),
    ({"input_ids": [1, "2"]}, "input_ids[1]"),
    ({"input_ids": [1, -1]}, "input_ids[1]"),
    ({"input_ids": [1, 2**32]}, "input_ids[1]"),
    ({"input_ids": [1, 2.0]}, "input_ids[1]"),
    ({"input_ids": [1, True]}, "input_ids[1]"),
    ({"input_ids": [[1], [2, "3"]]}, "input_ids[1][1]"),
    ({"input_ids": [[1], 2]}, "input_ids[1]"),
    ({"text": "x", "stream": "yes"}, "stream"),
    ({"text": "x", "rid": 5}, "rid"),
    ({"text": "x", "priority": 2**31}, "priority"),
    ({"text": "x", "sampling_params": "greedy"}, "sampling_params"),
    ({"text": "x", "sampling_params": [5]}, "sampling_params[0]"),
    ({"text": "x", "sampling_params": {"temperature": "0"}}, "sampling_params.temperature"),
    ({"text": "x", "sampling_params": {"temperature": True}}, "sampling_params.temperature"),
    ({"text": "x", "sampling_params": {"temperature": 1e39}}, "sampling_params.temperature"),
    ({"text": "x", "sampling_params": {"max_new_tokens": 1.5}}, "sampling_params.max_new_tokens"),
    ({"text": "x", "sampling_params": {"max_new_tokens": -1}}, "sampling_params.max_new_tokens"),
    ({"text": "x", "sampling_params": {"max_new_tokens": 2**32}}, "sampling_params.max_new_tokens"),
    ({"text": "x", "sampling_params": {"top_k": -2}}, "sampling_params.top_k"),
    ({"text": "x", "sampling_params": {"sampling_seed": 2**64}}, "sampling_params.sampling_seed"),
    ({"text": "x", "sampling_params": {"sampling_seed": -1}}, "sampling_params.sampling_seed"),
    ({"text": "x", "sampling_params": {"stop": [1]}}, "sampling_params.stop"),
    ({"text": "x", "sampling_params": {"stop_token_ids": 3}}, "sampling_params.stop_token_ids"),
    ({"text": "x", "sampling_params": {"stop_token_ids": [3, "4"]}}, "sampling_params.stop_token_ids[1]"),
    ({"text": "x", "sampling_params": {"logit_bias": {"the": 1}}}, "sampling_params.logit_bias"),
    ({"text": "x", "sampling_params": {"logit_bias": {"4294967296": 1}}}, "sampling_params.logit_bias"),
    ({"text": "x", "sampling_params": {"logit_bias": {"5": "1"}}}, "sampling_params.logit_bias"),
    ({"text": "x", "sampling_params": {"ignore_eos": 1}}, "sampling_params.ignore_eos"),
    ({"text": "x", "sampling_params": {"json_schema": {"type": "object"}}}, "sampling_params.json_schema"),
    ({"text": "x", "sampling_params": {"regex": "a", "ebnf": "b"}}, "sampling_params.ebnf"),
    ({"text": "x", "stream_mode": "sse"}, "stream_mode"),
    ({"text": "x", "dllm": {"block_length": -1}}, "dllm.block_length"),
    ({"text": "x", "dllm": {"steps": [1]}}, "dllm.steps"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt[0]"),
    ({"prompt": [1, -1]}, "prompt[1]"),
    ({"prompt": [[1]]}, "prompt[0]"),
    ({"prompt": "x", "max_tokens": "8"}, "max_tokens"),
    ({"prompt": "x", "max_nfe": 2**32}, "max_nfe"),
    ({"prompt": "x", "max_repetition_run": 1.5}, "max_repetition_run"),
    ({"prompt": "x", "stream_mode": "blocks"}, "stream_mode"),
    ({"prompt": "x", "user": 7}, "user"),
    ({"prompt": "x", "max_nfe": 3, "dllm": {"max_forward_passes": 4}}, "max_nfe"),
    ({"prompt": "x", "stream": True, "stream_mode": "denoise", "dllm": {"stream_mode": "block_append"}},
     "dllm.stream_mode"),
]  # fmt: skip


async def test_a_wrong_value_is_a_400_that_names_its_path(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert [(body, (await refused(client, body))["param"]) for body, _ in WRONG] == WRONG
    assert not engine.generate_requests
    assert not engine.stream_requests


async def test_the_openapi_document_shows_both_shapes(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    body = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names = {choice["$ref"].rpartition("/")[2] for choice in body["anyOf"]}
    assert names == {"SglangRequest", "DiffulexRequest"}
    assert set(document["components"]["schemas"]["DiffulexRequest"]["properties"]) == {*DIFFULEX, "dllm"}


def test_the_documentation_names_every_field() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    native = text.partition("## Native /generate")[2].partition("\n## ")[0]
    for names in (GENERATE_REQ_INPUT, SAMPLING_PARAMS, DIFFULEX):
        assert [name for name in names if f"{name}`" not in native] == []
