"""Where each field of a body goes: REST name -> path in GenerateRequest. The engine judges the values.

What has no path is either read by the modules beside this one or refused (refusals.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydllm_gateway.errors import invalid

if TYPE_CHECKING:
    from google.protobuf import struct_pb2
    from google.protobuf.message import Message
    from pydantic import BaseModel

COMMON = {
    "model": "model",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "min_p": "sampling.min_p",
    "repetition_penalty": "sampling.repetition_penalty",
    "presence_penalty": "sampling.presence_penalty",
    "frequency_penalty": "sampling.frequency_penalty",
    "logit_bias": "sampling.logit_bias",
    "seed": "sampling.seed",
    "max_tokens": "sampling.max_tokens",
    "min_tokens": "sampling.min_tokens",
    "max_repetition_run": "sampling.max_repetition_run",
    "stop": "sampling.stop",
    "stop_token_ids": "sampling.stop_token_ids",
    "include_stop_str_in_output": "sampling.include_stop",
    "ignore_eos": "sampling.ignore_eos",
    "n": "sampling.n",
    "skip_special_tokens": "output.skip_special_tokens",
    "return_token_ids": "output.token_ids",
    "priority": "priority",
    "cache_salt": "cache_salt",
    "request_id": "request_id",
}
CHAT = {
    **COMMON,
    "messages": "chat.messages",
    "chat_template_kwargs": "chat.template_kwargs",
    "add_generation_prompt": "chat.add_generation_prompt",
}
COMPLETIONS = {**COMMON, "echo": "output.echo", "logprobs": "output.logprobs"}
DLLM = {
    "algorithm": "diffusion.algorithm",
    "block_length": "diffusion.block_length",
    "max_steps_per_block": "diffusion.max_steps_per_block",
    "max_forward_passes": "diffusion.max_forward_passes",
    "confidence_threshold": "diffusion.confidence_threshold",
    "entropy_threshold": "diffusion.entropy_threshold",
    "allow_edits": "diffusion.allow_edits",
    "edit_threshold": "diffusion.edit_threshold",
    "cache": "diffusion.cache",
    "cache_refresh_interval": "diffusion.cache_refresh_interval",
}
STREAM = {
    "dllm.step_interval": "options.step_interval",
    "dllm.min_interval": "options.min_interval",
    "dllm.mask_text": "options.mask_text",
    "stream_mode": "options.mode",
}
NAMES = {
    **{path: name for name, path in {**CHAT, **COMPLETIONS}.items()},
    **{path: f"dllm.{name}" for name, path in DLLM.items()},
    **{path: name for name, path in STREAM.items()},
    "diffusion.extra": "dllm",
    "chat": "messages",
    "constraint": "response_format",
    "canvas": "suffix",
}
"""Proto path -> REST name, for the errors of both endpoints."""


def fill(request: Message, body: BaseModel, fields: dict[str, str]) -> None:
    """Puts every given scalar, list and map of `fields` where it belongs."""
    for name, path in fields.items():
        value = getattr(body, name)
        if value is not None and name in _CONVERTED:
            value = _CONVERTED[name](value)
        if value is not None and name not in _ELSEWHERE:
            put(request, path, value)


def put(request: Message, path: str, value: Any) -> None:
    """Sets the field at `path`; lists and maps are added to what is there."""
    *parents, name = path.split(".")
    holder: Any = request
    for parent in parents:
        holder = getattr(holder, parent)
    if isinstance(value, list):
        getattr(holder, name).extend(value)
    elif isinstance(value, dict):
        getattr(holder, name).update(value)
    else:
        setattr(holder, name, value)


def logit_bias(given: dict[str, float]) -> dict[int, float]:
    """Keys are token ids in decimal. ApiError (400) for any other."""
    return {_token_id(key): bias for key, bias in given.items()}


def _token_id(key: str) -> int:
    if key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) < 2**32:
        return int(key)
    raise invalid("logit_bias", f"logit_bias: expected token ids as keys, got {key[:40]!r}", code="invalid_value")


def fill_struct(struct: struct_pb2.Struct, values: dict[str, Any], field: str) -> None:
    """JSON into a Struct, whose numbers are doubles: ApiError (400) for integers that would change."""
    _check_exact(values, field)
    struct.update(values)


def _check_exact(value: Any, path: str) -> None:
    if isinstance(value, int) and abs(value) > 2**53:
        raise invalid(path, f"{path}: expected integers of at most 2**53 in size, got {value}", code="invalid_value")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_exact(item, f"{path}.{key}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_exact(item, f"{path}[{index}]")


_CONVERTED: dict[str, Any] = {
    "logit_bias": logit_bias,
    "stop": lambda stop: [stop] if isinstance(stop, str) else stop,
}
_ELSEWHERE = {"messages", "chat_template_kwargs", "request_id"}  # not simply copied
