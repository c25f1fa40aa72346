"""POST /v1/completions as one gRPC request per prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

from pydllm_gateway.convert import fields, refusals
from pydllm_gateway.convert.common import base_request, stream_options
from pydllm_gateway.convert.plan import Call, Plan, shape_of
from pydllm_gateway.errors import invalid, unsupported

if TYPE_CHECKING:
    from pydllm_gateway.schemas.completions import CompletionBody

Prompt = str | list[int]


def plan(body: CompletionBody, request_id: str, *, max_prompts: int) -> Plan:
    """Raises ApiError (400), naming the field, for what can be refused without the engine."""
    refusals.refuse(body, refusals.COMPLETIONS)
    _check_best_of(body)
    given = prompts(body.prompt)
    if len(given) > max_prompts:
        raise invalid("prompt", f"prompt: expected at most {max_prompts} prompts, got {len(given)}")
    shape = shape_of(body, f"cmpl-{body.request_id or request_id}")
    options = stream_options(body)
    base = base_request(body, fields.COMPLETIONS, extras=shape.extras)
    several = isinstance(body.prompt, list) and not isinstance(body.prompt[0], int)
    calls = tuple(_call(body, base, shape.id, prompt, index if several else None) for index, prompt in enumerate(given))
    return Plan(calls=calls, shape=shape, options=options)


def prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[Prompt]:
    """The prompts one by one."""
    if isinstance(given, str):
        return [given]
    return [given] if isinstance(given[0], int) else list(given)


def _check_best_of(body: CompletionBody) -> None:
    n = 1 if body.n is None else body.n
    if body.best_of is not None and body.best_of != n:
        raise unsupported("best_of", f"every candidate is returned, expected {n} (n), got {body.best_of}")


def _call(body: CompletionBody, base: pb.GenerateRequest, name: str, prompt: Prompt, index: int | None) -> Call:
    """`index` is None for a prompt that is not part of a list."""
    request = pb.GenerateRequest()
    request.CopyFrom(base)
    request.request_id = name if index is None else f"{name}-{index}"
    if body.suffix:
        _fill_canvas(request, body, prompt)
    elif isinstance(prompt, str):
        request.prompt = prompt
    else:
        request.prompt_token_ids.ids.extend(prompt)
        request.prompt_token_ids.SetInParent()
    field = "prompt" if index is None else f"prompt[{index}]"
    names = {**fields.NAMES, "prompt": field, "prompt_token_ids": field}
    return Call(request=request, names=names | _canvas_names(field) if body.suffix else names)


def _canvas_names(prompt: str) -> dict[str, str]:
    """Where the segments of _fill_canvas come from."""
    segment = "canvas.segments[{}].{}".format
    return {
        "canvas.segments": prompt,  # nothing before the hole
        segment(0, "text"): prompt,
        segment(0, "token_ids.ids"): prompt,
        segment(1, "mask_length"): "max_tokens",
        segment(2, "text"): "suffix",
    }


def _fill_canvas(request: pb.GenerateRequest, body: CompletionBody, prompt: Prompt) -> None:
    """The prompt, a hole of max_tokens, the suffix."""
    if body.max_tokens is None:
        raise invalid("suffix", "suffix: needs max_tokens, the number of tokens between prompt and suffix")
    segment = types_pb2.CanvasInput.Segment
    tokens = None if isinstance(prompt, str) else types_pb2.TokenIds(ids=prompt)
    before = segment(text=prompt) if isinstance(prompt, str) else segment(token_ids=tokens)
    request.canvas.segments.extend([before, segment(mask_length=body.max_tokens), segment(text=body.suffix)])
