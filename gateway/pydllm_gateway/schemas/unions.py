"""Types of fields that take one value or several.

Pydantic's own unions report every alternative of a wrong value. These pick the alternative by the value's JSON type, so
that an error names one path and says one thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, TypeAdapter, WrapValidator

from pydllm_gateway.schemas.common import UInt32, should_be

if TYPE_CHECKING:
    from collections.abc import Callable

_STRICT = ConfigDict(strict=True)


def one_or_many(one: Any, *, is_one: Callable[[Any], bool], expected: str) -> WrapValidator:
    """Validates as `one` what `is_one` recognises, another array as a list of `one`, null as itself. `expected` ends
    the sentence about anything else."""
    single, several = _adapter(one), TypeAdapter(list[one])

    def validate(value: Any, _: Callable[[Any], Any]) -> Any:
        if value is None or is_one(value):
            return None if value is None else single.validate_python(value)
        if not isinstance(value, list):
            raise should_be(expected)
        return several.validate_python(value, strict=True)

    return WrapValidator(validate)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    is_model = hasattr(kind, "model_config")
    return TypeAdapter(kind) if is_model else TypeAdapter(kind, config=_STRICT)


def is_text(value: Any) -> bool:
    """A JSON string."""
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    """A JSON object."""
    return isinstance(value, dict)


def is_flat(value: Any) -> bool:
    """An array that does not begin with an array."""
    return isinstance(value, list) and not (value and isinstance(value[0], list))


Strings = Annotated[str | list[str] | None, one_or_many(str, is_one=is_text, expected="a string or a list of strings")]
TokenLists = Annotated[
    list[UInt32] | list[list[UInt32]] | None,
    one_or_many(list[UInt32], is_one=is_flat, expected="token ids or a list of lists of token ids"),
]

_IDS = TypeAdapter(list[UInt32])


def prompt(value: Any, _: Callable[[Any], Any]) -> Any:
    """One prompt: a string or token ids."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise should_be("a string or a list of token ids")
    return _IDS.validate_python(value, strict=True)
