"""Clients that leave: the engine stops working for them at once, whatever they had asked for."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from asking import ANSWER, CHAT, SLOW, SUM, client_of, events, streamed, unary

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from asking import Json
    from stack import Stack

LIMIT = 1.0  # seconds; the engine notices between two forward passes
REQUESTS: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", {"messages": CHAT, "n": 4, **SLOW}),
    "chat stream": ("/v1/chat/completions", {"messages": CHAT, "n": 4, "stream": True, **SLOW}),
    "completions": ("/v1/completions", {"prompt": [SUM, SUM], "n": 2, **SLOW}),
    "completions stream": ("/v1/completions", {"prompt": [SUM, SUM], "n": 2, "stream": True, **SLOW}),
    "sglang": (
        "/generate",
        {"text": SUM, "sampling_params": {"max_new_tokens": 200, "ignore_eos": True, "n": 4}, "dllm": SLOW["dllm"]},
    ),
    "diffulex": ("/generate", {"prompt": SUM, "max_tokens": 200, "ignore_eos": True, "dllm": SLOW["dllm"]}),
    "diffulex stream": (
        "/generate",
        {"prompt": SUM, "max_tokens": 200, "ignore_eos": True, "stream": True, "dllm": SLOW["dllm"]},
    ),
}


def send(stack: Stack, path: str, body: Json) -> socket.socket:
    """Sends a request and returns the open connection."""
    host, port = stack.http.rsplit(":", 1)
    data = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("name", REQUESTS)
def test_a_client_that_leaves_frees_the_engine(
    stack: Stack, name: str, record_property: Callable[[str, object], None]
) -> None:
    stack.wait_idle()
    before = stack.engine()
    connection = send(stack, *REQUESTS[name])
    stack.wait_busy()
    connection.close()
    seconds = stack.wait_idle()
    after = stack.engine()
    assert seconds < LIMIT
    assert after["kv_cache_usage_perc"] == 0
    assert after["forward_passes_total"] - before["forward_passes_total"] < 200, "it ran to its end"
    assert after["requests_cancelled_total"] > before["requests_cancelled_total"]
    assert stack.engine()["forward_passes_total"] == after["forward_passes_total"], "the engine still works"
    record_property("figure", f"{name} {seconds * 1e3:.0f} ms")


async def test_a_client_that_leaves_takes_nothing_from_its_neighbours(stack: Stack) -> None:
    async with client_of(stack.url) as client:
        body = {"messages": CHAT, **SLOW}
        expected = await unary(client, "/v1/chat/completions", body)
        neighbour = asyncio.create_task(streamed(client, "/v1/chat/completions", body))
        await asyncio.to_thread(stack.wait_busy, 1)
        gone = await asyncio.to_thread(send, stack, *REQUESTS["chat stream"])
        await asyncio.to_thread(stack.wait_busy, 5)
        gone.close()
        assert [c.text for c in (await neighbour)[0]] == [c.text for c in expected[0]]


def random_request(rng: random.Random) -> tuple[str, Json]:
    """Any endpoint, short or long."""
    size, dllm = rng.choice([(16, {}), (32, {}), (64, {}), (150, SLOW["dllm"])])
    more = {"stream": rng.random() < 0.5, "ignore_eos": rng.random() < 0.5, "dllm": dllm}
    kind = rng.choice(["chat", "completions", "sglang", "diffulex"])
    if kind == "chat":
        return "/v1/chat/completions", {"messages": CHAT, "max_tokens": size, "n": rng.choice([1, 2]), **more}
    if kind == "completions":
        return "/v1/completions", {"prompt": [SUM, "Hello"], "max_tokens": size, **more}
    if kind == "diffulex":
        return "/generate", {"prompt": SUM, "max_tokens": size, **more}
    ignore = more.pop("ignore_eos")
    return "/generate", {"text": SUM, "sampling_params": {"max_new_tokens": size, "ignore_eos": ignore}, **more}


async def run(client: httpx.AsyncClient, rng: random.Random) -> str:
    """One request, read to its end or left at a random moment."""
    path, body = random_request(rng)
    work = asyncio.create_task(_whole(client, path, body))
    patience = rng.uniform(0.0, 1.5) if rng.random() < 0.4 else None
    done, _ = await asyncio.wait([work], timeout=patience)
    if done:
        return work.result()
    work.cancel()
    await asyncio.wait([work])
    return "left"


async def _whole(client: httpx.AsyncClient, path: str, body: Json) -> str:
    if body["stream"]:
        assert await events(client, path, body)
        return "streamed"
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    reply: Any = response.json()
    assert reply
    return "answered"


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
async def test_64_mixed_requests_with_random_disconnects_leave_nothing_behind(
    stack: Stack, rounds: int, record_property: Callable[[str, object], None]
) -> None:
    ends: Counter[str] = Counter()
    for turn in range(rounds):
        async with client_of(stack.url) as client:
            rngs = [random.Random(f"{turn}-{seed}") for seed in range(64)]
            ends.update(await asyncio.gather(*(run(client, rng) for rng in rngs)))
    assert min(ends["left"], ends["streamed"], ends["answered"]) >= 5 * rounds, ends
    await asyncio.to_thread(stack.wait_idle)
    now = stack.engine()
    assert (now["num_requests_running"], now["num_requests_waiting"], now["kv_cache_usage_perc"]) == (0, 0, 0)
    async with client_of(stack.url) as client:
        [[answer], _] = await unary(client, "/v1/chat/completions", {"messages": CHAT})
    assert answer.text == ANSWER
    summary = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    record_property("figure", f"{64 * rounds} mixed requests: {summary}; no request and no page left")
