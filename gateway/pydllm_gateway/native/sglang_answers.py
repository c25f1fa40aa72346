"""SGLang's replies. Each chunk of a stream holds everything so far, so it replaces the one before it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydllm_proto.v1 import types_pb2

from pydllm_gateway.answers.common import block_facts, finish_reason, snapshot_facts, statistics, stop_match
from pydllm_gateway.native.requests import all_of, stream_all

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from pydllm_proto.v1 import generation_service_pb2 as pb

    from pydllm_gateway.convert.plan import Call
    from pydllm_gateway.engine import Engine
    from pydllm_gateway.native.requests import Plan

    Ended = types_pb2.Candidate | pb.CandidateFinished

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What replies look like. `batch`: whether they are a list, and chunks numbered; `start`: when the request came,
    on the monotonic clock."""

    batch: bool
    start: float

    @property
    def latency(self) -> float:
        """Seconds since the request came."""
        return round(time.monotonic() - self.start, 6)


async def answer(engine: Engine, plan: Plan, form: Form) -> Json | list[Json]:
    """One reply, or one for each candidate of each prompt, prompt by prompt."""
    answers = await all_of([_replies(engine, call, plan, form) for call in plan.calls])
    replies = [reply for answer in answers for reply in answer]
    return replies if form.batch else replies[0]


async def _replies(engine: Engine, call: Call, plan: Plan, form: Form) -> list[Json]:
    response = await engine.generate(call.request, call.names)
    candidates = sorted(response.candidates, key=lambda candidate: candidate.index)
    return [_whole(response, candidate, plan, form) for candidate in candidates]


async def chunks(engine: Engine, plan: Plan, form: Form) -> AsyncGenerator[Json, None]:
    """Every chunk. Closing the generator cancels the generations; ApiError when one fails."""
    writers = _writers(plan, form)
    async with contextlib.aclosing(stream_all(engine, plan)) as messages:
        async for number, message in messages:
            for chunk in writers[number].accept(message):
                yield chunk


def _writers(plan: Plan, form: Form) -> list[_Writer]:
    writers, first = [], 0
    for call in plan.calls:
        writers.append(_Writer(call.request.request_id, plan, form, first))
        first += max(1, call.request.sampling.n)
    return writers


@dataclass
class _Candidate:
    """What a candidate has so far."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)


class _Writer:
    """Chunks for the messages of one call, whose candidates are numbered from `first`."""

    def __init__(self, request_id: str, plan: Plan, form: Form, first: int) -> None:
        self._id = request_id
        self._extras = plan.extras
        self._form = form
        self._first = first
        self._mask = 0
        self._usage = types_pb2.Usage()
        self._candidates: dict[int, _Candidate] = {}

    def accept(self, message: pb.StreamGenerateResponse) -> Iterator[Json]:
        """The chunk for a message, if it has one."""
        if message.HasField("usage"):
            self._usage = message.usage
        state = self._candidates.setdefault(message.candidate_index, _Candidate())
        event = message.WhichOneof("event")
        if event == "started":
            self._mask = message.started.mask_token_id
            self._usage.prompt_tokens = message.started.prompt_tokens
        elif event == "block_appended":
            state.text += message.block_appended.text
            state.token_ids.extend(message.block_appended.token_ids)
            yield self._chunk(message, state, block_facts(message.block_appended))
        elif event == "block_snapshot":
            yield self._chunk(message, state, snapshot_facts(message.block_snapshot, self._mask))
        elif event == "finished":
            yield self._chunk(message, state, statistics(message.finished), message.finished)

    def _chunk(self, message: Any, state: _Candidate, facts: Json, ended: Ended | None = None) -> Json:
        meta = _meta(self._id, state.token_ids, self._usage, ended, self._form)
        chunk = _reply(state.text, state.token_ids, meta, facts if self._extras else None)
        return {**chunk, "index": self._first + message.candidate_index} if self._form.batch else chunk


def _whole(response: pb.GenerateResponse, candidate: types_pb2.Candidate, plan: Plan, form: Form) -> Json:
    ids = list(candidate.token_ids)
    meta = _meta(response.request_id, ids, response.usage, candidate, form)
    return _reply(candidate.text, ids, meta, statistics(candidate) if plan.extras else None)


def _reply(text: str, token_ids: Sequence[int], meta: Json, dllm: Json | None) -> Json:
    reply = {"text": text, "output_ids": list(token_ids), "meta_info": meta}
    return reply if dllm is None else {**reply, "dllm": dllm}


def _meta(rid: str, ids: Sequence[int], usage: types_pb2.Usage, ended: Ended | None, form: Form) -> Json:
    meta = {
        "id": rid,
        "finish_reason": None if ended is None else finish(ended, ids),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": len(ids),
        "cached_tokens": usage.cached_prompt_tokens,
    }
    return meta if ended is None else {**meta, "e2e_latency": form.latency}


def finish(ended: Ended, token_ids: Sequence[int]) -> Json:
    """SGLang's finish_reason: what matched for "stop" (an end-of-sequence token is the last of the output), how many
    tokens for "length"."""
    if finish_reason(ended) == "length":
        return {"type": "length", "length": len(token_ids)}
    matched = stop_match(ended)
    if matched is None and token_ids:
        matched = token_ids[-1]
    return {"type": "stop", "matched": matched}
