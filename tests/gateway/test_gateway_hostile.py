"""Raw hostile HTTP against a real server: typed errors, never a 500, never a traceback, memory flat."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import gateway_process
import pytest
from hostile_cases import BODIES, REFUSED, TOKENIZE
from raw_http import ask, chunk, chunked, get, post, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    import httpx
    from fake_engine import FakeEngine
    from pydllm_gateway.server import Gateway

MIB = 2**20
GROWTH = 16 * MIB
"""What repetition may add to a process. Allocators breathe by a few MiB; the twelve rounds carry two bodies of 10 MB or
more each, so one that was kept would show as 120."""

ODD_VALUES: dict[str, Any] = {
    "true": True,
    "a fraction": 1.5,
    "a negative integer": -1,
    "a huge integer": 10**30,
    "a huge number": 1e300,
    "an empty string": "",
    "a string": "x",
    "a string with NUL": "a\0b",
    "an empty list": [],
    "a list of everything": [None, True, 1.5, "x", [], {}],
    "a list of lists": [[[]]],
    "an empty object": {},
    "an object": {"x": {"y": [None]}},
    "null": None,
}


@pytest.fixture(autouse=True)
def nothing_internal(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No test here may make the server log an error or print a traceback."""
    with caplog.at_level(logging.INFO):
        yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_no_strict_json_object_is_a_400(gateway: Gateway, name: str) -> None:
    body, code = BODIES[name]
    answer = await ask(gateway.port, post(TOKENIZE, body))
    assert answer.status == 400
    assert answer.error["code"] == code
    assert len(answer.body) < 1000
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("name", REFUSED)
async def test_malformed_http_gets_one_typed_answer(gateway: Gateway, name: str) -> None:
    data, status = REFUSED[name]
    answer = await ask(gateway.port, data)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


async def test_a_lone_surrogate_is_named_by_its_field(gateway: Gateway) -> None:
    answer = await ask(gateway.port, post(TOKENIZE, rb'{"messages": [{"role": "user", "content": "a\ud800"}]}'))
    assert answer.error["param"] == "messages[0].content"


async def test_a_key_that_comes_twice_is_named(gateway: Gateway) -> None:
    answer = await ask(gateway.port, post(TOKENIZE, b'{"prompt": "x", "prompt": "y"}'))
    assert answer.error["param"] == "prompt"


async def test_paired_surrogates_and_nul_reach_the_engine(gateway: Gateway, engine: FakeEngine) -> None:
    answer = await ask(gateway.port, post(TOKENIZE, rb'{"prompt": "\ud83d\ude00\u0000"}'))
    assert answer.status == 200
    assert engine.requests[-1].text == "\U0001f600\0"


async def test_the_deepest_json_that_is_accepted_reaches_the_handler(gateway: Gateway) -> None:
    answer = await ask(gateway.port, post(TOKENIZE, b'{"prompt": ' + b"[" * 31 + b"]" * 31 + b"}"))
    assert answer.error["code"] == "invalid_type"


async def test_chunked_bodies_are_read_whatever_their_cuts(gateway: Gateway) -> None:
    body = json.dumps({"prompt": "é" * 50}, ensure_ascii=False).encode()
    pieces = [chunk(body[i : i + 1]) for i in range(len(body))]
    answer = await ask(gateway.port, chunked(TOKENIZE, *pieces, b"0\r\n\r\n"))
    assert json.loads(answer.body)["count"] == 100


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    requests = [post(TOKENIZE, json.dumps({"prompt": "x" * n}).encode(), close=n == 5) for n in range(1, 6)]
    answers = await talk(gateway.port, b"".join(requests))
    assert [json.loads(answer.body)["count"] for answer in answers] == [1, 2, 3, 4, 5]


async def test_what_follows_a_body_shorter_than_announced_is_not_mixed_into_it(gateway: Gateway) -> None:
    smuggled = post(TOKENIZE, b'{"prompt": "x"}', close=False) + b"garbage\r\n\r\n"
    answers = await talk(gateway.port, smuggled)
    assert [answer.status for answer in answers] == [200, 400]


@pytest.mark.parametrize("parts", [(b'{"prompt"',), (b"ff\r\n{",)], ids=["length", "chunk"])
async def test_a_client_that_stops_in_its_body_costs_nothing_but_its_request(
    gateway: Gateway, parts: tuple[bytes, ...]
) -> None:
    head = chunked(TOKENIZE) if parts[0].startswith(b"ff") else post(TOKENIZE, b" " * 100)[:-100]
    await talk(gateway.port, head + parts[0], leave=True)
    assert (await ask(gateway.port, get("/health"))).status == 200


