"""Requests to the OpenAI endpoints, and their streams read strictly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "hi"},
}
"""The smallest body of each endpoint."""


async def post(client: httpx.AsyncClient, path: str, **fields: Any) -> httpx.Response:
    """The smallest body with these fields, unset ones included as they are."""
    return await client.post(path, json=LEAST[path] | fields)


async def chat(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await post(client, CHAT, **fields)


async def complete(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await post(client, COMPLETIONS, **fields)


async def stream(client: httpx.AsyncClient, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream that must be well formed and end with [DONE]."""
    response = await post(client, path, stream=True, **fields)
    assert response.status_code == 200, response.text
    events = events_of(response)
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def events_of(response: httpx.Response) -> list[str]:
    """The data of each event."""
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    events = [event for event in response.text.split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def entries(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    """What the chunks say about one choice."""
    return [entry for chunk in chunks for entry in chunk["choices"] if entry["index"] == index]


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """The concatenated text of one choice."""
    return "".join(
        entry["text"] if "text" in entry else entry["delta"].get("content") or "" for entry in entries(chunks, index)
    )


def refused(response: httpx.Response, param: str) -> dict[str, Any]:
    """The error of a 400 that names `param` in both places."""
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["param"] == param, error
    assert error["message"].startswith(param), error
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    return error
