"""One candidate of a request: core events in, stream events and the finished output out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.outputs import (
    BlockAppended,
    BlockSnapshot,
    DiffusionStats,
    Finished,
    FinishReason,
    GenerationOutput,
    Started,
    StreamEvent,
)
from pydllm.text import CandidateAssembler, Released, Tokenizer

if TYPE_CHECKING:
    from pydllm import _core
    from pydllm.engine import PreparedRequest

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "stop_token": "stop_sequence",
    "length": "length",
    "step_limit": "step_limit",
}


class Candidate:
    """Feed it the events of its candidate in order until `output` is there."""

    def __init__(
        self, tokenizer: Tokenizer, request: PreparedRequest, *, index: int = 0, prompt_index: int = 0
    ) -> None:
        self.output: GenerationOutput | None = None
        self._index = index
        self._prompt_index = prompt_index
        self._request = request
        self._assembler = CandidateAssembler(tokenizer, stop=request.stop, include_stop=request.include_stop)
        self._parts: list[str] = []
        self._blocks = 0
        self._steps_reported = 0
        self._started = 0.0
        self._first_block: float | None = None

    def accept(self, event: _core.Event) -> list[StreamEvent]:
        """What the event means for a stream. The last of a candidate is Finished."""
        if event.kind == "started":
            self._started = event.time
            return [Started(self._index, len(self._request.prompt))]
        tokens = event.final_tokens
        hit = self._assembler.feed(tokens, ending_token=self._request.ended_by_token(tokens))
        if event.kind == "finished" and hit is None:
            hit = self._assembler.finish()
        out: list[StreamEvent] = [*self._snapshot(event), *self._whole_blocks(event)]
        if hit is not None or event.kind == "finished":
            out += self._rest(event)
            out.append(self._finish(event))
        return out

    def _snapshot(self, event: _core.Event) -> list[StreamEvent]:
        if event.snapshot_block < 0:
            return []
        tokens = [None if token < 0 else token for token in event.snapshot_tokens]
        return [BlockSnapshot(self._index, event.snapshot_block, event.snapshot_step, event.snapshot_offset, tokens)]

    def _whole_blocks(self, event: _core.Event) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        for block in event.blocks:
            if block.begin >= self._assembler.token_count:  # cut off by a stop string
                break
            self._steps_reported += block.denoise_steps
            out.append(self._append(event, block.block_index, self._assembler.take(block.end), block.denoise_steps))
        return out

    def _rest(self, event: _core.Event) -> list[StreamEvent]:
        """What the end releases: the tokens of a block cut short, or text that was held back."""
        released = self._assembler.take()
        if not released.text and not released.token_ids:
            return []
        index = self._blocks if released.token_ids else max(0, self._blocks - 1)
        steps = event.denoise_steps - self._steps_reported if released.token_ids else 0
        return [self._append(event, index, released, steps)]

    def _append(self, event: _core.Event, index: int, released: Released, steps: int) -> StreamEvent:
        if self._first_block is None:
            self._first_block = event.time
        self._blocks = index + 1
        self._parts.append(released.text)
        return BlockAppended(
            self._index, index, released.token_offset, released.text, released.token_ids, max(0, steps)
        )

    def _finish(self, event: _core.Event) -> Finished:
        hit = self._assembler.stop_hit
        reason: FinishReason = "stop_sequence" if hit is not None else _REASONS[event.finish_reason]
        match: str | int | None = None
        if hit is not None:
            match = hit.stop
        elif reason == "stop_sequence":
            match = event.stop_token_id
        stats = self._stats(event)
        self.output = GenerationOutput(
            index=self._index,
            text="".join(self._parts),
            token_ids=self._assembler.token_ids,
            finish_reason=reason,
            stop_match=match,
            prompt_tokens=len(self._request.prompt),
            stats=stats,
            prompt_index=self._prompt_index,
        )
        return Finished(self._index, reason, match, self._assembler.token_count, stats)

    def _stats(self, event: _core.Event) -> DiffusionStats:
        first = event.time if self._first_block is None else self._first_block
        return DiffusionStats(
            forward_passes=event.forward_passes,
            denoise_steps=event.denoise_steps,
            blocks=self._blocks,
            tokens_per_forward=self._assembler.token_count / max(1, event.forward_passes),
            queue_time=event.queue_seconds,
            time_to_first_block=first - self._started,
            generation_time=event.time - self._started,
        )
