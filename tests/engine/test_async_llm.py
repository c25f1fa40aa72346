"""AsyncLLM: the same answers as LLM, as coroutines."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from pydllm import LLM, AsyncLLM, DiffusionParams, SamplingParams
from pydllm.errors import DeadlineExceededError, EngineStoppedError, InvalidRequestError
from pydllm.outputs import BlockAppended, Finished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pydllm.outputs import StreamEvent

SUM = [{"role": "user", "content": "Solve: 12 + 30."}]
ENDLESS = DiffusionParams(algorithm="llada_schedule", extra={"steps": 1_000_000})


@pytest.fixture
async def llm() -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM() as llm:
        yield llm


async def test_answers_are_those_of_llm(llm: AsyncLLM, demo: LLM) -> None:
    chats = [[{"role": "user", "content": f"Solve: {a} + 17."}] for a in range(30)]
    sampling = SamplingParams(n=2, temperature=0.7, seed=5)
    outputs = await llm.chat(chats, sampling=sampling)
    expected = demo.chat(chats, sampling=sampling)
    assert [(o.prompt_index, o.index, o.token_ids, o.text) for o in outputs] == [
        (o.prompt_index, o.index, o.token_ids, o.text) for o in expected
    ]


async def test_stream_and_trace(llm: AsyncLLM) -> None:
    texts = [event.text async for event in llm.stream(SUM) if isinstance(event, BlockAppended)]
    assert "".join(texts) == "12 + 30 = 42"
    trace = await llm.trace(SUM)
    assert trace.output.text == "12 + 30 = 42"
    assert (await llm.generate(SUM, sampling=SamplingParams(stop=["30"])))[0].text == "12 + "


async def test_a_deadline_ends_with_what_is_final(llm: AsyncLLM) -> None:
    crawl = DiffusionParams(algorithm="llada_schedule", block_length=1, extra={"steps": 1_000_000})
    sampling = SamplingParams(max_tokens=8, ignore_eos=True)
    streaming = llm.stream(SUM, sampling=sampling, diffusion=crawl, deadline_seconds=1, snapshots=True)
    outputs, events = await asyncio.gather(
        llm.chat([SUM, SUM], sampling=sampling, diffusion=crawl, deadline_seconds=1), collected(streaming)
    )
    assert [(output.text, output.finish_reason) for output in outputs] == [("1", "step_limit")] * 2
    assert "".join(event.text for event in events if isinstance(event, BlockAppended)) == "1"
    assert isinstance(events[-1], Finished)
    assert events[-1].finish_reason == "step_limit"
    with pytest.raises(DeadlineExceededError):
        await llm.generate([SUM, SUM], deadline_seconds=0)


async def collected(events: AsyncIterator[StreamEvent]) -> list[StreamEvent]:
    return [event async for event in events]


async def test_the_first_failure_cancels_the_rest(llm: AsyncLLM) -> None:
    with pytest.raises(InvalidRequestError):
        await llm.generate([[5], [10**6]])
    await llm.generate([5], sampling=SamplingParams(max_tokens=1))
    stats = llm.engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)


async def test_a_long_list_with_a_short_queue(tiny_checkpoint: Path) -> None:
    options = {"max_waiting_requests": 2, "max_running_requests": 16, "max_model_len": 8}
    async with AsyncLLM(tiny_checkpoint, **options) as llm:
        outputs = await llm.generate([[i] for i in range(300)], sampling=SamplingParams(max_tokens=1))
        assert [output.prompt_index for output in outputs] == list(range(300))


async def test_cancelling_the_task_cancels_the_requests(llm: AsyncLLM) -> None:
    streaming = llm.stream([5], sampling=SamplingParams(max_tokens=8, ignore_eos=True), diffusion=ENDLESS)
    await anext(streaming)
    task = asyncio.create_task(
        llm.generate([[5], [6]], sampling=SamplingParams(max_tokens=8, ignore_eos=True), diffusion=ENDLESS)
    )
    while llm.engine.stats().running < 3:  # noqa: ASYNC110 - the engine's counter, no event of ours
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with contextlib.aclosing(streaming):  # type: ignore[type-var]
        pass
    await llm.generate([5], sampling=SamplingParams(max_tokens=1))
    stats = llm.engine.stats()
    assert (stats.running, stats.requests_failed, stats.pages_used) == (0, 3, 0)


async def test_closed_says_so(tiny_checkpoint: Path) -> None:
    llm = AsyncLLM(tiny_checkpoint, max_model_len=16)
    await llm.close()
    with pytest.raises(EngineStoppedError):
        await llm.generate([1])
