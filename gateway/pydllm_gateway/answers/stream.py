"""Streams of chunks. Concatenating the text of a choice's chunks gives the text of the unary answer."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydllm_proto.v1 import generation_service_pb2 as pb

from pydllm_gateway.answers.common import (
    block_facts,
    envelope,
    finish_reason,
    snapshot_facts,
    statistics,
    usage,
)
from pydllm_gateway.answers.kinds import Kind, choice
from pydllm_gateway.answers.merge import merged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from pydllm_proto.v1 import types_pb2

    from pydllm_gateway.convert.plan import Plan, Shape
    from pydllm_gateway.engine import Engine

Json = dict[str, Any]


async def chunks(engine: Engine, plan: Plan, kind: Kind) -> AsyncGenerator[Json, None]:
    """Every chunk of the answer. Closing the generator cancels the generations; ApiError when one fails."""
    requests = [pb.StreamGenerateRequest(request=call.request, options=plan.options) for call in plan.calls]
    streams = [engine.stream(request, call.names) for request, call in zip(requests, plan.calls, strict=True)]
    writer = ChunkWriter(plan.shape, kind)
    async with contextlib.aclosing(merged(streams)) as messages:
        async for number, message in messages:
            for chunk in writer.accept(number, message):
                yield chunk
    if plan.shape.include_usage:
        yield writer.closing()


@dataclass
class _Choice:
    """What a `diffusing` client has been shown of a choice, and what of it is final."""

    final: str = ""
    shown: str = ""


class ChunkWriter:
    """Turns the engine's messages into chunks. One per HTTP request; prompts are numbered from 0."""

    def __init__(self, shape: Shape, kind: Kind) -> None:
        self._shape = shape
        self._kind = kind
        self._head: Json = {}
        self._metadata = shape.metadata
        self._masks: dict[int, int] = {}
        self._usage: dict[int, types_pb2.Usage] = {}
        self._choices: dict[int, _Choice] = {}

    def accept(self, number: int, message: pb.StreamGenerateResponse) -> Iterator[Json]:
        """The chunks for a message about prompt `number`, perhaps none."""
        if message.HasField("usage"):
            self._usage[number] = message.usage
        index = number * self._shape.n + message.candidate_index
        event = message.WhichOneof("event")
        if event == "started":
            yield from self._started(number, message.started)
        elif event == "block_appended":
            yield from self._block(index, message.block_appended)
        elif event == "block_snapshot":
            yield from self._snapshot(index, message.block_snapshot, self._masks[number])
        elif event == "finished":
            yield from self._finished(index, message.finished)

    def closing(self) -> Json:
        """The last chunk: no choices, but usage."""
        return {**self._head, "choices": [], "usage": usage(self._usage.values())}

    def _chunk(self, entry: Json) -> Json:
        chunk = {**self._head, "choices": [entry]}
        if self._metadata is not None:
            chunk["metadata"], self._metadata = self._metadata, None  # on the first chunk only
        if self._shape.continuous_usage:
            chunk["usage"] = usage(self._usage.values())
        elif self._shape.include_usage:
            chunk["usage"] = None
        return chunk

    def _started(self, number: int, started: pb.StreamStarted) -> Iterator[Json]:
        self._masks[number] = started.mask_token_id
        if not self._head:
            created = started.created.seconds
            self._head = envelope(self._shape, kind=self._kind.chunk_object, created=created, model=started.model)
        if self._kind.opening is not None:
            for candidate in range(self._shape.n):
                yield self._chunk(choice(number * self._shape.n + candidate, self._kind.opening, None))

    def _block(self, index: int, block: pb.BlockAppended) -> Iterator[Json]:
        text = block.text
        if self._shape.diffusing:
            text = self._show(index, final=block.text)
        elif not (block.text or block.token_ids or self._shape.extras):
            return
        yield self._text(index, text, block_facts(block), list(block.token_ids))

    def _snapshot(self, index: int, snapshot: pb.BlockSnapshot, mask: int) -> Iterator[Json]:
        text = self._show(index, provisional=snapshot.text) if self._shape.diffusing else None
        yield self._text(index, text, snapshot_facts(snapshot, mask), [])

    def _finished(self, index: int, finished: pb.CandidateFinished) -> Iterator[Json]:
        state = self._choices.get(index, _Choice())
        if self._shape.diffusing and state.shown != state.final:
            yield self._text(index, self._show(index), None, [])
        extras = statistics(finished) if self._shape.extras else None
        yield self._chunk(choice(index, self._kind.piece(None), finish_reason(finished), dllm=extras))

    def _show(self, index: int, *, final: str = "", provisional: str = "") -> str:
        """All that a `diffusing` client should see now."""
        state = self._choices.setdefault(index, _Choice())
        state.final += final
        state.shown = state.final + provisional
        return state.shown

    def _text(self, index: int, text: str | None, facts: Json | None, token_ids: list[int]) -> Json:
        shape = self._shape
        extras = facts if shape.extras else None
        ids = token_ids if shape.token_ids and token_ids else None
        return self._chunk(choice(index, self._kind.piece(text), None, token_ids=ids, dllm=extras))
