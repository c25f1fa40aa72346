"""SGLang's body as one gRPC request per prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydllm_gateway.convert import fields
from pydllm_gateway.convert.plan import Call
from pydllm_gateway.errors import ApiError, invalid
from pydllm_gateway.native.requests import DLLM_NAMES, Plan, Prompt, chosen_mode, put_all, request_for, stream_options
from pydllm_gateway.schemas.unions import is_flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydllm_gateway.schemas.sglang import SglangRequest, SglangSampling

T = TypeVar("T")

SAMPLING = {
    "max_new_tokens": "sampling.max_tokens",
    "min_new_tokens": "sampling.min_tokens",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "min_p": "sampling.min_p",
    "frequency_penalty": "sampling.frequency_penalty",
    "presence_penalty": "sampling.presence_penalty",
    "repetition_penalty": "sampling.repetition_penalty",
    "logit_bias": "sampling.logit_bias",
    "sampling_seed": "sampling.seed",
    "n": "sampling.n",
    "stop": "sampling.stop",
    "stop_token_ids": "sampling.stop_token_ids",
    "no_stop_trim": "sampling.include_stop",
    "ignore_eos": "sampling.ignore_eos",
    "skip_special_tokens": "output.skip_special_tokens",
    "json_schema": "constraint.json_schema",
    "regex": "constraint.regex",
    "ebnf": "constraint.grammar",
}
"""Every field of `sampling_params` -> its path in GenerateRequest. The engine judges the values."""

_CONSTRAINTS = ("json_schema", "regex", "ebnf")


def plan(body: SglangRequest, request_id: str, *, max_prompts: int) -> Plan:
    """Raises ApiError (400), naming the field, for what can be refused without the engine."""
    prompts = _prompts(body)
    if not 0 < len(prompts) <= max_prompts:
        raise invalid(_input(body), f"{_input(body)}: expected 1 to {max_prompts} prompts, got {len(prompts)}")
    denoise = _denoise(body)
    options = stream_options(body.dllm, denoise=denoise)
    calls = tuple(_call(body, prompts, index, ids) for index, ids in enumerate(_ids(body, request_id, len(prompts))))
    return Plan(calls=calls, options=options, extras=body.dllm is not None or denoise)


def _denoise(body: SglangRequest) -> bool:
    if chosen_mode(body.stream_mode, body.dllm) != "denoise":
        return False
    if not body.stream:
        name = "stream_mode" if body.stream_mode else "dllm.stream_mode"
        raise invalid(name, f'{name}: denoise needs "stream": true')
    return True


def _input(body: SglangRequest) -> str:
    """The field that holds the prompts."""
    if body.text is not None and body.input_ids is not None:
        raise invalid("input_ids", "input_ids: expected text or input_ids, got both")
    return "input_ids" if body.text is None else "text"


def _prompts(body: SglangRequest) -> Sequence[Prompt]:
    given = getattr(body, _input(body))
    if given is None:
        raise invalid("text", "text: expected text or input_ids, got neither")
    return given if _has_list(body) else [given]


def _has_list(body: SglangRequest) -> bool:
    return isinstance(body.text, list) or not is_flat(body.input_ids or [])


def _call(body: SglangRequest, prompts: Sequence[Prompt], index: int, given: _Id) -> Call:
    request = request_for(prompts[index], body.dllm)
    params, prefix = _params(body, index, len(prompts))
    field = f"{_input(body)}[{index}]" if _has_list(body) else _input(body)
    put_all(request, {"request_id": given.value, "priority": body.priority})
    put_all(request, {"cache_salt": _of_prompt("cache_salt", body.cache_salt, index, len(prompts))})
    if params is not None:
        put_all(request, _sampling(params, prefix))
    names = {path: f"{prefix}.{name}" for name, path in SAMPLING.items()}
    constraint = next((name for name in _CONSTRAINTS if getattr(params, name, None) is not None), "")
    return Call(
        request=request,
        names={
            **DLLM_NAMES,
            **names,
            "prompt": field,
            "prompt_token_ids.ids": field,
            "request_id": given.field,
            "constraint": f"{prefix}.{constraint}",
        },
    )


@dataclass(frozen=True)
class _Id:
    """A request's id and the field of the body, or the header, that set it."""

    value: str
    field: str


def _ids(body: SglangRequest, request_id: str, count: int) -> list[_Id]:
    """One per prompt: of a list as given, otherwise numbered when there may be several."""
    if isinstance(body.rid, list):
        if len(body.rid) != count or len(set(body.rid)) != count:
            raise invalid("rid", f"rid: expected {count} different ids, one for each prompt, got {len(body.rid)}")
        return [_Id(_not_empty(value), f"rid[{index}]") for index, value in enumerate(body.rid)]
    base = _Id(request_id, "x-request-id") if body.rid is None else _Id(_not_empty(body.rid), "rid")
    return [_Id(f"{base.value}_{index}", base.field) for index in range(count)] if _has_list(body) else [base]


def _not_empty(rid: str) -> str:
    """The engine takes an empty id for none."""
    if not rid:
        raise invalid("rid", "rid: expected an id that is not empty")
    return rid


def _params(body: SglangRequest, index: int, count: int) -> tuple[SglangSampling | None, str]:
    """The parameters of a prompt and their path."""
    params = _of_prompt("sampling_params", body.sampling_params, index, count)
    return params, f"sampling_params[{index}]" if isinstance(body.sampling_params, list) else "sampling_params"


def _of_prompt(field: str, given: T | list[T] | None, index: int, count: int) -> T | None:
    if not isinstance(given, list):
        return given
    if len(given) != count:
        raise invalid(field, f"{field}: expected {count} elements, one for each prompt, got {len(given)}")
    return given[index]


def _sampling(params: SglangSampling, prefix: str) -> dict[str, object]:
    """Proto path -> value of what is set."""
    constraints = [name for name in _CONSTRAINTS if getattr(params, name) is not None]
    if len(constraints) > 1:
        path = f"{prefix}.{constraints[1]}"
        raise invalid(path, f"{path}: expected one of {', '.join(_CONSTRAINTS)}, got {' and '.join(constraints)}")
    values = {path: getattr(params, name) for name, path in SAMPLING.items()}
    top_k = params.top_k
    return {
        **values,
        "sampling.top_k": 0 if top_k == -1 else top_k,
        "sampling.stop": [params.stop] if isinstance(params.stop, str) else params.stop,
        "sampling.logit_bias": _logit_bias(params.logit_bias, prefix),
    }


def _logit_bias(given: dict[str, float] | None, prefix: str) -> dict[int, float] | None:
    try:
        return None if given is None else fields.logit_bias(given)
    except ApiError as error:
        raise invalid(f"{prefix}.logit_bias", f"{prefix}.{error.message}", code=error.code) from None


def is_batch(body: SglangRequest) -> bool:
    """Whether the reply is a list: several prompts, or several candidates of one."""
    params = body.sampling_params if isinstance(body.sampling_params, list) else [body.sampling_params]
    return _has_list(body) or any(one is not None and (one.n or 1) > 1 for one in params)
