"""Answers from a model in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydllm.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pydllm.llm import LLM
    from pydllm.outputs import StreamEvent
    from pydllm.params import DiffusionParams, SamplingParams
    from pydllm.terminal.backend import Message
    from pydllm.terminal.cells import Key

_ANCHOR = "a"
"""Decoded before every piece, so that what a tokenizer does to the beginning of a text happens to it."""


class LocalBackend:
    """Wraps an LLM and closes it."""

    def __init__(self, llm: LLM, label: str, *, embedded: bool = False) -> None:
        self.label = label
        self.algorithms = llm.algorithms
        facts = llm.engine.facts
        self.default_params = facts.default_params
        self.attention = facts.attention
        self.block_length = facts.defaults.block_length or 0
        self.embedded = embedded
        self._llm = llm
        self._anchor = llm.tokenizer.encode(_ANCHOR, add_special_tokens=False)
        self._anchor_text = self._decode(self._anchor)

    def stream(
        self, prompt: str | list[Message], sampling: SamplingParams, diffusion: DiffusionParams, *, snapshots: bool
    ) -> Generator[StreamEvent]:
        """As Backend.stream; a bad request raises here."""
        events = self._llm.stream(prompt, sampling=sampling, diffusion=diffusion, snapshots=snapshots)
        return cast("Generator[StreamEvent]", events)

    def stream_question(
        self, question: str, sampling: SamplingParams, diffusion: DiffusionParams, *, raw: bool
    ) -> Generator[StreamEvent]:
        """The answer to one question; `raw`, or a model without a chat template, gets it as it is."""
        if not raw:
            try:
                return self.stream([{"role": "user", "content": question}], sampling, diffusion, snapshots=True)
            except UnsupportedError as error:
                if error.field != "chat":
                    raise
        return self.stream(question, sampling, diffusion, snapshots=True)

    def texts(self, keys: Sequence[Key]) -> list[str]:
        """As Backend.texts."""
        return [self._text(key) for key in keys]

    def close(self) -> None:
        """Stops the engine."""
        self._llm.close()

    def _text(self, key: Key) -> str:
        text = self._decode([*self._anchor, *key])
        return text[len(self._anchor_text) :] if text.startswith(self._anchor_text) else self._decode(key)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._llm.tokenizer.decode(ids, skip_special_tokens=True)
