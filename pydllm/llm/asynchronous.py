"""AsyncLLM: the same as LLM for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pydllm.engine import AsyncEngine, AsyncGeneration, EngineConfig, PreparedRequest, find, start
from pydllm.engine.deadline import Deadline
from pydllm.llm.candidate import Candidate
from pydllm.llm.progress import progress_bar
from pydllm.llm.prompts import Chat, Prompt, Prompts, TextSide, chat_list, prompt_list
from pydllm.llm.recording import Recording

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from pydllm.engine import Progress
    from pydllm.outputs import GenerationOutput, StreamEvent, Trace
    from pydllm.params import DiffusionParams, SamplingParams
    from pydllm.text import Tokenizer


class AsyncLLM:
    """LLM's methods as coroutines and asynchronous iterators, for one event loop at a time.

    Cancelling a task cancels what it waits for. The constructor blocks while it loads; call it through
    `asyncio.to_thread` where that matters.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_model_len: int | None = None,
        load_progress: Progress | None = None,
        **engine_options: object,
    ) -> None:
        """As LLM."""
        config = EngineConfig.from_options(device=device, dtype=dtype, max_model_len=max_model_len, **engine_options)
        found = find(model, config)
        self._text = TextSide(found.checkpoint.path)
        self._engine = AsyncEngine(start(found, progress=load_progress))

    @property
    def engine(self) -> AsyncEngine:
        """The engine below: token ids in, core events out."""
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return self._text.tokenizer

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Decoding algorithms this model can run, the default first."""
        return self._engine.facts.algorithms

    async def generate(
        self,
        prompts: Prompts,
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
        progress: bool = True,
        deadline_seconds: float | None = None,
    ) -> list[GenerationOutput]:
        """As LLM.generate."""
        return await self._run(prompt_list(prompts), sampling, diffusion, progress, Deadline(deadline_seconds))

    async def chat(
        self,
        messages: Chat | Sequence[Chat],
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
        progress: bool = True,
        deadline_seconds: float | None = None,
    ) -> list[GenerationOutput]:
        """As LLM.chat."""
        return await self._run(chat_list(messages), sampling, diffusion, progress, Deadline(deadline_seconds))

    async def stream(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
        snapshots: bool = False,
        deadline_seconds: float | None = None,
    ) -> AsyncIterator[StreamEvent]:
        """As LLM.stream; a bad request raises from the first step of the iterator, from which a deadline counts."""
        deadline = Deadline(deadline_seconds)
        request = await asyncio.to_thread(self._prepare, prompt, sampling, diffusion)
        candidates = self._candidates(request, 0)
        async with self._engine.submit(request, deadline_seconds=deadline.left(), snapshots=snapshots) as generation:
            async for index, event in generation:
                news = candidates[index].accept(event)
                if candidates[index].output is not None:
                    generation.end(index)
                for item in news:
                    yield item

    async def trace(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
    ) -> Trace:
        """As LLM.trace."""
        request = await asyncio.to_thread(self._prepare, prompt, sampling, diffusion)
        recording = Recording(self.tokenizer, request)
        async with self._engine.submit(request, trace=True) as generation:
            async for _, event in generation:
                recording.accept(event)
                if recording.complete:
                    break
        return recording.trace()

    async def close(self) -> None:
        """As LLM.close."""
        await self._engine.close()

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _prepare(
        self, prompt: Prompt, sampling: SamplingParams | None, diffusion: DiffusionParams | None
    ) -> PreparedRequest:
        return self._engine.prepare(self._text.encode(prompt), sampling, diffusion)

    def _prepare_all(
        self, prompts: list[Prompt], sampling: SamplingParams | None, diffusion: DiffusionParams | None
    ) -> list[PreparedRequest]:
        return [self._prepare(prompt, sampling, diffusion) for prompt in prompts]

    def _candidates(self, request: PreparedRequest, at: int) -> list[Candidate]:
        return [Candidate(self.tokenizer, request, index=index, prompt_index=at) for index in range(len(request.seeds))]

    async def _run(
        self,
        prompts: list[Prompt],
        sampling: SamplingParams | None,
        diffusion: DiffusionParams | None,
        progress: bool,
        deadline: Deadline,
    ) -> list[GenerationOutput]:
        requests = await asyncio.to_thread(self._prepare_all, prompts, sampling, diffusion)
        places = asyncio.Semaphore(2 * self._engine.loaded.config.max_running_requests)
        with progress_bar(len(requests), enabled=progress) as advance:
            tasks = [
                asyncio.create_task(self._complete(request, at, places, advance, deadline))
                for at, request in enumerate(requests)
            ]
            try:
                groups = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return [output for group in groups for output in group]

    async def _complete(
        self,
        request: PreparedRequest,
        at: int,
        places: asyncio.Semaphore,
        advance: Callable[[], None],
        deadline: Deadline,
    ) -> list[GenerationOutput]:
        submit = self._engine.submit_when_possible
        async with places, await submit(request, deadline_seconds=deadline.left()) as generation:
            outputs = await self._outputs(generation, at)
        advance()
        return outputs

    async def _outputs(self, generation: AsyncGeneration, at: int) -> list[GenerationOutput]:
        candidates = self._candidates(generation.request, at)
        async for index, event in generation:
            candidates[index].accept(event)
            if candidates[index].output is not None:
                generation.end(index)
        return [candidate.output for candidate in candidates if candidate.output is not None]
