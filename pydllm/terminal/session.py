"""A conversation: its turns, its settings and what is asked next. Draws nothing and reads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydllm.errors import UnsupportedError
from pydllm.terminal import settings as options
from pydllm.terminal.settings import SettingError, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pydllm.outputs import StreamEvent
    from pydllm.terminal.backend import Backend, Message

EMBEDDED_MEMORY = 2
"""Turns before a question that the embedded models were trained with, at most."""
SHORT_MEMORY = f"this model knows short conversations: it sees the last {EMBEDDED_MEMORY} turns (/memory on|off|N)"
NO_TEMPLATE = "this model has no chat template: it gets each line as it is, without the lines before"


@dataclass(frozen=True)
class Turn:
    """A question and its complete answer."""

    question: str
    answer: str


class Session:
    """One conversation with one model."""

    def __init__(self, backend: Backend, settings: Settings, *, notify: Callable[[str], None]) -> None:
        """`notify` is given lines that the user should see once."""
        self.backend = backend
        self.settings = settings
        self.turns: tuple[Turn, ...] = ()
        self.memory: int | None = EMBEDDED_MEMORY if backend.embedded else None
        """A question goes out with so many turns before it; None: with all."""
        self._notify = notify
        self._raw = False
        self._told = False
        self._last: str | None = None
        self._kept = 0
        """Turns that belong before the last question."""

    @property
    def last_question(self) -> str:
        """What was asked last; SettingError when nothing was."""
        if self._last is None:
            raise SettingError("nothing was asked yet")
        return self._last

    @property
    def first_block(self) -> int:
        """Positions that the first block of the next answer has, as far as is known here."""
        asked = self.settings.params.get("block_length")
        length = int(asked or self.backend.block_length or options.default_block_length(self.settings))
        return min(length, int(self.settings.sampling.get("max_tokens", length)))

    def forget(self) -> None:
        """Begins a new conversation; the settings stay."""
        self.turns, self._last, self._kept = (), None, 0

    def ask(self, question: str, *, again: bool = False, snapshots: bool = True) -> Generator[StreamEvent]:
        """The events of the answer. `again` asks in place of the last question. Errors are those of the backend."""
        self._kept = self._kept if again else len(self.turns)
        self._last = question
        self._tell_memory()
        if not self._raw:
            try:
                return self._stream(self._messages(question), snapshots)
            except UnsupportedError as error:
                if error.field != "chat":
                    raise
            self._raw = True
            self._notify(NO_TEMPLATE)
        if self.settings.system:
            raise SettingError("system: this model has no chat template; /system without a text takes it away")
        return self._stream(question, snapshots)

    def answered(self, answer: str) -> None:
        """The last question got its complete answer."""
        self.turns = (*self.turns[: self._kept], Turn(self.last_question, answer))

    def transcript(self) -> list[Message]:
        """The conversation so far as messages."""
        return self._conversation(self.turns)

    def _tell_memory(self) -> None:
        if self.backend.embedded and self.memory == EMBEDDED_MEMORY < self._kept and not self._told:
            self._told = True
            self._notify(SHORT_MEMORY)

    def _stream(self, prompt: str | list[Message], snapshots: bool) -> Generator[StreamEvent]:
        sampling, diffusion = self.settings.sampling_params(), self.settings.diffusion_params()
        return self.backend.stream(prompt, sampling, diffusion, snapshots=snapshots)

    def _messages(self, question: str) -> list[Message]:
        first = 0 if self.memory is None else max(0, self._kept - self.memory)
        return [*self._conversation(self.turns[first : self._kept]), {"role": "user", "content": question}]

    def _conversation(self, turns: tuple[Turn, ...]) -> list[Message]:
        messages = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        for turn in turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages
