"""Diffulex's body as one gRPC request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm_gateway.convert.plan import Call
from pydllm_gateway.errors import invalid
from pydllm_gateway.native.requests import DLLM_NAMES, Plan, chosen_mode, put_all, request_for, stream_options

if TYPE_CHECKING:
    from pydllm_gateway.schemas.diffulex import DiffulexRequest

FIELDS = {
    "max_tokens": "sampling.max_tokens",
    "temperature": "sampling.temperature",
    "max_nfe": "diffusion.max_forward_passes",
    "max_repetition_run": "sampling.max_repetition_run",
    "ignore_eos": "sampling.ignore_eos",
}
"""Name -> path in GenerateRequest. The engine judges the values."""


def plan(body: DiffulexRequest, request_id: str) -> Plan:
    """Raises ApiError (400), naming the field, for what can be refused without the engine."""
    if body.max_nfe is not None and body.dllm and body.dllm.max_forward_passes is not None:
        raise invalid("max_nfe", "max_nfe: expected without dllm.max_forward_passes, which is the same")
    request = request_for(body.prompt, body.dllm)
    put_all(request, {"request_id": request_id})
    put_all(request, {path: getattr(body, name) for name, path in FIELDS.items()})
    denoise = chosen_mode(body.stream_mode, body.dllm) != "block_append"
    call = Call(request=request, names=_names(body))
    options = stream_options(body.dllm, denoise=denoise and bool(body.stream))
    return Plan(calls=(call,), options=options, extras=body.dllm is not None)


def _names(body: DiffulexRequest) -> dict[str, str]:
    names = {path: name for name, path in FIELDS.items() if name != "max_nfe" or body.max_nfe is not None}
    return {
        **DLLM_NAMES,
        **names,
        "prompt": "prompt",
        "prompt_token_ids.ids": "prompt",
        "request_id": "x-request-id",
    }
