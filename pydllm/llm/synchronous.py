"""LLM: load a model, generate text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.engine import Engine, EngineConfig, PreparedRequest, find, start
from pydllm.engine.deadline import Deadline
from pydllm.llm.candidate import Candidate
from pydllm.llm.progress import progress_bar
from pydllm.llm.prompts import Chat, Prompt, Prompts, TextSide, chat_list, prompt_list
from pydllm.llm.recording import Recording

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from pydllm.engine import Progress
    from pydllm.outputs import GenerationOutput, StreamEvent, Trace
    from pydllm.params import DiffusionParams, SamplingParams
    from pydllm.text import Tokenizer


class LLM:
    """A model and its engine. Any thread may call it, several at a time; close it or use it in a `with`
    statement.

    A prompt is text, a list of token ids, or a conversation (a list of {"role": ..., "content": ...}).
    Errors are those of pydllm.errors.
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
        """Loads a checkpoint directory or Hugging Face id; None is the embedded demo model.

        `load_progress` is called with (bytes done, bytes in all) while the weights are packed.
        `engine_options` are fields of pydllm.engine.EngineConfig. Raises CheckpointError, InvalidRequestError
        or UnsupportedError.
        """
        config = EngineConfig.from_options(device=device, dtype=dtype, max_model_len=max_model_len, **engine_options)
        found = find(model, config)
        self._text = TextSide(found.checkpoint.path)
        self._engine = Engine(start(found, progress=load_progress))

    @property
    def engine(self) -> Engine:
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

    def generate(
        self,
        prompts: Prompts,
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
        progress: bool = True,
        deadline_seconds: float | None = None,
    ) -> list[GenerationOutput]:
        """Completes one prompt or a list of any length, batched by the engine.

        One flat list: the candidates of the first prompt by index, then those of the second, and so on
        (`prompt_index`, `index`). All prompts are checked before any of them runs; the first failure cancels
        the rest and is raised.

        `deadline_seconds` counts from the call: a candidate that has denoised by then ends in time with what is
        final ("step_limit"), any other is a failure (DeadlineExceededError).
        """
        deadline = Deadline(deadline_seconds)
        requests = [self._prepare(prompt, sampling, diffusion) for prompt in prompt_list(prompts)]
        return self._run(requests, progress, deadline)

    def chat(
        self,
        messages: Chat | Sequence[Chat],
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
        progress: bool = True,
        deadline_seconds: float | None = None,
    ) -> list[GenerationOutput]:
        """`generate` for one conversation or a list of them."""
        deadline = Deadline(deadline_seconds)
        requests = [self._prepare(chat, sampling, diffusion) for chat in chat_list(messages)]
        return self._run(requests, progress, deadline)

    def stream(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
        snapshots: bool = False,
        deadline_seconds: float | None = None,
    ) -> Iterator[StreamEvent]:
        """The events of one prompt as they happen; with `snapshots` also the provisional block after each
        step.

        A bad request raises here; leaving the iterator (`close`, `break`) cancels the request. `deadline_seconds`
        as in `generate`.
        """
        deadline = Deadline(deadline_seconds)
        request = self._prepare(prompt, sampling, diffusion)
        generation = self._engine.submit(request, deadline_seconds=deadline.left(), snapshots=snapshots)
        candidates = [Candidate(self.tokenizer, request, index=index) for index in range(len(request.seeds))]

        def events() -> Iterator[StreamEvent]:
            with generation:
                for index, event in generation:
                    news = candidates[index].accept(event)
                    if candidates[index].output is not None:
                        generation.end(index)
                    yield from news

        return events()

    def trace(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingParams | None = None,
        diffusion: DiffusionParams | None = None,
    ) -> Trace:
        """Runs one prompt and records the canvas before every forward and the logits of the first."""
        request = self._prepare(prompt, sampling, diffusion)
        recording = Recording(self.tokenizer, request)
        with self._engine.submit(request, trace=True) as generation:
            for _, event in generation:
                recording.accept(event)
                if recording.complete:
                    break
        return recording.trace()

    def close(self) -> None:
        """Stops the engine; whatever still runs ends with EngineStoppedError. Idempotent."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(
        self, prompt: Prompt, sampling: SamplingParams | None, diffusion: DiffusionParams | None
    ) -> PreparedRequest:
        return self._engine.prepare(self._text.encode(prompt), sampling, diffusion)

    def _run(self, requests: list[PreparedRequest], progress: bool, deadline: Deadline) -> list[GenerationOutput]:
        candidates: dict[int, list[Candidate]] = {}
        outputs: list[list[GenerationOutput]] = [[] for _ in requests]
        running = self._engine.batch(requests, deadline_seconds=deadline.left())
        with running as batch, progress_bar(len(requests), enabled=progress) as advance:
            for at, index, event in batch:
                if at not in candidates:
                    candidates[at] = self._candidates(requests[at], at)
                candidate = candidates[at][index]
                candidate.accept(event)
                if candidate.output is None:
                    continue
                batch.end(at, index)
                if all(one.output is not None for one in candidates[at]):
                    outputs[at] = [one.output for one in candidates.pop(at) if one.output is not None]
                    advance()
        return [output for group in outputs for output in group]

    def _candidates(self, request: PreparedRequest, at: int) -> list[Candidate]:
        return [Candidate(self.tokenizer, request, index=index, prompt_index=at) for index in range(len(request.seeds))]
