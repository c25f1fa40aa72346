"""GET /v1/models and /v1/models/{id}, in OpenAI's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from pydllm_gateway.errors import ApiError
from pydllm_gateway.http import StrictRoute, engine_of, until_disconnect

if TYPE_CHECKING:
    from pydllm_proto.v1 import model_service_pb2 as pb

router = APIRouter(route_class=StrictRoute, tags=["models"])


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Every served name, the default first."""
    served = await until_disconnect(request, engine_of(request).list_models())
    return {"object": "list", "data": [_entry(summary) for summary in served]}


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> dict[str, Any]:
    """One model, with its diffusion facts under `dllm`."""
    if not model:
        raise ApiError(404, "model: expected a name", param="model", code="model_not_found")
    info = await until_disconnect(request, engine_of(request).model_info(model))
    return {**_entry(info.summary), "dllm": _facts(info)}


def _entry(summary: pb.ModelSummary) -> dict[str, Any]:
    return {
        "id": summary.name,
        "object": "model",
        "created": summary.loaded.seconds,
        "owned_by": "pydllm",
        "max_model_len": summary.max_context_length,
        **({"parent": summary.base_model} if summary.base_model else {}),
    }


def _facts(info: pb.GetModelInfoResponse) -> dict[str, Any]:
    diffusion = info.diffusion
    return {
        "architecture": info.architecture,
        "dtype": info.dtype,
        "parameter_count": info.parameter_count,
        "vocab_size": info.vocab_size,
        "eos_token_ids": list(info.eos_token_ids),
        "mask_token_id": diffusion.mask_token_id,
        "has_chat_template": info.has_chat_template,
        "algorithms": list(diffusion.algorithms),
        "default_block_length": diffusion.default_block_length,
        "block_lengths": list(diffusion.block_lengths),
        "attention_pattern": diffusion.attention_pattern,
        "supports_edits": diffusion.supports_edits,
        "supports_constraints": diffusion.supports_constraints,
    }
