"""Every request field of OpenAI's own types does something visible on the real server, or is a 400 that names it.

The fields are read from the types of the installed openai packages, so a new release with a new field fails here.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from asking import ANSWER, CHAT, SUM
from demo_facts import token
from environments import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx
    from asking import Json
    from stack import Stack

pytestmark = pytest.mark.clients

RANDOM = {"temperature": 4.0, "max_tokens": 24, "ignore_eos": True}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@dataclass(frozen=True)
class Answered:
    """A reply, the reply to the same request without the field, and what the server has logged since."""

    reply: httpx.Response
    before: httpx.Response
    log: str

    def choice(self, index: int = 0) -> Any:
        return self.reply.json()["choices"][index]

    def text(self) -> str:
        return text_of(self.reply)


def text_of(reply: httpx.Response) -> str:
    choice = reply.json()["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def differs(answered: Answered) -> bool:
    return answered.text() != text_of(answered.before)


def tokens(count: int) -> Callable[[Answered], bool]:
    return lambda answered: answered.reply.json()["usage"]["completion_tokens"] == count


def logged(words: str) -> Callable[[Answered], bool]:
    return lambda answered: words in answered.log


@dataclass(frozen=True)
class Case:
    """A value that is not neutral, what else the request needs, and its visible effect; none: it must be refused."""

    value: Any
    effect: Callable[[Answered], bool] | None = None
    base: Mapping[str, Any] | None = None


COMMON = {
    "frequency_penalty": Case(2.0, differs, {"max_tokens": 60, "ignore_eos": True}),
    "presence_penalty": Case(2.0, differs, {**RANDOM, "seed": 1}),
    "logit_bias": Case({str(token("Ġ=Ġ")): 100}, lambda a: a.text().count(" = ") == 5, {"max_tokens": 5}),
    "max_tokens": Case(5, tokens(5), {"ignore_eos": True}),
    "n": Case(3, lambda a: [c["index"] for c in a.reply.json()["choices"]] == [0, 1, 2]),
    "seed": Case(1, differs, {**RANDOM, "seed": 2}),
    "stream": Case(True, lambda a: a.reply.text.startswith("data: ") and a.reply.text.endswith("data: [DONE]\n\n")),
    "stream_options": Case({"include_usage": True}, lambda a: '"choices":[]' in a.reply.text, {"stream": True}),
    "temperature": Case(4.0, differs, {"seed": 1, "max_tokens": 24, "ignore_eos": True}),
    "top_p": Case(1e-6, differs, {**RANDOM, "seed": 1}),
    "user": Case("someone-42", logged('user="someone-42"')),
}
CHAT_CASES = {
    **COMMON,
    "messages": Case([{"role": "user", "content": "Solve: 1 + 1."}], differs),
    "model": Case("demo", lambda a: a.reply.json()["model"] == "demo"),
    "max_completion_tokens": Case(5, tokens(5), {"ignore_eos": True}),
    "stop": Case(["= 4"], lambda a: a.text() == "12 + 30 "),
    "metadata": Case({"k": "v"}, lambda a: a.reply.json()["metadata"] == {"k": "v"}),
    "safety_identifier": Case("hash-42", logged('safety_identifier="hash-42"')),
    "service_tier": Case("auto", lambda a: a.reply.json()["service_tier"] == "default"),
    "logprobs": Case(True, lambda a: bool(a.choice()["logprobs"]["content"])),
    "top_logprobs": Case(2),
    "response_format": Case({"type": "json_object"}),
    "audio": Case({"voice": "alloy", "format": "wav"}),
    "function_call": Case({"name": "f"}),
    "functions": Case([{"name": "f", "parameters": {}}]),
    "modalities": Case(["text", "audio"]),
    "moderation": Case({"model": "omni-moderation-latest"}),
    "parallel_tool_calls": Case(False),
    "prediction": Case({"type": "content", "content": ANSWER}),
    "prompt_cache_key": Case("key"),
    "prompt_cache_options": Case({"enabled": True}),
    "prompt_cache_retention": Case("24h"),
    "reasoning_effort": Case("high"),
    "store": Case(True),
    "tool_choice": Case("required"),
    "tools": Case([TOOL]),
    "verbosity": Case("low"),
    "web_search_options": Case({}),
}
AS_TEMPLATE = (
    "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
"""A question as the chat template renders it: after a bare word the demo model ends at once."""
TEXT_CASES = {
    **COMMON,
    "prompt": Case(AS_TEMPLATE, differs),
    "model": Case("demo", lambda a: a.reply.json()["model"] == "demo"),
    "best_of": Case(3),
    "echo": Case(True, lambda a: a.text() == SUM + text_of(a.before)),
    "logprobs": Case(1, lambda a: bool(a.choice()["logprobs"]["token_logprobs"])),
    "stop": Case(["Z"], lambda a: "Z" not in a.text(), {**RANDOM, "seed": 1}),
    "suffix": Case(
        " = 42",  # more to read, and a hole that is filled where the prompt alone ends at once
        lambda a: (
            a.reply.json()["usage"]["prompt_tokens"] > a.before.json()["usage"]["prompt_tokens"]
            and tokens(8)(a)
            and differs(a)
        ),
        {"max_tokens": 8, "ignore_eos": False},
    ),
}
TABLES: dict[str, tuple[Json, dict[str, Case]]] = {
    "chat/completions": ({"messages": CHAT}, CHAT_CASES),
    "completions": ({"prompt": SUM, "max_tokens": 32, "ignore_eos": True}, TEXT_CASES),
}
OUTCOMES: dict[tuple[str, str], str] = {}  # filled by the first test, counted by the last
CASES = [(path, name) for path, (_, cases) in TABLES.items() for name in cases]


@pytest.fixture(scope="module")
def client(stack: Stack) -> Any:
    import httpx

    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(("path", "name"), CASES)
def test_a_field_has_its_effect_or_is_refused_by_name(stack: Stack, client: httpx.Client, path: str, name: str) -> None:
    required, cases = TABLES[path]
    case = cases[name]
    body = {**required, **(case.base or {})}
    before = client.post(f"/v1/{path}", json=body)
    assert before.status_code == 200, before.text
    seen = len(stack.errors())
    reply = client.post(f"/v1/{path}", json={**body, name: case.value})
    if reply.status_code == 200:
        assert case.effect is not None, f"{name} was accepted without a visible effect"
        assert case.effect(Answered(reply, before, stack.errors()[seen:])), reply.text
        OUTCOMES[path, name] = "honoured"
        return
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"].startswith(name), error
    assert name in error["message"]
    OUTCOMES[path, name] = "refused by name"


# Fields that OpenAI's types do not have, as vLLM spells them.
FURTHER: dict[str, Case] = {
    "min_p": Case(1.0, differs, {**RANDOM, "seed": 1}),
    "repetition_penalty": Case(100.0, differs, {"ignore_eos": True, "max_tokens": 24}),
    "min_tokens": Case(20, lambda a: a.reply.json()["usage"]["completion_tokens"] >= 20, {"max_tokens": 24}),
    "top_k": Case(1, differs, {**RANDOM, "seed": 1}),
}


@pytest.mark.parametrize("name", FURTHER)
def test_a_further_field_has_its_effect(client: httpx.Client, name: str) -> None:
    case = FURTHER[name]
    body = {"messages": CHAT, **(case.base or {})}
    before = client.post("/v1/chat/completions", json=body)
    reply = client.post("/v1/chat/completions", json={**body, name: case.value})
    assert (before.status_code, reply.status_code) == (200, 200), reply.text
    assert case.effect is not None
    assert case.effect(Answered(reply, before, "")), reply.text


RANGES = {
    "min_p": (1.5, "[0, 1]"),
    "repetition_penalty": (0, "(0, 100]"),
    "presence_penalty": (2.5, "[-2, 2]"),
    "frequency_penalty": (-2.5, "[-2, 2]"),
    "logit_bias": ({"5": 101}, "[-100, 100]"),
    "min_tokens": (33, "between 0 and 32"),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_value_out_of_range_is_named_with_the_range(client: httpx.Client, name: str) -> None:
    value, expected = RANGES[name]
    for path, (required, _) in TABLES.items():
        reply = client.post(f"/v1/{path}", json={**required, "max_tokens": 32, name: value})
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert error["param"] == name
        assert name in error["message"]
        assert expected in error["message"]


@pytest.mark.parametrize(("path", "name"), CASES)
def test_null_means_unset(client: httpx.Client, path: str, name: str) -> None:
    required, _ = TABLES[path]
    if name in required:
        return
    plain = client.post(f"/v1/{path}", json={**required, "seed": 1})
    nulled = client.post(f"/v1/{path}", json={"seed": 1, **required, name: None})
    assert nulled.status_code == 200, nulled.text
    if name not in ("max_tokens", "seed"):
        assert text_of(nulled) == text_of(plain)


@pytest.mark.parametrize("environment", ["openai3", "openai2"])
def test_every_field_of_the_clients_types_is_in_these_tables(
    environment: str, record_property: Callable[[str, object], None]
) -> None:
    known = json.loads(run(environment, "request_fields.py"))
    for path, (_, cases) in TABLES.items():
        assert sorted(cases) == known[path]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(OUTCOMES.values()).items()))
    record_property("figure", f"{environment}: {sum(map(len, known.values()))} fields; {counts}")


@pytest.mark.parametrize("environment", ["openai3", "openai2"])
def test_the_gateways_own_list_covers_the_installed_client(environment: str) -> None:
    run(environment, "list_openai_fields.py", "--check", folder="../gateway")
