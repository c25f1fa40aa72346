"""No field of OpenAI's request types is forgotten: each is honoured (and its effect shown), goes to the engine, which
refuses it, or is refused here unless it says what happens anyway."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fake_engine
import grpc
import httpx
import pytest
import pytest_asyncio
from fake_engine import Fail
from openai_calls import CHAT, COMPLETIONS, LEAST, post, refused, stream
from pydllm_gateway.schemas.chat import ChatBody, Message
from pydllm_gateway.schemas.common import DllmOptions, StreamOptions
from pydllm_gateway.schemas.completions import CompletionBody
from pydllm_gateway.server import Gateway
from pydllm_gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fake_engine import FakeEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[tuple[FakeEngine, httpx.AsyncClient]]:
    """One engine and one gateway for all cases of this file."""
    engine = fake_engine.FakeEngine()
    await engine.start()
    gateway = Gateway(Settings(engine=engine.target, port=0))
    await gateway.start()
    url = f"http://127.0.0.1:{gateway.port}"
    async with httpx.AsyncClient(base_url=url, timeout=20.0, trust_env=False) as client:
        yield engine, client
    gateway.drain(0.0)
    await gateway.wait()
    await engine.stop()


@pytest.fixture
def engine(shared: tuple[FakeEngine, httpx.AsyncClient]) -> FakeEngine:
    """The engine as if it were new."""
    shared[0].generate_requests.clear()
    shared[0].stream_requests.clear()
    shared[0].failures.clear()
    return shared[0]


@pytest.fixture
def client(shared: tuple[FakeEngine, httpx.AsyncClient], engine: FakeEngine) -> httpx.AsyncClient:
    return shared[1]


LISTED: dict[str, Any] = json.loads(Path(__file__).with_name("openai_fields.json").read_text())
BODIES = {CHAT: ChatBody, COMPLETIONS: CompletionBody}

Check = Callable[[Any], bool]
"""Of the GenerateRequest that the engine received."""


@dataclass(frozen=True)
class Field:
    """One field on one endpoint or both."""

    name: str
    value: Any
    paths: tuple[str, ...] = (CHAT, COMPLETIONS)
    more: dict[str, Any] = field(default_factory=dict)
    """What else the body must have."""


@dataclass(frozen=True)
class Sent(Field):
    """Honoured: `check` holds for the request that the engine received."""

    check: Check = lambda request: False


@dataclass(frozen=True)
class Passed(Field):
    """Honoured or refused by the engine: it reaches `path` in the proto, whose refusal names the field."""

    path: str = ""
    check: Check = lambda request: False


@dataclass(frozen=True)
class Refused(Field):
    """Refused here: `value` is a 400, `neutral` values change nothing."""

    neutral: tuple[Any, ...] = ()


ONLY_CHAT: dict[str, Any] = {"paths": (CHAT,)}
ONLY_COMPLETIONS: dict[str, Any] = {"paths": (COMPLETIONS,)}


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-6)


SENT = (
    Sent("model", "fake", check=lambda r: r.model == "fake"),
    Sent(
        "messages",
        [{"role": "user", "content": "x"}],
        **ONLY_CHAT,
        check=lambda r: [(m.role, m.content) for m in r.chat.messages] == [("user", "x")],
    ),
    Sent("prompt", "some text", **ONLY_COMPLETIONS, check=lambda r: r.prompt == "some text"),
    Sent("max_tokens", 7, check=lambda r: r.sampling.max_tokens == 7),
    Sent("max_completion_tokens", 8, **ONLY_CHAT, check=lambda r: r.sampling.max_tokens == 8),
    Sent("temperature", 0.5, check=lambda r: r.sampling.temperature == 0.5),
    Sent("top_p", 0.25, check=lambda r: r.sampling.top_p == 0.25),
    Sent("top_k", 4, check=lambda r: r.sampling.top_k == 4),
    Sent("seed", 2**64 - 1, check=lambda r: r.sampling.seed == 2**64 - 1),
    Sent("stop", "end", check=lambda r: list(r.sampling.stop) == ["end"]),
    Sent("stop_token_ids", [5, 6], check=lambda r: list(r.sampling.stop_token_ids) == [5, 6]),
    Sent("include_stop_str_in_output", True, check=lambda r: r.sampling.include_stop),
    Sent("ignore_eos", True, check=lambda r: r.sampling.ignore_eos),
    Sent("n", 3, check=lambda r: r.sampling.n == 3),
    Sent("skip_special_tokens", False, check=lambda r: r.output.HasField("skip_special_tokens")),
    Sent("return_token_ids", True, check=lambda r: r.output.token_ids),
    Sent("request_id", "mine", check=lambda r: r.request_id.endswith("cmpl-mine")),
    Sent("echo", True, **ONLY_COMPLETIONS, check=lambda r: r.output.echo),
    Sent(
        "chat_template_kwargs",
        {"enable_thinking": False, "depth": [1, {"a": None}]},
        **ONLY_CHAT,
        check=lambda r: dict(r.chat.template_kwargs.items()).get("enable_thinking") is False,
    ),
    Sent("add_generation_prompt", False, **ONLY_CHAT, check=lambda r: r.chat.HasField("add_generation_prompt")),
    Sent("dllm", {"block_length": 16}, check=lambda r: r.diffusion.block_length == 16 and r.output.stats),
)

PASSED = (
    Passed("min_p", 0.5, path="sampling.min_p", check=lambda r: r.sampling.min_p == 0.5),
    Passed(
        "repetition_penalty",
        1.5,
        path="sampling.repetition_penalty",
        check=lambda r: r.sampling.repetition_penalty == 1.5,
    ),
    Passed("presence_penalty", -2, path="sampling.presence_penalty", check=lambda r: r.sampling.presence_penalty == -2),
    Passed(
        "frequency_penalty", 1, path="sampling.frequency_penalty", check=lambda r: r.sampling.frequency_penalty == 1
    ),
    Passed(
        "logit_bias",
        {"50": -100, "7": 1.5},
        path="sampling.logit_bias",
        check=lambda r: dict(r.sampling.logit_bias) == {50: -100, 7: 1.5},
    ),
    Passed("min_tokens", 2, path="sampling.min_tokens", check=lambda r: r.sampling.min_tokens == 2),
    Passed(
        "max_repetition_run", 9, path="sampling.max_repetition_run", check=lambda r: r.sampling.max_repetition_run == 9
    ),
    Passed("priority", -3, path="priority", check=lambda r: r.priority == -3),
    Passed("cache_salt", "mine", path="cache_salt", check=lambda r: r.cache_salt == "mine"),
    Passed("logprobs", True, **ONLY_CHAT, path="output.logprobs", check=lambda r: r.output.HasField("logprobs")),
    Passed("logprobs", 0, **ONLY_COMPLETIONS, path="output.logprobs", check=lambda r: r.output.HasField("logprobs")),
    Passed(
        "suffix",
        " end",
        **ONLY_COMPLETIONS,
        more={"max_tokens": 4},
        path="canvas",
        check=lambda r: [s.WhichOneof("content") for s in r.canvas.segments] == ["text", "mask_length", "text"],
    ),
    Passed(
        "response_format",
        {"type": "json_object"},
        path="constraint",
        check=lambda r: r.constraint.json_object,
    ),
    Passed(
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}},
        path="constraint",
        check=lambda r: json.loads(r.constraint.json_schema or "0") == {"type": "object"},
    ),
)

REFUSED = (
    Refused("store", True, neutral=(False,)),
    Refused("service_tier", "flex", neutral=("auto", "default")),
    Refused("tools", [{"type": "function", "function": {"name": "f"}}], **ONLY_CHAT, neutral=([],)),
    Refused("tool_choice", "required", **ONLY_CHAT, neutral=("none", "auto")),
    Refused("parallel_tool_calls", False, **ONLY_CHAT, neutral=(True,)),
    Refused("functions", [{"name": "f"}], **ONLY_CHAT, neutral=([],)),
    Refused("function_call", {"name": "f"}, **ONLY_CHAT, neutral=("none", "auto")),
    Refused("audio", {"voice": "alloy", "format": "wav"}, **ONLY_CHAT),
    Refused("modalities", ["text", "audio"], **ONLY_CHAT, neutral=(["text"],)),
    Refused("moderation", {"model": "m"}, **ONLY_CHAT),
    Refused("prediction", {"type": "content", "content": "x"}, **ONLY_CHAT),
    Refused("prompt_cache_key", "k", **ONLY_CHAT),
    Refused("prompt_cache_options", {"mode": "explicit"}, **ONLY_CHAT),
    Refused("prompt_cache_retention", "24h", **ONLY_CHAT),
    Refused("reasoning_effort", "high", **ONLY_CHAT, neutral=("none",)),
    Refused("verbosity", "low", **ONLY_CHAT, neutral=("medium",)),
    Refused("web_search_options", {}, **ONLY_CHAT),
    Refused("top_logprobs", 2, **ONLY_CHAT),
    Refused("best_of", 2, **ONLY_COMPLETIONS, neutral=(1,)),
)

SHOWN = {"stream", "stream_options", "stream_mode", "metadata", "user", "safety_identifier"}
"""Honoured by the gateway itself: the answer or the log shows them. test_streaming_openai.py and the tests below."""

SHOWN_IN_CHAT = {"diffusing"}


def names(fields: tuple[Field, ...], path: str) -> set[str]:
    return {each.name for each in fields if path in each.paths}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_every_field_is_honoured_or_given_to_the_engine_or_refused(path: str, record_property: Any) -> None:
    groups = [names(SENT, path), names(PASSED, path), names(REFUSED, path), SHOWN]
    if path == CHAT:
        groups[-1] = SHOWN | SHOWN_IN_CHAT
        groups[1] |= {"top_logprobs"}
        groups[2] -= {"top_logprobs"}  # the engine's with logprobs, refused without
    declared = set(BODIES[path].model_fields)
    listed = set(LISTED["chat" if path == CHAT else "completions"])
    assert len(listed) > 15
    assert listed <= declared
    assert set().union(*groups) == declared
    assert sum(len(group) for group in groups) == len(declared), "a field is in two groups"
    record_property(
        "figure",
        f"{path}: {len(listed)} OpenAI fields (client {LISTED['version']}) and {len(declared - listed)} more, "
        f"{len(groups[0] | groups[3])} honoured, {len(groups[1])} decided by the engine, {len(groups[2])} refused",
    )


async def test_nested_fields_are_all_declared() -> None:
    assert set(LISTED["stream_options"]) <= set(StreamOptions.model_fields)
    for role, keys in LISTED["messages"].items():
        assert role == "function" or set(keys) <= set(Message.model_fields)


async def test_the_documentation_has_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    section = page.split("\n## OpenAI endpoints\n")[1].split("\n## ")[0]
    parts = dict(part.split("\n", 1) for part in section.split("\n### ")[1:])
    declared = set(ChatBody.model_fields), set(CompletionBody.model_fields)
    for title, fields in [
        ("Fields of both", declared[0] & declared[1]),
        ("Chat only", declared[0] - declared[1]),
        ("Completions only", declared[1] - declared[0]),
        ("Diffusion", set(DllmOptions.model_fields)),
    ]:
        assert {name for name in fields if f"`{name}`" not in parts[title]} == set()


def cases(fields: tuple[Any, ...]) -> list[Any]:
    return [
        pytest.param(each, path, id=f"{each.name}-{path.removeprefix('/v1/')}")
        for each in fields
        for path in each.paths
    ]


def received(engine: FakeEngine) -> Any:
    return engine.generate_requests[-1]


@pytest.mark.parametrize(("each", "path"), cases(SENT + PASSED))
async def test_a_field_reaches_the_engine(client: httpx.AsyncClient, engine: FakeEngine, each: Any, path: str) -> None:
    assert (await post(client, path, **each.more)).status_code == 200
    assert not each.check(received(engine)), "the check holds without the field"
    assert (await post(client, path, **each.more, **{each.name: each.value})).status_code == 200
    assert each.check(received(engine))


@pytest.mark.parametrize(("each", "path"), cases(SENT + PASSED))
async def test_a_field_reaches_the_engine_of_a_stream(
    client: httpx.AsyncClient, engine: FakeEngine, each: Any, path: str
) -> None:
    await stream(client, path, **each.more, **{each.name: each.value})
    assert each.check(engine.stream_requests[-1].request)


@pytest.mark.parametrize(("each", "path"), cases(PASSED))
async def test_the_engines_refusal_names_the_rest_field(
    client: httpx.AsyncClient, engine: FakeEngine, each: Passed, path: str
) -> None:
    why = f"{each.path}: not available; leave it unset"
    fail = Fail(grpc.StatusCode.UNIMPLEMENTED, why, "UNSUPPORTED_BY_ALGORITHM", (each.path,))
    engine.failures["Generate"] = fail
    error = refused(await post(client, path, **each.more, **{each.name: each.value}), each.name)
    assert error["message"] == f"{each.name}: not available; leave it unset"
    assert error["code"] == "unsupported_parameter"
    inner = Fail(grpc.StatusCode.UNIMPLEMENTED, "request." + why, "UNSUPPORTED_BY_ALGORITHM", ("request." + each.path,))
    engine.failures["StreamGenerate"] = inner
    streamed = await post(client, path, stream=True, **each.more, **{each.name: each.value})
    assert streamed.status_code == 400
    assert streamed.json()["error"]["param"] == each.name


@pytest.mark.parametrize(("each", "path"), cases(REFUSED))
async def test_a_refused_field_is_a_400_that_names_it(
    client: httpx.AsyncClient, engine: FakeEngine, each: Refused, path: str
) -> None:
    refused(await post(client, path, **{each.name: each.value}), each.name)
    assert not engine.generate_requests


@pytest.mark.parametrize(("each", "path"), cases(REFUSED))
async def test_neutral_values_of_refused_fields_change_nothing(
    client: httpx.AsyncClient, engine: FakeEngine, each: Refused, path: str
) -> None:
    await post(client, path, request_id="same")
    plain = received(engine)
    for value in (None, *each.neutral):
        response = await post(client, path, request_id="same", **{each.name: value})
        assert response.status_code == 200, response.text
        assert received(engine) == plain


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_null_means_unset_for_every_optional_field(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    required = set(LEAST[path])
    nulls = dict.fromkeys(set(BODIES[path].model_fields) - required - {"request_id"})
    await post(client, path, request_id="same")
    response = await post(client, path, request_id="same", **nulls)
    assert response.status_code == 200, response.text
    assert engine.generate_requests[0] == engine.generate_requests[1]
    for name in required:
        refused(await post(client, path, **{name: None}), name)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_an_unknown_field_is_a_400_that_names_it(client: httpx.AsyncClient, path: str) -> None:
    assert refused(await post(client, path, temprature=0.5), "temprature")["code"] == "unknown_parameter"
    refused(await post(client, path, diffusionn=None), "diffusionn")
    refused(await post(client, path, stream=True, stream_options={"usage": True}), "stream_options.usage")


NUMBERS = {
    "max_tokens": [-1, 2**32, True, 3.5, "7", [7]],
    "n": [-1, 2**32, True, 1.5, "2"],
    "top_k": [-1, 2**32, True, 1.5],
    "min_tokens": [-1, 2**32],
    "seed": [-1, 2**64, True, 0.5, "1"],
    "priority": [2**31, -(2**31) - 1, 0.5],
    "temperature": ["0.5", True, 1e39, [1], 10**39],
    "top_p": ["1", False, -1e39],
    "presence_penalty": ["1", True, 1e300],
    "stop": [3, ["a", 3], {"a": "b"}],
    "stop_token_ids": [3, [-1], ["a"], [2**32], [True]],
    "logit_bias": [[1], {"1": "x"}, {"1": 1e39}, {"a": 1}, {"-1": 1}, {str(2**32): 1}, {"1.0": 1}, {"": 1}, {"²": 1}],
    "stream": ["true", 1],
    "ignore_eos": ["yes", 0],
    "user": [3, ["x"]],
    "metadata": [{"a": 1}, "x", [["a", "b"]]],
    "request_id": ["", "a b", "x" * 101, "é", 3],
    "response_format": ["json", {"type": "grammar"}, {"type": "text", "json_schema": {"schema": {}}}],
    "dllm": [3, "x", []],
    "stream_mode": ["edits", 3],
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("name", NUMBERS)
async def test_values_that_the_wire_cannot_hold_are_400s_that_name_the_field(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, name: str
) -> None:
    for value in NUMBERS[name]:
        response = await post(client, path, **{name: value})
        assert response.status_code == 400, (value, response.text)
        error = response.json()["error"]
        assert error["param"].startswith(name), error
        assert error["message"].startswith(name), error
    assert not engine.generate_requests


DLLM = {
    "algorithm": ("entropy_threshold", "algorithm"),
    "block_length": (8, "block_length"),
    "max_steps_per_block": (3, "max_steps_per_block"),
    "max_forward_passes": (12, "max_forward_passes"),
    "confidence_threshold": (0.5, "confidence_threshold"),
    "entropy_threshold": (0.25, "entropy_threshold"),
    "allow_edits": (True, "allow_edits"),
    "edit_threshold": (0.75, "edit_threshold"),
    "cache": ("dual", "cache"),
    "cache_refresh_interval": (4, "cache_refresh_interval"),
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("key", DLLM)
async def test_dllm_keys_reach_the_engine_and_name_themselves_in_its_refusals(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, key: str
) -> None:
    value, name = DLLM[key]
    assert (await post(client, path, dllm={key: value})).status_code == 200
    assert getattr(received(engine).diffusion, name) == value
    inner = f"diffusion.{name}"
    engine.failures["Generate"] = Fail(grpc.StatusCode.INVALID_ARGUMENT, f"{inner}: no", "INVALID_FIELD", (inner,))
    refused(await post(client, path, dllm={key: value}), f"dllm.{key}")


async def test_other_dllm_keys_are_parameters_of_the_algorithm(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    extra = {"factor": 1.5, "factor_strict": True, "order": "entropy", "steps": 2**53, "unset": None}
    assert (await post(client, CHAT, dllm=extra)).status_code == 200
    del extra["unset"]
    assert dict(received(engine).diffusion.extra.items()) == extra
    path = "diffusion.extra.factr"
    engine.failures["Generate"] = Fail(
        grpc.StatusCode.INVALID_ARGUMENT, f"{path}: no such parameter", "INVALID_FIELD", (path,)
    )
    refused(await post(client, CHAT, dllm={"factr": 1}), "dllm.factr")


@pytest.mark.parametrize(
    ("dllm", "param"),
    [
        ({"block_length": "8"}, "dllm.block_length"),
        ({"block_length": -1}, "dllm.block_length"),
        ({"factor": [1]}, "dllm.factor"),
        ({"factor": {"a": 1}}, "dllm.factor"),
        ({"steps": 2**53 + 1}, "dllm.steps"),
        ({"cache": 3}, "dllm.cache"),
        ({"stream_mode": "edits"}, "dllm.stream_mode"),
        ({"min_interval": -0.5}, "dllm.min_interval"),
        ({"min_interval": 1e12}, "dllm.min_interval"),
    ],
)
async def test_wrong_dllm_values_are_400s_that_name_the_key(
    client: httpx.AsyncClient, engine: FakeEngine, dllm: dict[str, Any], param: str
) -> None:
    refused(await post(client, CHAT, dllm=dllm), param)
    assert not engine.generate_requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"top_logprobs": 0}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"chat_template_kwargs": {"a": [2**53 + 1]}}, "chat_template_kwargs.a[0]"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "text", "json_schema": {"schema": {}}}}, "response_format.json_schema"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream_mode": "denoise"}, "stream_mode"),
        ({"dllm": {"stream_mode": "denoise"}}, "dllm.stream_mode"),
        ({"stream": True, "stream_mode": "denoise", "dllm": {"stream_mode": "block_append"}}, "dllm.stream_mode"),
        ({"diffusing": True}, "diffusing"),
        ({"stream": True, "diffusing": True, "stream_mode": "denoise"}, "diffusing"),
        ({"dllm": {"step_interval": 2}}, "dllm.step_interval"),
        ({"stream": True, "dllm": {"mask_text": "_"}}, "dllm.mask_text"),
        ({"stream": True, "stream_mode": "block_append", "dllm": {"min_interval": 1}}, "dllm.min_interval"),
    ],
)
async def test_fields_that_contradict_each_other_are_400s(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    refused(await post(client, CHAT, **fields), param)
    assert not engine.generate_requests
    assert not engine.stream_requests


async def test_agreeing_duplicates_and_neutral_stream_fields_are_accepted(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    fields = {
        "max_tokens": 3,
        "max_completion_tokens": 3,
        "logprobs": False,
        "stream": False,
        "stream_mode": "block_append",
        "diffusing": False,
        "stop": [],
        "tools": [],
        "dllm": {"stream_mode": "block_append"},
        "response_format": {"type": "text"},
    }
    assert (await post(client, CHAT, **fields)).status_code == 200
    assert not received(engine).HasField("constraint")


async def test_the_engines_words_about_max_tokens_name_the_field_that_was_used(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    message = "sampling.max_tokens: expected an integer in [1, 2147483647], got 0"
    engine.failures["Generate"] = Fail(
        grpc.StatusCode.INVALID_ARGUMENT, message, "INVALID_FIELD", ("sampling.max_tokens",)
    )
    refused(await post(client, CHAT, max_tokens=0), "max_tokens")
    refused(await post(client, CHAT, max_completion_tokens=0), "max_completion_tokens")
    refused(await post(client, CHAT, max_completion_tokens=0, max_tokens=0), "max_tokens")


async def test_chat_logprobs_ask_for_as_many_alternatives_as_wanted(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await post(client, CHAT, logprobs=True, top_logprobs=5)
    assert received(engine).output.logprobs == 5
    await post(client, COMPLETIONS, logprobs=3)
    assert received(engine).output.logprobs == 3


async def test_user_and_safety_identifier_are_on_the_requests_log_line(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="pydllm.gateway.access"):
        headers = {"x-request-id": "abc"}
        body = LEAST[CHAT] | {"user": "ann\nfake line", "safety_identifier": "s" * 500}
        assert (await client.post(CHAT, json=body, headers=headers)).status_code == 200
    lines = [record.getMessage() for record in caplog.records if "user=" in record.getMessage()]
    assert len(lines) == 1
    assert 'user="ann\\nfake line"' in lines[0]
    assert "\n" not in lines[0]
    assert 'safety_identifier="sss' in lines[0]
    assert len(lines[0]) < 400
    assert 'id="abc"' in lines[0]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_metadata_and_service_tier_come_back(client: httpx.AsyncClient, path: str) -> None:
    metadata = {"run": "7", "ключ": "значение"}
    body = (await post(client, path, metadata=metadata, service_tier="auto")).json()
    assert body["metadata"] == metadata
    assert body["service_tier"] == "default"
    plain = (await post(client, path)).json()
    assert "metadata" not in plain
    assert "service_tier" not in plain
    chunks = await stream(client, path, metadata=metadata, service_tier="default")
    assert [chunk.get("metadata") for chunk in chunks] == [metadata] + [None] * (len(chunks) - 1)
    assert {chunk["service_tier"] for chunk in chunks} == {"default"}
