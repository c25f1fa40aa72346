"""One candidate of a request on the wire. Unary and streaming calls share it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from google.protobuf import duration_pb2
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

from pydllm.text import CandidateProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydllm.outputs import BlockAppended, BlockSnapshot, DiffusionStats, Finished, FinishReason
    from pydllm.text import CandidateAssembler
    from pydllm.text.events import Event

_REASONS: dict[FinishReason, types_pb2.FinishReason] = {
    "stop": types_pb2.FINISH_REASON_STOP,
    "stop_sequence": types_pb2.FINISH_REASON_STOP_SEQUENCE,
    "length": types_pb2.FINISH_REASON_LENGTH,
    "step_limit": types_pb2.FINISH_REASON_STEP_LIMIT,
    "repetition": types_pb2.FINISH_REASON_REPETITION,
}


class Candidate:
    """A candidate's progress as messages.

    `ended_by_token`, `generated`: see CandidateProgress. `offset`: tokens of the output before the generated ones (an
    echoed prompt).
    """

    def __init__(
        self,
        index: int,
        assembler: CandidateAssembler,
        *,
        ended_by_token: Callable[[Sequence[int]], bool],
        generated: Callable[[int], int] = int,
        offset: int = 0,
    ) -> None:
        self.index = index
        self._progress = CandidateProgress(index, assembler, ended_by_token=ended_by_token, generated=generated)
        self._offset = offset

    @property
    def finished(self) -> pb.CandidateFinished | None:
        """The end, a new message, once the candidate is complete."""
        return None if self._progress.finished is None else _finished(self._progress.finished)

    @property
    def token_count(self) -> int:
        """Generated tokens that are the candidate's (none after a stop string)."""
        return self._progress.token_count

    def accept(self, event: Event) -> list[pb.BlockAppended]:
        """Takes the next event; the blocks that became final. `finished` is set once the candidate is complete."""
        return [self._appended(block) for block in self._progress.accept(event)]

    def snapshot(self, event: Event) -> BlockSnapshot | None:
        """The provisional block of an event that is not accepted yet, placed behind the echoed prompt."""
        shown = self._progress.snapshot(event)
        return None if shown is None else replace(shown, token_offset=self._offset + shown.token_offset)

    def _appended(self, block: BlockAppended) -> pb.BlockAppended:
        return pb.BlockAppended(
            block_index=block.block_index,
            token_offset=self._offset + block.token_offset,
            text=block.text,
            token_ids=block.token_ids,
            denoise_steps=block.denoise_steps,
        )


def _finished(end: Finished) -> pb.CandidateFinished:
    match = end.stop_match
    return pb.CandidateFinished(
        finish_reason=_REASONS[end.finish_reason],
        matched_stop=match if isinstance(match, str) else None,
        matched_stop_token_id=match if isinstance(match, int) else None,
        stats=_stats(end.stats),
    )


def _stats(stats: DiffusionStats) -> types_pb2.DiffusionStats:
    return types_pb2.DiffusionStats(
        forward_passes=stats.forward_passes,
        denoise_steps=stats.denoise_steps,
        blocks=stats.blocks,
        edited_tokens=stats.edited_tokens,
        tokens_per_forward=stats.tokens_per_forward,
        queue_time=_duration(stats.queue_time),
        time_to_first_block=_duration(stats.time_to_first_block),
        generation_time=_duration(stats.generation_time),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    """Rounded to microseconds and never negative."""
    microseconds = max(0, round(seconds * 1e6))
    return duration_pb2.Duration(seconds=microseconds // 10**6, nanos=microseconds % 10**6 * 1000)