async def test_a_prompt_of_10_mb_is_refused_by_its_length(gateway: Gateway) -> None:
    answer = await ask(gateway.port, post(TOKENIZE, json.dumps({"prompt": "x" * 10_000_000}).encode()))
    assert answer.status == 413


async def test_a_prompt_just_under_the_limit_is_served(start_gateway: Callable[..., Awaitable[Gateway]]) -> None:
    gateway = await start_gateway(max_body_bytes=1_000_000)
    body = json.dumps({"prompt": "x" * (1_000_000 - len('{"prompt": ""}'))}).encode()
    assert len(body) == 1_000_000
    assert (await ask(gateway.port, post(TOKENIZE, body))).status == 200
    assert (await ask(gateway.port, post(TOKENIZE, body + b" "))).status == 413


async def test_the_limit_counts_what_arrives_not_what_is_announced(
    start_gateway: Callable[..., Awaitable[Gateway]],
) -> None:
    gateway = await start_gateway(max_body_bytes=100_000, header_timeout=1.0)
    pieces = [chunk(b" " * 50_000)] * 4
    assert (await ask(gateway.port, chunked(TOKENIZE, *pieces))).status == 413


def fields_of(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every field of every JSON body that the gateway takes: path, field and the other fields of a usable body."""
    found = []
    for path, methods in schema["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        for name in _properties(content["schema"], schema) if content else ():
            found.append((path, name, _BASES.get(path, {})))
    return found


def _properties(node: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    if "$ref" in node:
        return _properties(schema["components"]["schemas"][node["$ref"].rsplit("/", 1)[1]], schema)
    variants = [name for part in node.get("anyOf", []) + node.get("oneOf", []) for name in _properties(part, schema)]
    return sorted({*node.get("properties", {}), *variants})


_BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [10]},
    "/generate": {"text": "x"},
}


async def test_no_value_of_any_field_is_more_than_a_400(
    client: httpx.AsyncClient, record_property: Callable[[str, str], None]
) -> None:
    schema = (await client.get("/openapi.json")).json()
    tried, wrong = 0, []
    for path, field, base in fields_of(schema):
        for kind, value in ODD_VALUES.items():
            response = await client.post(path, json={**base, field: value})
            tried += 1
            if response.status_code not in {200, 400, 404} or "Traceback" in response.text:
                wrong.append((path, field, kind, response.status_code))
            elif response.status_code != 200 and not response.json()["error"]["message"]:
                wrong.append((path, field, kind, "no message"))
    assert wrong == []
    assert tried > 200
    record_property("figure", f"{tried} wrong values in fields: no answer but 200, 400 or 404")


async def test_hostile_requests_leave_memory_flat(
    engine: FakeEngine, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    requests = [post(TOKENIZE, body) for body, _ in BODIES.values()] + [data for data, _ in REFUSED.values()]
    requests.append(post(TOKENIZE, json.dumps({"prompt": "x" * 10_000_000}).encode()))
    requests.append(chunked(TOKENIZE, *[chunk(b" " * MIB)] * 12, b"0\r\n\r\n"))
    async with gateway_process.running(tmp_path / "log", engine=engine.target) as gateway:

        async def battery() -> None:
            for data in requests:
                for answer in await talk(gateway.port, data):
                    assert answer.status < 500 or answer.status in {501, 505}
                    assert b"Traceback" not in answer.body

        for _ in range(3):
            await battery()
        before = gateway.rss
        rounds = 12
        for _ in range(rounds):
            await battery()
        grown = gateway.rss - before
        gateway.close_stdin()
        assert await gateway.exit() == 0
        assert "Traceback" not in gateway.logged()
        assert " ERROR " not in gateway.logged()
    assert grown < GROWTH
    figure = f"{rounds * len(requests)} hostile requests: resident memory {grown / MIB:+.1f} MiB, no 500, no traceback"
    record_property("figure", figure)


async def test_many_idle_and_abandoned_connections_do_not_stop_service(gateway: Gateway) -> None:
    held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(200)]
    for _, writer in held[::2]:
        writer.write(b"POST /tokenize HTTP/1.1\r\nHost")
    assert (await ask(gateway.port, post(TOKENIZE, b'{"prompt": "x"}'))).status == 200
    for _, writer in held:
        writer.close()
