"""What a body becomes: the gRPC calls, and what the answer must look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydllm_proto.v1 import generation_service_pb2 as pb

    from pydllm_gateway.errors import FieldNames
    from pydllm_gateway.schemas.common import GenerationBody


@dataclass(frozen=True, kw_only=True)
class Call:
    """One prompt. `names` gives the REST names of proto fields, for errors."""

    request: pb.GenerateRequest
    names: FieldNames


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the answer shows."""

    id: str
    n: int = 1
    """Candidates of each prompt."""
    extras: bool = False
    """Whether choices carry `dllm`."""
    diffusing: bool = False
    """Whether each chunk's content replaces the last."""
    token_ids: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    service_tier: str | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a route needs. `options` is used by streams only."""

    calls: tuple[Call, ...]
    shape: Shape
    options: pb.StreamOptions


def shape_of(body: GenerationBody, response_id: str, *, diffusing: bool = False) -> Shape:
    """The answer's form, as far as it does not depend on the engine."""
    options = body.stream_options
    mode = stream_mode(body)
    return Shape(
        id=response_id,
        n=1 if body.n is None else body.n,
        extras=body.dllm is not None or mode == "denoise" or diffusing,
        diffusing=diffusing,
        token_ids=bool(body.return_token_ids),
        include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.continuous_usage_stats),
        service_tier="default" if body.service_tier else None,
        metadata=body.metadata,
    )


def stream_mode(body: GenerationBody) -> str | None:
    """Beside the other fields or within `dllm`."""
    return body.stream_mode or (body.dllm.stream_mode if body.dllm else None)
