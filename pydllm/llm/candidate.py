"""One candidate of a request: core events in, stream events and the finished output out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.outputs import Finished, GenerationOutput, Started, StreamEvent
from pydllm.text import CandidateAssembler, CandidateProgress, Tokenizer

if TYPE_CHECKING:
    from pydllm.engine import PreparedRequest
    from pydllm.text.events import Event


class Candidate:
    """Feed it the events of its candidate in order until `output` is there."""

    def __init__(
        self, tokenizer: Tokenizer, request: PreparedRequest, *, index: int = 0, prompt_index: int = 0
    ) -> None:
        self.output: GenerationOutput | None = None
        self._prompt_index = prompt_index
        self._prompt_tokens = request.prompt_tokens
        assembler = CandidateAssembler(tokenizer, stop=request.stop, include_stop=request.include_stop)
        self._progress = CandidateProgress(
            index, assembler, ended_by_token=request.ended_by_token, generated=request.generated
        )
        self._parts: list[str] = []

    def accept(self, event: Event) -> list[StreamEvent]:
        """What the event means for a stream: the snapshot, then what is final. The last of a candidate is Finished."""
        if self.output is not None:
            return []
        snapshot = self._progress.snapshot(event)
        blocks = self._progress.accept(event)
        self._parts += [block.text for block in blocks]
        out: list[StreamEvent] = []
        if event.kind == "started":
            out.append(Started(self._progress.index, self._prompt_tokens))
        if snapshot is not None:
            out.append(snapshot)
        out += blocks
        if self._progress.finished is not None:
            self.output = self._whole(self._progress.finished)
            out.append(self._progress.finished)
        return out

    def _whole(self, end: Finished) -> GenerationOutput:
        return GenerationOutput(
            index=end.index,
            text="".join(self._parts),
            token_ids=self._progress.token_ids,
            finish_reason=end.finish_reason,
            stop_match=end.stop_match,
            prompt_tokens=self._prompt_tokens,
            stats=end.stats,
            prompt_index=self._prompt_index,
        )
