"""One candidate of a request: core events in, final text and statistics out. Unary and streaming calls share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import duration_pb2
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

from pydllm.server.outbox import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydllm.server.events import Event
    from pydllm.text import CandidateAssembler, Released

_REASONS = {
    "stop": types_pb2.FINISH_REASON_STOP,
    "stop_token": types_pb2.FINISH_REASON_STOP_SEQUENCE,
    "length": types_pb2.FINISH_REASON_LENGTH,
    "step_limit": types_pb2.FINISH_REASON_STEP_LIMIT,
}


def duration(seconds: float) -> duration_pb2.Duration:
    """A Duration, rounded to microseconds and never negative."""
    microseconds = max(0, round(seconds * 1e6))
    return duration_pb2.Duration(seconds=microseconds // 10**6, nanos=microseconds % 10**6 * 1000)


class Candidate:
    """What has become of one candidate.

    `ended_by_token`: whether these final tokens end with the EOS or stop token that ends the request.
    `offset`: tokens of the output before the generated ones (an echoed prompt).
    """

    def __init__(
        self,
        index: int,
        assembler: CandidateAssembler,
        *,
        ended_by_token: Callable[[Sequence[int]], bool],
        offset: int = 0,
    ) -> None:
        self.index = index
        self.finished: pb.CandidateFinished | None = None
        self._assembler = assembler
        self._ended_by_token = ended_by_token
        self._offset = offset
        self._blocks = 0
        self._steps_before = 0
        self._started = 0.0
        self._first_block: float | None = None

    @property
    def token_count(self) -> int:
        """Generated tokens that are the candidate's (none after a stop string)."""
        return self._assembler.token_count

    def accept(self, event: Event) -> list[pb.BlockAppended]:
        """Takes the next event; the blocks that became final. `finished` is set once the candidate is complete."""
        if event.kind == "started":
            self._started = event.time
            return []
        ended = event.kind == "finished"
        ending = self._ended_by_token(event.final_tokens)
        hit = self._assembler.feed(event.final_tokens, ending_token=ending)
        if ended and hit is None:
            hit = self._assembler.finish()
        blocks = self._whole_blocks(event)
        if hit is not None or ended:
            blocks += self._rest(event)
            self._finish(event)
        return blocks

    def snapshot(self, event: Event) -> Snapshot | None:
        """The provisional block of a step, when the event has one and the candidate is still running."""
        if self.finished is not None or event.snapshot_block < 0:
            return None
        return Snapshot(
            candidate=self.index,
            block_index=event.snapshot_block,
            step=event.snapshot_step,
            token_offset=self._offset + event.snapshot_offset,
            token_ids=event.snapshot_tokens,
        )

    def _whole_blocks(self, event: Event) -> list[pb.BlockAppended]:
        out = []
        for block in event.blocks:
            if block.begin >= self._assembler.token_count:  # cut off by a stop string
                break
            self._steps_before += block.denoise_steps
            out.append(self._appended(event, block.block_index, self._assembler.take(block.end), block.denoise_steps))
        return out

    def _rest(self, event: Event) -> list[pb.BlockAppended]:
        """What the end releases: a block cut short, or text that was held back behind earlier blocks."""
        released = self._assembler.take()
        if not released.text and not released.token_ids:
            return []
        steps = max(0, event.denoise_steps - self._steps_before) if released.token_ids else 0
        index = self._blocks if released.token_ids else max(0, self._blocks - 1)
        return [self._appended(event, index, released, steps)]

    def _appended(self, event: Event, index: int, released: Released, steps: int) -> pb.BlockAppended:
        if self._first_block is None:
            self._first_block = event.time
        self._blocks = index + 1
        return pb.BlockAppended(
            block_index=index,
            token_offset=self._offset + released.token_offset,
            text=released.text,
            token_ids=released.token_ids,
            denoise_steps=steps,
        )

    def _finish(self, event: Event) -> None:
        done = pb.CandidateFinished(stats=self._stats(event))
        hit = self._assembler.stop_hit
        if hit is not None:
            done.finish_reason = types_pb2.FINISH_REASON_STOP_SEQUENCE
            done.matched_stop = hit.stop
        else:
            done.finish_reason = _REASONS[event.finish_reason]
            if event.finish_reason == "stop_token":
                done.matched_stop_token_id = event.stop_token_id
        self.finished = done

    def _stats(self, event: Event) -> types_pb2.DiffusionStats:
        first = event.time if self._first_block is None else self._first_block
        return types_pb2.DiffusionStats(
            forward_passes=event.forward_passes,
            denoise_steps=event.denoise_steps,
            blocks=self._blocks,
            tokens_per_forward=self.token_count / event.forward_passes if event.forward_passes else 0.0,
            queue_time=duration(event.queue_seconds),
            time_to_first_block=duration(first - self._started),
            generation_time=duration(event.time - self._started),
        )
