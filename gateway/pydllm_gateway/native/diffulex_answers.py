"""Diffulex's replies and stream events."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pydllm_proto.v1 import generation_service_pb2 as pb

from pydllm_gateway.answers.common import block_facts, finish_reason, snapshot_facts, statistics
from pydllm_gateway.native.requests import stream_all

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from pydllm_proto.v1 import types_pb2

    from pydllm_gateway.engine import Engine
    from pydllm_gateway.native.requests import Plan

    Ended = types_pb2.Candidate | pb.CandidateFinished

Json = dict[str, Any]


async def answer(engine: Engine, plan: Plan) -> Json:
    """The reply."""
    (call,) = plan.calls
    response = await engine.generate(call.request, call.names)
    candidate = response.candidates[0]
    return reply(
        response.request_id, candidate.text, list(candidate.token_ids), candidate, response.usage, extras=plan.extras
    )


async def events(engine: Engine, plan: Plan) -> AsyncGenerator[Json, None]:
    """What became final (`append`), or in a denoising stream all of the text as it stands (`buffer_snapshot`); at the
    end `final`. Closing the generator cancels the generation; ApiError when it fails."""
    writer = _Writer(plan)
    async with contextlib.aclosing(stream_all(engine, plan)) as messages:
        async for _, message in messages:
            for event in writer.accept(message):
                yield event


class _Writer:
    """Events for the messages of a stream."""

    def __init__(self, plan: Plan) -> None:
        self._id = plan.calls[0].request.request_id
        self._denoise = plan.options.mode == pb.STREAM_MODE_SNAPSHOTS
        self._extras = plan.extras
        self._mask = self._prompt_tokens = self._steps = 0
        self._text = ""
        self._token_ids: list[int] = []

    def accept(self, message: pb.StreamGenerateResponse) -> Iterator[Json]:
        """The event for a message, if it has one."""
        event = message.WhichOneof("event")
        if event == "started":
            self._mask, self._prompt_tokens = message.started.mask_token_id, message.started.prompt_tokens
        elif event == "block_appended":
            yield self._appended(message.block_appended)
        elif event == "block_snapshot":
            snapshot = message.block_snapshot
            shown = self._buffer(snapshot.text, list(snapshot.token_ids), steps=snapshot.step + 1)
            yield self._with(shown, snapshot_facts(snapshot, self._mask))
        elif event == "finished":
            ended = message.finished
            whole = reply(self._id, self._text, self._token_ids, ended, message.usage, extras=self._extras)
            yield {"event": "final", **whole}

    def _appended(self, block: pb.BlockAppended) -> Json:
        offset = len(self._token_ids)
        self._text += block.text
        self._token_ids.extend(block.token_ids)
        self._steps += block.denoise_steps
        if self._denoise:
            return self._with(self._buffer("", [], steps=0), block_facts(block))
        event = {"event": "append", "id": self._id, "token_offset": offset, "text": block.text}
        event |= {"token_ids": list(block.token_ids), "nfe": self._steps, "finished": False}
        return self._with(event, block_facts(block))

    def _buffer(self, text: str, token_ids: list[int], *, steps: int) -> Json:
        """Everything generated, followed by a block that is not final."""
        ids = self._token_ids + token_ids
        return {
            "event": "buffer_snapshot",
            "id": self._id,
            "token_offset": 0,
            "absolute_start": self._prompt_tokens,
            "absolute_end": self._prompt_tokens + len(ids),
            "text": self._text + text,
            "token_ids": ids,
            "nfe": self._steps + steps,
            "finished": False,
            "final_tokens": len(self._token_ids),
            "mask_token_id": self._mask,
        }

    def _with(self, event: Json, facts: Json) -> Json:
        return {**event, "dllm": facts} if self._extras else event


def reply(
    request_id: str, text: str, token_ids: list[int], ended: Ended, usage: types_pb2.Usage, *, extras: bool
) -> Json:
    """A finished generation. Nothing is generated after its end, so the full text is the text."""
    whole = {
        "id": request_id,
        "text": text,
        "token_ids": token_ids,
        "nfe": ended.stats.forward_passes,
        "finish_reason": finish_reason(ended),
        "full_text": text,
        "full_token_ids": token_ids,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }
    return {**whole, "dllm": statistics(ended)} if extras else whole
