"""Helpers of the terminal tests: events, a backend that plays a script, and `pydllm` on a pseudo-terminal."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydllm.errors import UnsupportedError
from pydllm.outputs import BlockAppended, BlockSnapshot, DiffusionStats, Finished, Started

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from pydllm.outputs import StreamEvent
    from pydllm.params import DiffusionParams, SamplingParams
    from pydllm.terminal.cells import Key

ROOT = Path(__file__).resolve().parents[2]
ALGORITHMS = ("confidence_threshold", "llada_schedule", "entropy_threshold")


def stats(**changes: Any) -> DiffusionStats:
    fields: dict[str, Any] = {
        "forward_passes": 4,
        "denoise_steps": 4,
        "blocks": 1,
        "edited_tokens": 0,
        "tokens_per_forward": 2.0,
        "queue_time": 0.0,
        "time_to_first_block": 0.25,
        "generation_time": 0.5,
    }
    return DiffusionStats(**{**fields, **changes})


def snapshot(tokens: Sequence[int | None], confidences: Sequence[float] = (), **changes: Any) -> BlockSnapshot:
    fields: dict[str, Any] = {"index": 0, "block_index": 0, "step": 0, "token_offset": 0}
    return BlockSnapshot(**{**fields, **changes}, token_ids=list(tokens), confidences=list(confidences))


def appended(text: str, tokens: Sequence[int] = (), *, block: int = 0, steps: int = 1) -> BlockAppended:
    return BlockAppended(0, block, 0, text, list(tokens), steps)


def finished(reason: Any = "stop", tokens: int = 8, **changes: Any) -> Finished:
    return Finished(0, reason, None, tokens, stats(**changes))


def answer_events(text: str) -> list[StreamEvent]:
    return [Started(0, 5), appended(text), finished()]


class Script:
    """A backend that answers each question with the next script, and keeps what it was asked."""

    def __init__(self, *answers: list[Any], template: bool = True, embedded: bool = False) -> None:
        self.label = "scripted"
        self.algorithms = ALGORITHMS
        self.default_params = {(ALGORITHMS[1], "remasking"): "random"}
        self.attention = "full"
        self.block_length = 8
        self.embedded = embedded
        self.template = template
        self.answers = list(answers)
        self.prompts: list[Any] = []
        self.asked: list[tuple[SamplingParams, DiffusionParams]] = []
        self.cancelled = 0

    def stream(
        self, prompt: Any, sampling: SamplingParams, diffusion: DiffusionParams, *, snapshots: bool
    ) -> Generator[StreamEvent]:
        if not isinstance(prompt, str) and not self.template:
            raise UnsupportedError("chat", "chat: no template")
        self.prompts.append(prompt)
        self.asked.append((sampling, diffusion))
        return self._play(self.answers.pop(0))

    def texts(self, keys: Sequence[Key]) -> list[str]:
        return [bytes(key).decode("utf-8", "replace") for key in keys]

    def close(self) -> None:
        pass

    def _play(self, script: list[Any]) -> Generator[StreamEvent]:
        ended = False
        try:
            for item in script:
                if isinstance(item, BaseException):
                    raise item
                if callable(item):
                    item()
                    continue
                ended = isinstance(item, Finished)
                yield item
        finally:
            self.cancelled += not ended


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without PYDLLM_… of its own, able to import the working tree."""
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYDLLM_") and key not in dropped}
    paths = [str(ROOT), str(ROOT / "proto/python"), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "TERM": "xterm-256color", **variables}


_IN_ITS_OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Typist:
    """`pydllm …` with a pseudo-terminal as stdin, stdout (unless given) and stderr. `expect` reads on until a text
    comes."""

    def __init__(
        self, *arguments: str, columns: int = 100, rows: int = 24, stdout: int | None = None, **variables: str
    ) -> None:
        self.written = ""
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._terminal, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_ITS_OWN_TERMINAL, sys.executable, "-m", "pydllm", *arguments],
            stdin=other,
            stdout=other if stdout is None else stdout,
            stderr=other,
            start_new_session=True,
            env=environment(**variables),
        )
        os.close(other)

    def interrupt_at_prompt(self) -> None:
        """Ctrl-C once the prompt stands. readline misses a signal between writing its prompt and waiting for a key."""
        self.expect("> ")
        time.sleep(0.5)
        self.press("\x03")

    def press(self, text: str) -> None:
        os.write(self._terminal, text.encode("utf-8", "surrogateescape"))

    def expect(self, text: str, *, seconds: float = 60) -> str:
        """Everything since the last `expect`, up to and including the text."""
        end = time.monotonic() + seconds
        while (at := self.written.find(text, self._seen)) < 0:
            assert time.monotonic() < end, f"{text!r} did not come: {self.written[self._seen :]!r}"
            assert self._read(), f"it ended without {text!r}: {self.written[self._seen :]!r}"
        begin, self._seen = self._seen, at + len(text)
        return self.written[begin : self._seen]

    def ask(self, text: str) -> None:
        """Waits for the prompt and types a line."""
        self.expect("> ")
        self.press(text + "\r")

    def end(self, *, seconds: float = 60) -> int:
        """Reads to the end; the exit code."""
        limit = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < limit, f"it goes on: {self.written[-200:]!r}"
        return self.process.wait(60)

    def __enter__(self) -> Typist:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._terminal)

    def _read(self) -> bool:
        select.select([self._terminal], [], [], 1)
        if not select.select([self._terminal], [], [], 0)[0]:
            return True
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # the other side is closed
            return False
        self.written += self._decoder.decode(data)
        return bool(data)


def waiting(gate: Any) -> Callable[[], None]:
    """A script item that waits for an event."""
    return lambda: gate.wait(30)
