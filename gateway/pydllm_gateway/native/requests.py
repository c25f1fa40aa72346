"""Both native shapes as gRPC requests: what they have in common."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydllm_proto.v1 import generation_service_pb2 as pb

from pydllm_gateway.answers.merge import merged
from pydllm_gateway.convert import fields
from pydllm_gateway.convert.common import fill_diffusion, fill_intervals
from pydllm_gateway.errors import invalid
from pydllm_gateway.http import cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence

    from pydllm_gateway.convert.plan import Call
    from pydllm_gateway.engine import Engine
    from pydllm_gateway.schemas.common import DllmOptions

T = TypeVar("T")

Prompt = str | list[int]

DLLM_NAMES = {
    **{path: f"dllm.{name}" for name, path in fields.DLLM.items()},
    **{path: name for name, path in fields.STREAM.items()},
    "diffusion.extra": "dllm",
}
"""Proto path -> REST name of what `dllm` and `stream_mode` set."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The calls of one body and how they are streamed."""

    calls: tuple[Call, ...]
    options: pb.StreamOptions
    extras: bool
    """Whether replies carry `dllm`."""


def request_for(prompt: Prompt, dllm: DllmOptions | None) -> pb.GenerateRequest:
    """A request with its prompt and `dllm`; token ids and statistics always come back."""
    request = pb.GenerateRequest()
    request.output.token_ids = request.output.stats = True
    if isinstance(prompt, str):
        request.prompt = prompt
    else:
        request.prompt_token_ids.ids.extend(prompt)
        request.prompt_token_ids.SetInParent()
    if dllm is not None:
        fill_diffusion(request, dllm)
    return request


def put_all(request: pb.GenerateRequest, values: Mapping[str, object]) -> None:
    """Sets the proto paths that have a value."""
    for path, value in values.items():
        if value is not None:
            fields.put(request, path, value)


def chosen_mode(stream_mode: str | None, dllm: DllmOptions | None) -> str | None:
    """From beside the other fields or from within `dllm`. ApiError (400) when they differ."""
    inner = dllm.stream_mode if dllm else None
    if stream_mode and inner and stream_mode != inner:
        message = f"dllm.stream_mode: expected the same as stream_mode ({stream_mode}), got {inner}"
        raise invalid("dllm.stream_mode", message)
    return stream_mode or inner


def stream_options(dllm: DllmOptions | None, *, denoise: bool) -> pb.StreamOptions:
    """Usage on every message, as both shapes show it; `denoise` adds the block being denoised."""
    mode = pb.STREAM_MODE_SNAPSHOTS if denoise else pb.STREAM_MODE_BLOCK_APPEND
    options = pb.StreamOptions(mode=mode, snapshot_text=denoise, continuous_usage=True)
    if dllm is not None:
        fill_intervals(options, dllm, provisional=denoise)
    return options


async def all_of(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs them at once; their results in order. The first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancelled(*tasks)


def stream_all(engine: Engine, plan: Plan) -> AsyncGenerator[tuple[int, pb.StreamGenerateResponse], None]:
    """(call, message) as they arrive; one failure ends them all, and so does closing the generator."""
    return merged(
        [
            engine.stream(pb.StreamGenerateRequest(request=call.request, options=plan.options), call.names)
            for call in plan.calls
        ]
    )
