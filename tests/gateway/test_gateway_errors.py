"""Every row of the error table, unary and streamed, and nothing internal in any of them."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fake_engine import Block, Fail, block, started
from fastapi import APIRouter
from pydllm_gateway.errors import rename
from pydllm_gateway.http import StrictRoute

if TYPE_CHECKING:
    import httpx
    from fake_engine import FakeEngine
    from pydllm_gateway.server import Gateway

Code = grpc.StatusCode
TYPES = {
    400: "invalid_request_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    403: "permission_error",
    429: "rate_limit_error",
    499: "cancelled_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
TABLE: dict[str, tuple[Fail, int, str | None, str | None]] = {
    # name -> what the engine says, HTTP status, code, param
    "bad field": (
        Fail(Code.INVALID_ARGUMENT, "sampling.top_p: out of range", "INVALID_FIELD", ("sampling.top_p",)),
        400,
        "invalid_value",
        "top_p",
    ),
    "too long": (
        Fail(Code.INVALID_ARGUMENT, "too long", "CONTEXT_LENGTH_EXCEEDED"),
        400,
        "context_length_exceeded",
        None,
    ),
    "malformed": (Fail(Code.INVALID_ARGUMENT, "malformed", "MALFORMED_MESSAGE"), 400, "invalid_value", None),
    "unknown model": (Fail(Code.NOT_FOUND, "no such model", "MODEL_NOT_FOUND"), 404, "model_not_found", None),
    "not by this algorithm": (
        Fail(Code.UNIMPLEMENTED, "diffusion.cache: no", "UNSUPPORTED_BY_ALGORITHM", ("diffusion.cache",)),
        400,
        "unsupported_parameter",
        "dllm.cache",
    ),
    "id in use": (Fail(Code.ALREADY_EXISTS, "in use", "REQUEST_ID_IN_USE"), 409, "request_id_in_use", None),
    "queue full": (Fail(Code.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL"), 429, "queue_full", None),
    "too large": (Fail(Code.RESOURCE_EXHAUSTED, "large", "MESSAGE_TOO_LARGE"), 413, "request_too_large", None),
    "too large for gRPC": (Fail(Code.RESOURCE_EXHAUSTED, "larger than max"), 413, "request_too_large", None),
    "draining": (Fail(Code.UNAVAILABLE, "shutting down", "DRAINING"), 503, "unavailable", None),
    "starting": (Fail(Code.UNAVAILABLE, "loading", "STARTING"), 503, "unavailable", None),
    "gone": (Fail(Code.UNAVAILABLE, "connect failed: 10.0.0.1:50051"), 503, "unavailable", None),
    "deadline": (Fail(Code.DEADLINE_EXCEEDED, "too late"), 504, "deadline_exceeded", None),
    "aborted": (Fail(Code.CANCELLED, "aborted", "ABORTED"), 499, "aborted", None),
    "our key refused": (Fail(Code.UNAUTHENTICATED, "a valid token is required"), 503, "unavailable", None),
    "not permitted": (Fail(Code.PERMISSION_DENIED, "no"), 403, "permission_denied", None),
    "bug": (Fail(Code.INTERNAL, "internal error, id 0123456789ab"), 500, "internal_error", None),
    "a bug that talks": (Fail(Code.INTERNAL, "KeyError: /srv/secret.py"), 500, "internal_error", None),
    "unheard of": (Fail(Code.DATA_LOSS, "/srv/secret.py"), 500, "internal_error", None),
    "unknown": (Fail(Code.UNKNOWN, "Unexpected <class 'KeyError'>"), 500, "internal_error", None),
}
RETRIED = {429, 503}
SECRETS = ("secret", "10.0.0.1", "KeyError", "class", "token")


def check(error: dict[str, Any], name: str) -> None:
    fail, status, code, param = TABLE[name]
    assert (error["type"], error["code"], error["param"]) == (TYPES[status], code, param)
    assert not any(secret in error["message"] for secret in SECRETS)
    if fail.reason and not fail.fields:
        assert error["message"] == fail.message


@pytest.mark.parametrize("name", TABLE)
async def test_a_status_of_a_unary_call_becomes_its_row(
    client: httpx.AsyncClient, engine: FakeEngine, name: str
) -> None:
    fail, status, *_ = TABLE[name]
    engine.generates = [[fail]]
    response = await client.post("/v1/completions", json={"prompt": "x"})
    assert response.status_code == status
    check(response.json()["error"], name)
    assert response.headers.get("retry-after") == ("1" if status in RETRIED else None)
    assert response.headers.get("retry-after-ms") == ("1000" if status in RETRIED else None)


@pytest.mark.parametrize("name", TABLE)
async def test_a_stream_that_fails_first_fails_with_its_status(
    client: httpx.AsyncClient, engine: FakeEngine, name: str
) -> None:
    fail, status, *_ = TABLE[name]
    engine.streams = [[fail]]
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    check(response.json()["error"], name)


@pytest.mark.parametrize("name", TABLE)
async def test_a_stream_that_fails_later_ends_with_an_error_event_and_no_done(
    client: httpx.AsyncClient, engine: FakeEngine, name: str
) -> None:
    engine.streams = [[started(), block("a"), TABLE[name][0]]]
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert response.status_code == 200
    *_, last, empty = response.text.split("\n\n")
    assert empty == ""
    check(json.loads(last.removeprefix("data: "))["error"], name)
    assert "[DONE]" not in response.text


async def test_an_engine_that_dies_is_a_503_in_every_phase(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    waiting = Block()
    engine.streams = [[started(), block("a"), waiting]]
    running = asyncio.ensure_future(client.post("/v1/completions", json={"prompt": "x", "stream": True}))
    await asyncio.wait_for(waiting.reached.wait(), 20)
    await engine.stop()
    response = await running
    assert '"service_unavailable_error"' in response.text
    assert "[DONE]" not in response.text
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert response.status_code == 503


async def test_paths_and_methods_that_do_not_exist_have_the_same_body(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/nope")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "unknown_url"
    wrong = await client.get("/tokenize")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["code"] == "method_not_allowed"


async def test_a_bug_is_a_500_that_only_names_its_log_entry(
    gateway: Gateway, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter(route_class=StrictRoute)

    @router.get("/bug")
    async def bug() -> None:
        raise KeyError("/srv/secret.py")

    gateway.app.include_router(router)
    with caplog.at_level(logging.ERROR, "pydllm.gateway"):
        response = await client.get("/bug")
    message = response.json()["error"]["message"]
    assert response.status_code == 500
    assert response.headers["x-request-id"]
    assert message.startswith("internal error, id ")
    logged = [record for record in caplog.records if message in record.getMessage()]
    assert len(logged) == 1
    assert logged[0].exc_info is not None
    assert "secret" in str(logged[0].exc_info[1])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sampling.top_p", "top_p"),
        ("chat.messages[2].content", "messages[2].content"),
        ("diffusion.extra.order", "dllm.order"),
        ("sampling.top_pp", "sampling.top_pp"),
        ("other", "other"),
    ],
)
def test_the_longest_known_prefix_of_a_path_is_renamed(path: str, expected: str) -> None:
    names = {"sampling.top_p": "top_p", "chat": "x", "chat.messages": "messages", "diffusion.extra": "dllm"}
    assert rename(path, names) == expected
