"""Many calls at once, cancelled and expired at random: one terminal status each, and every page comes back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
from demo_facts import VOCABULARY
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving import Client

Code = grpc.StatusCode
STREAMS = 64


def request(rng: random.Random) -> pb.StreamGenerateRequest:
    algorithm = rng.choice(["llada_schedule", "confidence_threshold", "entropy_threshold"])
    return pb.StreamGenerateRequest(
        request=pb.GenerateRequest(
            prompt_token_ids=types_pb2.TokenIds(ids=[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 60))]),
            sampling=types_pb2.SamplingParams(
                max_tokens=rng.randint(1, 120),
                temperature=rng.choice([0.0, 1.0]),
                seed=rng.randrange(2**64),
                n=rng.choice([1, 1, 1, 2]),
                ignore_eos=True,
            ),
            diffusion=types_pb2.DiffusionParams(algorithm=algorithm, block_length=rng.choice([8, 32])),
            output=types_pb2.OutputOptions(token_ids=True),
        ),
        options=pb.StreamOptions(mode=rng.choice([1, 2, 3]), min_interval={}),
    )


async def stream(client: Client, rng: random.Random) -> Code:
    """Runs one call, perhaps with a deadline or a cancellation; checks what came of it."""
    wanted = request(rng)
    fate = rng.choice(["run", "cancel", "deadline"])
    timeout = rng.choice([0.001, rng.uniform(0.001, 1.0)]) if fate == "deadline" else None
    call = client.generation.StreamGenerate(wanted, timeout=timeout)
    cancel_after = rng.randint(0, 6) if fate == "cancel" else None
    seen: list[Any] = []
    try:
        async for message in call:
            seen.append(message)
            if cancel_after is not None and len(seen) > cancel_after:
                call.cancel()
    except (grpc.RpcError, asyncio.CancelledError):
        pass
    code = await call.code()
    assert code in (Code.OK, Code.CANCELLED, Code.DEADLINE_EXCEEDED)
    if code is Code.OK:
        check_complete(wanted, seen, cut=fate == "deadline")
    return code


def check_complete(wanted: pb.StreamGenerateRequest, seen: list[Any], *, cut: bool) -> None:
    """`cut`: a deadline may have ended it."""
    finished = [message for message in seen if message.HasField("finished")]
    assert len(finished) == wanted.request.sampling.n
    for end in finished:
        tokens = [
            token
            for message in seen
            if message.candidate_index == end.candidate_index
            for token in message.block_appended.token_ids
        ]
        if cut and end.finished.finish_reason == types_pb2.FINISH_REASON_STEP_LIMIT:
            assert len(tokens) < wanted.request.sampling.max_tokens
        else:
            assert len(tokens) == wanted.request.sampling.max_tokens


async def idle_stats(client: Client) -> Any:
    """The engine's counters once nothing runs any more."""
    async with asyncio.timeout(30):
        while True:
            stats = client.engine.stats()
            if not stats.running and not stats.waiting:
                return stats
            await asyncio.sleep(0.01)


async def test_random_cancellations_and_deadlines_lose_no_page_and_no_status(
    demo: Client, record_property: Callable[[str, object], None]
) -> None:
    before = client_totals(demo)
    rngs = [random.Random(seed) for seed in range(STREAMS)]
    codes = await asyncio.gather(*(stream(demo, rng) for rng in rngs))
    assert len(codes) == STREAMS
    assert set(codes) == {Code.OK, Code.CANCELLED, Code.DEADLINE_EXCEEDED}
    stats = await idle_stats(demo)
    assert stats.pages_used == 0
    assert stats.integrity == ""
    assert stats.requests_finished > before
    ends = ", ".join(f"{count} {code.name}" for code, count in sorted(Counter(codes).items(), key=str))
    record_property("figure", f"{STREAMS} streams: {ends}; {stats.pages_used} of {stats.pages_total} pages in use")
    assert demo.app.lifecycle.running_calls == 0
    alive = await demo.generation.Generate(
        pb.GenerateRequest(prompt="x", sampling=types_pb2.SamplingParams(max_tokens=1))
    )
    assert alive.candidates


def client_totals(client: Client) -> int:
    return int(client.engine.stats().requests_finished)


async def test_a_cancelled_request_frees_its_pages(demo: Client) -> None:
    wanted = request(random.Random(0))
    wanted.request.sampling.MergeFrom(types_pb2.SamplingParams(max_tokens=150, n=16))
    wanted.request.diffusion.algorithm = "llada_schedule"
    call = demo.generation.StreamGenerate(wanted)
    assert (await call.read()).HasField("started")
    assert demo.engine.stats().running > 0
    call.cancel()
    stats = await idle_stats(demo)
    assert stats.pages_used == 0
    assert stats.integrity == ""


async def test_answers_do_not_depend_on_who_else_is_served(demo: Client) -> None:
    wanted = [request(random.Random(seed)).request for seed in range(100, 108)]
    alone = [await demo.generation.Generate(one) for one in wanted]
    together = await asyncio.gather(*(demo.generation.Generate(one) for one in wanted))
    assert [out.candidates for out in together] == [out.candidates for out in alone]
