"""A request that the engine has taken, and what its answer shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

from pydllm.server.candidate import Candidate
from pydllm.text import CandidateAssembler

if TYPE_CHECKING:
    from pydllm.engine import AsyncGeneration
    from pydllm.server import convert
    from pydllm.server.metrics import Observer
    from pydllm.server.served import Served
    from pydllm.text.events import Event


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request that the engine has taken."""

    request_id: str
    served: Served
    generation: AsyncGeneration
    prompt_ids: list[int]
    """What stands before the answer."""
    echo_text: str | None
    """The prompt's text when it is part of the output."""
    output: convert.OutputOptions
    observer: Observer

    @property
    def prompt_tokens(self) -> int:
        """Tokens that were given."""
        return self.generation.request.prompt_tokens

    def candidates(self) -> list[Candidate]:
        """One per candidate, nothing accepted yet."""
        request = self.generation.request
        offset = 0 if self.echo_text is None else len(self.prompt_ids)
        return [
            Candidate(
                index,
                self._assembler(),
                ended_by_token=request.ended_by_token,
                generated=request.generated,
                offset=offset,
            )
            for index in range(len(request.seeds))
        ]

    def _assembler(self) -> CandidateAssembler:
        request = self.generation.request
        return CandidateAssembler(
            self.served.tokenizer,
            stop=request.stop,
            include_stop=request.include_stop,
            skip_special_tokens=self.output.skip_special_tokens,
        )

    def accept(self, candidate: Candidate, event: Event) -> list[pb.BlockAppended]:
        """Hands a candidate its next event; the blocks that became final."""
        blocks = candidate.accept(event)
        self.observer.accepted(candidate, event, blocks)
        return blocks

    def usage(self, candidates: list[Candidate]) -> types_pb2.Usage:
        """Token counts so far."""
        return types_pb2.Usage(
            prompt_tokens=self.prompt_tokens, completion_tokens=sum(c.token_count for c in candidates)
        )

    def echoed(self) -> list[pb.BlockAppended]:
        """The prompt as the first stretch of the output, when it was asked for."""
        if self.echo_text is None:
            return []
        return [pb.BlockAppended(text=self.echo_text, token_ids=self._shown(self.prompt_ids))]

    def trimmed(self, block: pb.BlockAppended) -> pb.BlockAppended:
        """The block without what was not asked for."""
        if not self.output.token_ids:
            block.ClearField("token_ids")
        return block

    def finished(self, candidate: Candidate) -> pb.CandidateFinished:
        """The end of a candidate without what was not asked for."""
        done = pb.CandidateFinished()
        if candidate.finished is not None:
            done.CopyFrom(candidate.finished)
        if not self.output.stats:
            done.ClearField("stats")
        return done

    def _shown(self, token_ids: list[int]) -> list[int]:
        return token_ids if self.output.token_ids else []


def now() -> Timestamp:
    """The wall clock, for what clients show; never for intervals."""
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
