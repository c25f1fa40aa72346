"""Whose request a body of POST /generate is: SGLang's or Diffulex's, told apart by its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body
from pydantic import WrapValidator

from pydllm_gateway.errors import invalid, unsupported
from pydllm_gateway.schemas.diffulex import DiffulexRequest
from pydllm_gateway.schemas.sglang import REFUSED_FIELDS, REFUSED_SAMPLING, Refused, SglangRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SGLANG = ("text", "input_ids", "sampling_params")
_DIFFULEX = ("prompt",)
_EXPECTED = "expected text or input_ids (SGLang's fields) or prompt (Diffulex's)"


def read(body: Mapping[str, Any]) -> SglangRequest | DiffulexRequest:
    """The body as the request it is. Raises ApiError (400) when its fields are of both shapes, of none, or cannot be
    honoured, and pydantic's ValidationError for values of a wrong type."""
    given = {name: value for name, value in body.items() if value is not None or name not in (*_SGLANG, *_DIFFULEX)}
    sglang = [name for name in _SGLANG if name in given]
    if "prompt" in given and sglang:
        raise invalid("prompt", f"prompt: {_EXPECTED}, got prompt and {sglang[0]}")
    if "prompt" in given:
        return DiffulexRequest.model_validate(given)
    if not sglang:
        raise invalid("text", f"text: {_EXPECTED}, got neither")
    return SglangRequest.model_validate(honoured(given))


def _read(value: Any, _: Callable[[Any], Any]) -> Any:
    return read(value)


NativeRequest = Annotated[SglangRequest | DiffulexRequest, WrapValidator(_read), Body()]


def honoured(body: Mapping[str, Any]) -> dict[str, Any]:
    """An SGLang body without the fields that mean nothing here. Raises ApiError (400) for one that would."""
    rest = _without(body, REFUSED_FIELDS, "")
    params = rest.get("sampling_params")
    if isinstance(params, dict):
        rest["sampling_params"] = _without(params, REFUSED_SAMPLING, "sampling_params.")
    if isinstance(params, list):
        rest["sampling_params"] = [_element(item, f"sampling_params[{i}].") for i, item in enumerate(params)]
    return rest


def _element(item: Any, prefix: str) -> Any:
    return _without(item, REFUSED_SAMPLING, prefix) if isinstance(item, dict) else item


def _without(fields: Mapping[str, Any], table: Mapping[str, Refused], prefix: str) -> dict[str, Any]:
    for name, value in fields.items():
        if name in table and not _is_neutral(value, table[name]):
            raise unsupported(f"{prefix}{name}", f"{table[name].why}; leave it unset")
    return {name: value for name, value in fields.items() if name not in table}


def _is_neutral(value: Any, field: Refused) -> bool:
    if value is None:
        return True
    if isinstance(value, list):
        return all(_is_neutral(item, field) for item in value)
    return any(type(value) is type(neutral) and value == neutral for neutral in field.neutral)
