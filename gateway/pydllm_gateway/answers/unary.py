"""Whole answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydllm_gateway.answers.common import envelope, finish_reason, statistics, usage
from pydllm_gateway.answers.kinds import Kind, choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydllm_proto.v1 import generation_service_pb2 as pb
    from pydllm_proto.v1 import types_pb2

    from pydllm_gateway.convert.plan import Plan, Shape
    from pydllm_gateway.engine import Engine


async def answer(engine: Engine, plan: Plan, kind: Kind) -> dict[str, Any]:
    """Runs every call at once. The first failure (ApiError) cancels the others, as does cancelling the task."""
    tasks = [asyncio.ensure_future(engine.generate(call.request, call.names)) for call in plan.calls]
    try:
        responses = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return body(responses, plan.shape, kind)


def body(responses: Sequence[pb.GenerateResponse], shape: Shape, kind: Kind) -> dict[str, Any]:
    """One body for the responses, in the order of the prompts."""
    first = responses[0]
    head = envelope(shape, kind=kind.object, created=first.created.seconds, model=first.model)
    choices = [
        _choice(number * shape.n + candidate.index, candidate, shape, kind)
        for number, response in enumerate(responses)
        for candidate in sorted(response.candidates, key=lambda c: c.index)
    ]
    whole = {**head, "choices": choices, "usage": usage(response.usage for response in responses)}
    return whole if shape.metadata is None else {**whole, "metadata": shape.metadata}


def _choice(index: int, candidate: types_pb2.Candidate, shape: Shape, kind: Kind) -> dict[str, Any]:
    return choice(
        index,
        kind.whole(candidate.text),
        finish_reason(candidate),
        token_ids=list(candidate.token_ids) if shape.token_ids else None,
        dllm=statistics(candidate) if shape.extras else None,
    )
