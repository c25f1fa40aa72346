"""The engine under asyncio: delivery, cancellation, deadlines, shutdown."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

import pytest

from pydllm import DiffusionParams, SamplingParams, _core
from pydllm.engine import AsyncEngine, AsyncGeneration, EngineConfig, load
from pydllm.engine.generation import MAX_PENDING_SNAPSHOTS
from pydllm.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineStoppedError,
    InvalidRequestError,
    PydllmError,
    QueueFullError,
    RequestCancelledError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PROMPT = [1, 2, 3]
SHORT = SamplingParams(max_tokens=8, ignore_eos=True)
ENDLESS = DiffusionParams(algorithm="llada_schedule", extra={"steps": 1_000_000})
"""Idle steps for minutes: it ends when somebody ends it."""
CRAWL = DiffusionParams(algorithm="llada_schedule", block_length=1, extra={"steps": 1_000_000})
"""A token in the first step, the next one thousands of idle steps later."""


def config(**options: int) -> EngineConfig:
    return EngineConfig.from_options(max_model_len=64, kv_cache_tokens=512, debug_checks=True, **options)


@pytest.fixture
async def engine(tiny_checkpoint: Path) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(load(tiny_checkpoint, config()))
    yield engine
    await engine.close()


async def started(generation: AsyncGeneration) -> AsyncGeneration:
    _, event = await anext(generation)
    assert event.kind == "started"
    return generation


async def endless(engine: AsyncEngine, n: int = 1) -> AsyncGeneration:
    """A running request."""
    return await started(
        engine.generate(PROMPT, sampling=SamplingParams(max_tokens=8, n=n, ignore_eos=True), diffusion=ENDLESS)
    )


async def completed(engine: AsyncEngine, sampling: SamplingParams = SHORT) -> list[list[int]]:
    """Token ids by candidate."""
    tokens: list[list[int]] = [[] for _ in range(sampling.n or 1)]
    async for index, event in engine.generate(PROMPT, sampling=sampling):
        tokens[index] += event.final_tokens
    return tokens


async def assert_idle(engine: AsyncEngine) -> None:
    """Commands are obeyed in order, so after another request has ended every earlier cancellation has happened."""
    await completed(engine)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used, stats.integrity) == (0, 0, 0, "")


async def test_events_come_in_order_and_end(engine: AsyncEngine) -> None:
    events = [event async for _, event in engine.generate(PROMPT, sampling=SHORT)]
    assert events[0].kind == "started"
    assert [event.kind for event in events].count("finished") == 1
    assert events[-1].kind == "finished"
    offset = 0
    for event in events:
        assert event.final_offset == offset
        offset += len(event.final_tokens)
    assert offset == 8
    await assert_idle(engine)


async def test_candidates_are_the_seeds_one_by_one(engine: AsyncEngine) -> None:
    sampling = {"max_tokens": 12, "temperature": 1, "ignore_eos": True}
    together = await completed(engine, SamplingParams(seed=2**64 - 2, n=4, **sampling))
    alone = [
        (await completed(engine, SamplingParams(seed=seed, **sampling)))[0] for seed in (2**64 - 2, 2**64 - 1, 0, 1)
    ]
    assert together == alone
    assert len({tuple(tokens) for tokens in together}) == 4


async def test_many_requests_share_steps(engine: AsyncEngine) -> None:
    results = await asyncio.gather(*(completed(engine) for _ in range(40)))
    assert all(result == results[0] for result in results)
    stats = engine.stats()
    assert stats.steps < stats.request_forwards / 3


@pytest.mark.parametrize("leave", ["aclose", "async with", "cancel", "forget", "task"])
async def test_leaving_early_cancels_every_candidate(engine: AsyncEngine, leave: str) -> None:
    generation = await endless(engine, n=3)
    if leave == "aclose":
        await generation.aclose()
        await generation.aclose()
    elif leave == "async with":
        async with generation:
            pass
    elif leave == "cancel":
        generation.cancel()
        with pytest.raises(StopAsyncIteration):
            await anext(generation)
    elif leave == "forget":
        del generation
        gc.collect()
    else:
        await cancel_a_reader(generation)
    await assert_idle(engine)
    assert engine.stats().requests_failed == 3


async def cancel_a_reader(generation: AsyncGeneration) -> None:
    async def read() -> None:
        async for _ in generation:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_ending_one_candidate_leaves_the_others(engine: AsyncEngine) -> None:
    sampling = SamplingParams(max_tokens=8, n=2, ignore_eos=True)
    generation = engine.generate(PROMPT, sampling=sampling)
    seen: dict[int, list[str]] = {0: [], 1: []}
    async for index, event in generation:
        seen[index].append(event.kind)
        if index == 0:
            generation.end(0)
            generation.end(0)
    assert seen[0] == ["started"]
    assert seen[1][-1] == "finished"
    await assert_idle(engine)


async def test_a_deadline_ends_running_candidates_with_what_is_final(engine: AsyncEngine) -> None:
    sampling = SamplingParams(max_tokens=8, ignore_eos=True, n=2)
    begin = time.monotonic()
    generation = engine.generate(PROMPT, sampling=sampling, diffusion=CRAWL, deadline_seconds=0.5)
    events = [(index, event) async for index, event in generation]
    assert time.monotonic() - begin < 5
    for candidate in (0, 1):
        own = [event for index, event in events if index == candidate]
        assert (own[-1].kind, own[-1].finish_reason) == ("finished", "step_limit")
        assert sum(len(event.final_tokens) for event in own) == 1
        assert own[-1].forward_passes > 1
    await assert_idle(engine)


async def test_a_deadline_in_the_queue_is_an_error(tiny_checkpoint: Path) -> None:
    engine = AsyncEngine(load(tiny_checkpoint, config(max_running_requests=1, max_waiting_requests=1)))
    running = await endless(engine)
    queued = engine.generate(PROMPT, sampling=SHORT, deadline_seconds=0.1)
    without_place = engine.submit_when_possible(engine.prepare(PROMPT, SHORT), deadline_seconds=0.05)
    with pytest.raises(DeadlineExceededError, match="place in the queue"):
        await without_place
    with pytest.raises(DeadlineExceededError, match="queued"):
        await anext(queued)
    running.cancel()
    await assert_idle(engine)
    await engine.close()


@pytest.mark.parametrize("deadline", [0, -1, -1e300])
async def test_a_deadline_in_the_past_costs_no_forward(engine: AsyncEngine, deadline: float) -> None:
    with pytest.raises(DeadlineExceededError):
        async for _ in engine.generate(PROMPT, sampling=SamplingParams(n=2), deadline_seconds=deadline):
            pass
    assert engine.stats().request_forwards == 0
    await assert_idle(engine)


async def test_a_far_deadline_is_no_deadline(engine: AsyncEngine) -> None:
    async for _ in engine.generate(PROMPT, sampling=SHORT, deadline_seconds=1e300):
        pass


@pytest.mark.parametrize(
    ("prompt", "sampling", "diffusion", "kind", "field"),
    [
        ([], None, None, InvalidRequestError, "prompt"),
        ([352], None, None, InvalidRequestError, "prompt"),
        ([-1], None, None, InvalidRequestError, "prompt"),
        ([1] * 64, None, None, ContextLengthError, "prompt"),
        ([1], SamplingParams(max_tokens=64), None, ContextLengthError, "sampling.max_tokens"),
        ([1], SamplingParams(stop_token_ids=[352]), None, InvalidRequestError, "sampling.stop_token_ids"),
        ([1], None, DiffusionParams(algorithm="x"), InvalidRequestError, "diffusion.algorithm"),
        ([1], None, DiffusionParams(extra={"x": 1}), InvalidRequestError, "diffusion.extra.x"),
        ([1], None, DiffusionParams(entropy_threshold=1), UnsupportedError, "diffusion.entropy_threshold"),
        (
            [1],
            None,
            DiffusionParams(confidence_threshold=2),
            InvalidRequestError,
            "diffusion.confidence_threshold",
        ),
        ([1], None, DiffusionParams(block_length=10**7), InvalidRequestError, "diffusion.block_length"),
        (
            [1],
            None,
            DiffusionParams(extra={"remasking": "x"}),
            InvalidRequestError,
            "diffusion.extra.remasking",
        ),
    ],
)
async def test_a_bad_request_raises_at_once_and_names_the_field(
    engine: AsyncEngine,
    prompt: list[int],
    sampling: SamplingParams | None,
    diffusion: DiffusionParams | None,
    kind: type[InvalidRequestError],
    field: str,
) -> None:
    with pytest.raises(kind) as caught:
        engine.generate(prompt, sampling=sampling, diffusion=diffusion)
    assert caught.value.field == field
    assert str(caught.value).count(field) == 1 or field.startswith("prompt")
    assert "\n" not in str(caught.value)


async def test_a_full_queue_refuses_and_takes_nothing(tiny_checkpoint: Path) -> None:
    engine = AsyncEngine(load(tiny_checkpoint, config(max_running_requests=1, max_waiting_requests=2)))
    running = await endless(engine)
    waiting = engine.generate(PROMPT, sampling=SHORT)
    with pytest.raises(QueueFullError):
        engine.generate(PROMPT, sampling=SamplingParams(n=2))
    later = asyncio.create_task(engine.submit_when_possible(engine.prepare(PROMPT, SamplingParams(n=2))))
    await asyncio.sleep(0)
    assert not later.done()
    running.cancel()
    assert [event.kind async for _, event in waiting][-1] == "finished"
    assert [event.kind async for _, event in await later].count("finished") == 2
    await assert_idle(engine)
    await engine.close()


async def test_close_ends_everything_with_one_error_each(tiny_checkpoint: Path) -> None:
    engine = AsyncEngine(load(tiny_checkpoint, config(max_running_requests=1)))
    running = await endless(engine)
    queued = engine.generate(PROMPT)
    await asyncio.gather(engine.close(), engine.close())
    for generation in (running, queued):
        with pytest.raises(EngineStoppedError):
            async for _ in generation:
                pass
    with pytest.raises(EngineStoppedError):
        engine.generate(PROMPT)
    await engine.close()


async def test_close_wakes_who_waits_for_room(tiny_checkpoint: Path) -> None:
    engine = AsyncEngine(load(tiny_checkpoint, config(max_running_requests=1, max_waiting_requests=1)))
    running = await endless(engine)
    queued = engine.generate(PROMPT)
    waiter = asyncio.create_task(engine.submit_when_possible(engine.prepare(PROMPT)))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineStoppedError):
        await waiter
    assert running is not queued


async def test_a_slow_reader_misses_snapshots_but_nothing_final(engine: AsyncEngine) -> None:
    steps = 6 * MAX_PENDING_SNAPSHOTS
    slow_steps = DiffusionParams(algorithm="llada_schedule", extra={"steps": steps})
    slow = engine.generate(PROMPT, sampling=SHORT, diffusion=slow_steps, snapshots=True)
    async for _ in engine.generate(PROMPT, sampling=SHORT, diffusion=slow_steps):
        pass  # submitted later with as many steps: when it is done the slow one's events are all there
    events = [event async for _, event in slow]
    assert events[-1].kind == "finished"
    assert events[-1].forward_passes == steps
    assert len(events) <= MAX_PENDING_SNAPSHOTS + 10
    assert [token for event in events for token in event.final_tokens] == (await completed_slowly(engine, slow_steps))


async def completed_slowly(engine: AsyncEngine, diffusion: DiffusionParams) -> list[int]:
    generation = engine.generate(PROMPT, sampling=SHORT, diffusion=diffusion)
    return [token async for _, event in generation for token in event.final_tokens]


async def test_two_engines_in_one_loop(engine: AsyncEngine, tiny_checkpoint: Path) -> None:
    other = AsyncEngine(load(tiny_checkpoint, config()))
    results = await asyncio.gather(*(completed(one) for one in (engine, other) * 4))
    assert all(result == results[0] for result in results)
    await other.close()


def test_one_loop_after_another(tiny_checkpoint: Path) -> None:
    engine = AsyncEngine(load(tiny_checkpoint, config()))
    first = asyncio.run(completed(engine))
    asyncio.run(abandoning(engine))
    assert asyncio.run(completed(engine)) == first
    asyncio.run(assert_idle(engine))
    asyncio.run(engine.close())


async def abandoning(engine: AsyncEngine) -> None:
    """Leaves the loop with a cancelled request whose last event nobody has read."""
    (await endless(engine)).cancel()


async def test_two_loops_at_a_time_are_refused(engine: AsyncEngine) -> None:
    generation = await endless(engine)
    with pytest.raises(PydllmError, match="event loop"):
        await asyncio.to_thread(lambda: asyncio.run(completed(engine)))
    generation.cancel()
    await assert_idle(engine)


async def test_cancelling_in_the_core_is_an_error_for_the_reader(engine: AsyncEngine) -> None:
    generation = await endless(engine, n=2)
    core: _core.Engine = engine.loaded.core
    core.cancel(generation._candidates.running()[0])
    with pytest.raises(RequestCancelledError):
        async for _ in generation:
            pass
    await assert_idle(engine)
    assert engine.stats().requests_failed == 2
