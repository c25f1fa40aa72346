"""One candidate of a request: core events in; final blocks, snapshots, the end and its statistics out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.outputs import BlockAppended, BlockSnapshot, DiffusionStats, Finished, FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydllm.text.assembler import CandidateAssembler, Released
    from pydllm.text.events import Event

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "stop_token": "stop_sequence",
    "length": "length",
    "step_limit": "step_limit",
    "repetition": "repetition",
}


class CandidateProgress:
    """Feed it the events of its candidate in order until `finished` is there; later events change nothing.

    `ended_by_token`: whether these final tokens end with the EOS or stop token that ends the request. `generated`: how
    many of the answer's first n tokens are generated ones; all of them unless there is fixed text between holes.
    """

    def __init__(
        self,
        index: int,
        assembler: CandidateAssembler,
        *,
        ended_by_token: Callable[[Sequence[int]], bool],
        generated: Callable[[int], int] = int,
    ) -> None:
        self.index = index
        self.finished: Finished | None = None
        """The end, once a stop string, a token or the engine brought it."""
        self._assembler = assembler
        self._ended_by_token = ended_by_token
        self._generated = generated
        self._blocks = 0
        self._steps_reported = 0
        self._started = 0.0
        self._first_block: float | None = None

    @property
    def token_count(self) -> int:
        """Generated tokens that are the candidate's (none after a stop string)."""
        return self._generated(self._assembler.token_count)

    @property
    def token_ids(self) -> list[int]:
        """All of them, a copy."""
        return self._assembler.token_ids

    def snapshot(self, event: Event) -> BlockSnapshot | None:
        """The provisional block that the event shows, while the candidate runs; ask before `accept`."""
        if self.finished is not None or event.snapshot_block < 0:
            return None
        tokens = [None if token < 0 else token for token in event.snapshot_tokens]
        return BlockSnapshot(
            index=self.index,
            block_index=event.snapshot_block,
            step=event.snapshot_step,
            token_offset=event.snapshot_offset,
            token_ids=tokens,
            confidences=list(event.snapshot_confidences),
        )

    def accept(self, event: Event) -> list[BlockAppended]:
        """Takes the next event; the blocks that became final with it, and at the end what was held back."""
        if self.finished is not None:
            return []
        if event.kind == "started":
            self._started = event.time
            return []
        ended = event.kind == "finished"
        hit = self._assembler.feed(event.final_tokens, ending_token=self._ends_with(event.final_tokens))
        if ended and hit is None:
            hit = self._assembler.finish()
        blocks = self._whole_blocks(event)
        if ended or hit is not None:
            blocks += self._rest(event)
            self.finished = self._end(event)
        return blocks

    def _ends_with(self, tokens: Sequence[int]) -> bool:
        """Whether the last of the tokens ends the candidate; a fixed one never does."""
        end = self._assembler.token_count + len(tokens)
        return self._ended_by_token(tokens) and self._generated(end) > self._generated(end - 1)

    def _whole_blocks(self, event: Event) -> list[BlockAppended]:
        out = []
        for block in event.blocks:
            if block.begin >= self._assembler.token_count:  # cut off by a stop string
                break
            self._steps_reported += block.denoise_steps
            out.append(self._appended(event, block.block_index, self._assembler.take(block.end), block.denoise_steps))
        return out

    def _rest(self, event: Event) -> list[BlockAppended]:
        """What the end releases: a block cut short, or text that was held back behind earlier blocks."""
        released = self._assembler.take()
        if released.token_ids:
            steps = max(0, event.denoise_steps - self._steps_reported)
            return [self._appended(event, self._blocks, released, steps)]
        return [self._appended(event, max(0, self._blocks - 1), released, 0)] if released.text else []

    def _appended(self, event: Event, block_index: int, released: Released, steps: int) -> BlockAppended:
        if self._first_block is None:
            self._first_block = event.time
        self._blocks = block_index + 1
        return BlockAppended(self.index, block_index, released.token_offset, released.text, released.token_ids, steps)

    def _end(self, event: Event) -> Finished:
        hit = self._assembler.stop_hit
        reason: FinishReason = "stop_sequence" if hit is not None else _REASONS[event.finish_reason]
        match: str | int | None = None
        if hit is not None:
            match = hit.stop
        elif reason == "stop_sequence":
            match = event.stop_token_id
        return Finished(self.index, reason, match, self.token_count, self._stats(event))

    def _stats(self, event: Event) -> DiffusionStats:
        first = event.time if self._first_block is None else self._first_block
        return DiffusionStats(
            forward_passes=event.forward_passes,
            denoise_steps=event.denoise_steps,
            blocks=self._blocks,
            edited_tokens=event.edited_tokens,
            tokens_per_forward=self.token_count / event.forward_passes if event.forward_passes else 0.0,
            queue_time=event.queue_seconds,
            time_to_first_block=first - self._started,
            generation_time=event.time - self._started,
        )
