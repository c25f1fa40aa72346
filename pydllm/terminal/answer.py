"""One answer as it comes in: final text, the block being denoised, and the counters below it. No terminal here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.outputs import BlockAppended, BlockSnapshot, Finished, GenerationOutput, Started
from pydllm.terminal.cells import Cell, Pieces, cells_of, masked_cells, style_of
from pydllm.terminal.layout import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydllm.outputs import StreamEvent

_ENDINGS = {
    "stop": "",
    "stop_sequence": "",
    "length": "ended by max_tokens",
    "step_limit": "ended by max_forward_passes",
    "repetition": "ended by max_repetition_run",
}


class Answer:
    """Takes the events of one candidate. Text is only ever appended."""

    def __init__(self, *, first_block: int = 0) -> None:
        """`first_block`: masked positions to show before the first step."""
        self.finished: Finished | None = None
        self.snapshot: BlockSnapshot | None = None
        self.before: BlockSnapshot | None = None
        """The snapshot of the step before, of the same block or another."""
        self.first_block_after: float | None = None
        """Seconds from the start to the first final block, as this reader saw it."""
        self._waiting = first_block
        self._prompt_tokens = 0
        self._parts: list[str] = []
        self._token_ids: list[int] = []
        self._steps = 0

    @property
    def text(self) -> str:
        """All final text so far."""
        return "".join(self._parts)

    @property
    def begun(self) -> bool:
        """A step has been made."""
        return bool(self.snapshot or self._parts or self.finished)

    def accept(self, event: StreamEvent, elapsed: float | None) -> str:
        """Takes an event that came `elapsed` seconds after the request (None: unknown); the final text it brings."""
        if isinstance(event, Started):
            self._prompt_tokens = event.prompt_tokens
        elif isinstance(event, BlockSnapshot):
            self.before, self.snapshot = self.snapshot, event
        elif isinstance(event, BlockAppended):
            return self._append(event, elapsed)
        elif isinstance(event, Finished):
            self.finished = event
            self.snapshot = None
        return ""

    def cells(self, pieces: Pieces) -> tuple[Cell, ...]:
        """The block being denoised."""
        if self.snapshot is not None:
            return cells_of(self.snapshot, pieces, self.before)
        return () if self.begun else masked_cells(self._waiting)

    def counters(self, cells: Sequence[Cell], elapsed: float | None) -> str:
        """The line below the answer: the engine's own figures at the end, before that what this reader saw.

        `elapsed`: seconds since the request, None where they would say nothing about the model.
        """
        return self._progress(cells, elapsed) if self.finished is None else _summary(self.finished)

    def output(self) -> GenerationOutput:
        """The whole candidate, once it is finished."""
        if self.finished is None:
            raise ValueError("the answer is not finished")
        return GenerationOutput(
            index=self.finished.index,
            text=self.text,
            token_ids=list(self._token_ids),
            finish_reason=self.finished.finish_reason,
            stop_match=self.finished.stop_match,
            prompt_tokens=self._prompt_tokens,
            stats=self.finished.stats,
        )

    def _append(self, event: BlockAppended, elapsed: float | None) -> str:
        if self.first_block_after is None:
            self.first_block_after = elapsed
        self._parts.append(event.text)
        self._token_ids += event.token_ids
        self._steps += event.denoise_steps
        self._waiting = 0
        if self.snapshot is not None and self.snapshot.block_index <= event.block_index:
            self.snapshot = self.before = None
        return event.text

    def _progress(self, cells: Sequence[Cell], elapsed: float | None) -> str:
        if not self.begun:
            return "waiting for the first step"
        words = []
        steps = self._steps
        tokens = len(self._token_ids) + sum(not (cell.masked or cell.ends) for cell in cells)
        if self.snapshot is not None:
            steps += self.snapshot.step + 1
            filled = sum(token is not None for token in self.snapshot.token_ids)
            words.append(f"block {self.snapshot.block_index + 1}: {filled} of {len(self.snapshot.token_ids)} cells")
        if elapsed:
            words.append(_rate(tokens / elapsed))
        words += [f"{tokens / max(1, steps):.2f} tokens/step", _counted(steps, "step")]
        if self.first_block_after is not None:
            words.append(f"first block {duration(self.first_block_after)}")
        return " · ".join(words if elapsed is None else [*words, duration(elapsed)])


def spans_of(cells: Sequence[Cell]) -> list[Span]:
    """The cells as styled text; a masked cell may stand at the end of a row, a word stays whole."""
    return [Span(cell.text, style_of(cell), free=cell.masked or cell.ends) for cell in cells]


def duration(seconds: float) -> str:
    """Three digits at least: "41 ms", "1.23 s", "120 s"."""
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def _summary(finished: Finished) -> str:
    stats = finished.stats
    words = [
        f"{stats.tokens_per_forward:.2f} tokens/forward",
        _counted(stats.forward_passes, "forward"),
        f"first block {duration(stats.time_to_first_block)}",
        duration(stats.queue_time + stats.generation_time),
    ]
    if stats.generation_time > 0:
        words.insert(0, _rate(finished.completion_tokens / stats.generation_time))
    ending = _ENDINGS.get(finished.finish_reason, finished.finish_reason)
    return " · ".join([*words, ending] if ending else words)


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.0f} tokens/s" if tokens_per_second >= 10 else f"{tokens_per_second:.1f} tokens/s"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
