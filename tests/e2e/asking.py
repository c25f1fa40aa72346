"""What the tests here ask over REST: unary answers and streams as plain dicts."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

Json = dict[str, Any]
SUM = "Solve: 12 + 30."
ANSWER = "12 + 30 = 42"
CHAT = [{"role": "user", "content": SUM}]
SLOW: Json = {
    "max_tokens": 200,
    "ignore_eos": True,
    "dllm": {"algorithm": "llada_schedule", "steps": 200, "block_length": 8},
}
"""Keeps the engine busy for seconds: one token per forward pass."""


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Without proxies, with room for many connections."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, limits=limits, **options) as client:
        yield client


@dataclass
class Candidate:
    """One choice: its text, every text that a reader of the stream had on the way there, and how it ended."""

    text: str = ""
    finish_reason: str | None = None
    token_ids: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


async def unary(client: httpx.AsyncClient, path: str, body: Json) -> tuple[list[Candidate], Json]:
    """The choices and the usage of a reply."""
    response = await client.post(path, json=body)
    assert response.status_code == 200, (body, response.text)
    reply = response.json()
    return [
        Candidate(_text(choice, "message"), choice["finish_reason"], choice.get("token_ids", []))
        for choice in reply["choices"]
    ], reply["usage"]


async def streamed(client: httpx.AsyncClient, path: str, body: Json) -> tuple[list[Candidate], Json]:
    """The choices put together from a stream, and its usage."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    candidates: dict[int, Candidate] = {}
    *chunks, last = await events(client, path, body)
    assert last["choices"] == []
    for chunk in chunks:
        assert chunk["usage"] is None
        for choice in chunk["choices"]:
            _add(candidates.setdefault(choice["index"], Candidate()), choice, replace=bool(body.get("diffusing")))
    return [candidates[index] for index in sorted(candidates)], last["usage"]


def _add(candidate: Candidate, choice: Json, *, replace: bool) -> None:
    assert candidate.finish_reason is None, "a chunk after the last one"
    piece = _text(choice, "delta")
    if replace:
        shown = "content" in choice["delta"] and choice["delta"].get("role") is None
        candidate.text = piece if shown else candidate.text
    else:
        candidate.text += piece
    candidate.seen.append(candidate.text)
    candidate.token_ids += choice.get("token_ids") or []
    candidate.finish_reason = choice["finish_reason"]


def _text(choice: Json, key: str) -> str:
    if "text" in choice:
        return str(choice["text"])
    return str(choice[key].get("content") or "")


async def events(client: httpx.AsyncClient, path: str, body: Json) -> list[Json]:
    """Every data line of a stream that ends well."""
    lines = []
    async with client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, (body, await response.aread())
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                lines.append(line.removeprefix("data: "))
            else:
                assert not line or line.startswith(":"), line
    assert lines.pop() == "[DONE]"
    found = [json.loads(line) for line in lines]
    assert not any("error" in event for event in found), found[-1]
    return found


async def gather(jobs: Sequence[Awaitable[Any]], limit: int = 24) -> list[Any]:
    """All results, with at most `limit` jobs at once."""
    gate = asyncio.Semaphore(limit)

    async def one(job: Awaitable[Any]) -> Any:
        async with gate:
            return await job

    return list(await asyncio.gather(*(one(job) for job in jobs)))
