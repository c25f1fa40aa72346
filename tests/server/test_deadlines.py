"""A call's deadline is a budget of time: the answer so far arrives before it, in every form."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2
from serving import Client, refused

from pydllm.server import generation_service

TIMEOUT = 3.0


def slow_request(n: int = 1) -> pb.GenerateRequest:
    """A token in its first forward, the next one thousands of idle steps later."""
    diffusion = types_pb2.DiffusionParams(algorithm="llada_schedule", block_length=1)
    diffusion.extra.update({"steps": 1_000_000})
    return pb.GenerateRequest(
        prompt="Solve: 12 + 30.",
        sampling=types_pb2.SamplingParams(max_tokens=8, ignore_eos=True, n=n),
        diffusion=diffusion,
        output=types_pb2.OutputOptions(token_ids=True, stats=True),
    )


async def first_token(client: Client) -> types_pb2.Candidate:
    request = slow_request()
    request.diffusion.max_forward_passes = 1
    return (await client.generation.Generate(request)).candidates[0]


def check_cut(expected: types_pb2.Candidate, text: str, ids: list[int], end: Any) -> None:
    assert (text, ids) == (expected.text, list(expected.token_ids))
    assert len(ids) == 1
    assert end.finish_reason == types_pb2.FINISH_REASON_STEP_LIMIT
    assert end.stats.forward_passes > 1
    assert end.stats.denoise_steps == end.stats.forward_passes
    assert end.stats.blocks == 1
    assert 0 < end.stats.generation_time.ToTimedelta().total_seconds() < TIMEOUT


async def test_unary_calls_and_streams_of_every_mode_get_the_answer_so_far_in_time(demo: Client) -> None:
    expected = await first_token(demo)
    calls = [streamed(demo, mode, expected) for mode in (1, 2, 3)]
    begin = time.monotonic()
    unary, *_ = await asyncio.gather(demo.generation.Generate(slow_request(n=2), timeout=TIMEOUT), *calls)
    assert TIMEOUT / 2 < time.monotonic() - begin < TIMEOUT
    assert len(unary.candidates) == 2
    for candidate in unary.candidates:
        check_cut(expected, candidate.text, list(candidate.token_ids), candidate)
    assert unary.usage.completion_tokens == 2
    stats = demo.engine.stats()
    assert (stats.running, stats.pages_used, stats.integrity) == (0, 0, "")


async def streamed(client: Client, mode: Any, expected: types_pb2.Candidate) -> None:
    request = pb.StreamGenerateRequest(request=slow_request(), options=pb.StreamOptions(mode=mode))
    messages = [message async for message in client.generation.StreamGenerate(request, timeout=TIMEOUT)]
    blocks = [message.block_appended for message in messages if message.HasField("block_appended")]
    ids = [token for block in blocks for token in block.token_ids]
    check_cut(expected, "".join(block.text for block in blocks), ids, messages[-1].finished)
    assert [message.sequence for message in messages] == list(range(len(messages)))


async def test_a_call_that_was_queued_until_its_deadline_is_deadline_exceeded(demo: Client) -> None:
    running = demo.generation.StreamGenerate(pb.StreamGenerateRequest(request=slow_request(n=128)))
    assert (await running.read()).HasField("started")
    failure = await refused(demo.generation.Generate(slow_request(), timeout=1))
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    running.cancel()


@pytest.mark.parametrize(("left", "engine"), [(30, 29.75), (2.5, 2.25), (1, 0.9), (0.1, 0.09)])
def test_the_engine_has_the_time_less_the_answers_way_back(
    left: float, engine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(generation_service, "time", SimpleNamespace(monotonic=lambda: now))
    seconds = generation_service._remaining(now + left)
    assert seconds == pytest.approx(engine, abs=1e-9)
    assert generation_service._remaining(None) is None
