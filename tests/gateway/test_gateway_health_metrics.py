"""Health never lies, and metrics say what happened with labels from fixed sets."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc
import pytest
from fake_engine import Block, Fail, FakeEngine, started
from prometheus_client.parser import text_string_to_metric_families
from raw_http import ask, get, leave, post
from rest_client import client_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    from pydllm_gateway.server import Gateway

REQUESTS = "pydllm_gateway_http_requests_total"


def samples(page: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values in the order of their names) -> value; fails on a page that Prometheus could not read."""
    families = text_string_to_metric_families(page)
    return {
        (s.name, tuple(s.labels[label] for label in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }


async def test_health_is_200_while_the_process_lives(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await engine.stop()
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready_follows_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.get("/ready")).status_code == 200
    engine.serving = False
    response = await client.get("/ready")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["type"] == "service_unavailable_error"
    engine.serving = True
    assert (await client.get("/ready")).status_code == 200


async def test_ready_is_503_without_an_engine_and_200_when_it_is_back(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await engine.stop()
    assert (await client.get("/ready")).status_code == 503
    assert (await client.post("/tokenize", json={"prompt": "x"})).status_code == 503
    await engine.start(engine.target)
    async with asyncio.timeout(20):
        while (await client.get("/ready")).status_code != 200:  # gRPC reconnects within a second
            pass
    assert (await client.post("/tokenize", json={"prompt": "x"})).status_code == 200


async def test_a_draining_gateway_is_not_ready(gateway: Gateway, client: httpx.AsyncClient) -> None:
    gateway.app.state.lifecycle.draining = True
    response = await client.get("/ready")
    assert response.status_code == 503
    assert "shutting down" in response.json()["error"]["message"]


async def test_version_names_the_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json()["version"][0].isdigit()


async def test_metrics_hold_both_processes_pages(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    page = samples(response.text)
    assert page["pydllm_num_requests_running", ()] == 0
    assert page["pydllm_gateway_http_requests_in_flight", ()] == 1


@pytest.mark.parametrize("broken", ["unreachable", "unimplemented"])
async def test_metrics_are_served_without_the_engines_part(
    client: httpx.AsyncClient, engine: FakeEngine, broken: str
) -> None:
    if broken == "unreachable":
        await engine.stop()
    else:
        engine.failures["GetMetrics"] = Fail(grpc.StatusCode.UNIMPLEMENTED)
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert not any(name.startswith("pydllm_num_requests") for name, _ in samples(response.text))


async def test_requests_are_counted_by_route_template_method_and_status(client: httpx.AsyncClient) -> None:
    await client.get("/v1/models/fake")
    await client.get("/v1/models/nope")
    await client.get("/v1/models/nope2")
    await client.get("/no/such/path")
    await client.request("FROB", "/tokenize")
    await client.post("/tokenize", json={"prompt": "x"})
    page = samples((await client.get("/metrics")).text)
    counted = {labels: value for (name, labels), value in page.items() if name == REQUESTS}
    assert counted == {
        ("GET", "/v1/models/{model:path}", "200"): 1,
        ("GET", "/v1/models/{model:path}", "404"): 2,
        ("GET", "unmatched", "404"): 1,
        ("other", "/tokenize", "405"): 1,
        ("POST", "/tokenize", "200"): 1,
    }
    assert page["pydllm_gateway_http_request_duration_seconds_count", ("/tokenize",)] == 2


async def test_a_clients_words_make_no_new_series(gateway: Gateway, client: httpx.AsyncClient) -> None:
    async def series() -> int:
        return len(samples((await client.get("/metrics")).text))

    await ask(gateway.port, get("/x"))
    await series()
    before = await series()
    for number in range(50):
        await ask(gateway.port, get(f"/x{number}", f"X-Request-Id: {number}", f"User-Agent: {number}"))
        await client.request(f"FROB{number}", "/x")
    assert await series() <= before + 13  # one method label more, "other"; its buckets are shared by route


async def test_a_stream_records_its_first_chunk(client: httpx.AsyncClient) -> None:
    await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    await client.post("/v1/completions", json={"prompt": "x"})
    page = samples((await client.get("/metrics")).text)
    assert page["pydllm_gateway_http_time_to_first_chunk_seconds_count", ("/v1/completions",)] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_counted_and_logged_as_499(
    start_gateway: Callable[..., Awaitable[Gateway]],
    engine: FakeEngine,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
    gateway = await start_gateway()
    waiting = Block()
    engine.generates, engine.streams = [[waiting]], [[started(), waiting]]
    body = b'{"prompt": "x", "stream": %s}' % (b"true" if stream else b"false")
    with caplog.at_level(logging.INFO, "pydllm.gateway.access"):
        await leave(gateway.port, post("/v1/completions", body), waiting.reached)
        await asyncio.wait_for(waiting.cancelled.wait(), 20)
        async with client_of(gateway) as client, asyncio.timeout(20):
            page = samples((await client.get("/metrics")).text)
            while (REQUESTS, ("POST", "/v1/completions", "499")) not in page:
                page = samples((await client.get("/metrics")).text)
    assert page["pydllm_gateway_http_client_disconnects_total", ("/v1/completions",)] == 1
    assert any("POST /v1/completions 499" in record.getMessage() for record in caplog.records)


async def test_every_request_is_one_log_line_that_a_client_cannot_break(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pydllm.gateway.access"):
        await ask(gateway.port, get("/v1/models/%0aINFO%20forged", 'X-Request-Id: a"b'))
    lines = [record.getMessage() for record in caplog.records if record.name == "pydllm.gateway.access"]
    assert len(lines) == 1
    assert lines[0].startswith("GET unmatched 404 ")
    assert lines[0].endswith(r'id="a\"b"')
    assert "forged" not in lines[0]
