"""What the parser of one family of config.json needs: typed fields, values that are fixed, fields without effect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydllm.checkpoint.strict_json import Fields, refuse_field

Fixed = Mapping[str, tuple[tuple[Any, ...], Any]]
"""The only values we support, with what absence means in the original configuration class (`...`: absence is refused
because its default there is another value)."""

BOOKKEEPING = frozenset(
    {
        # of transformers; auto_map names Python code and is never executed
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "attn_implementation",
        "auto_map",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "transformers_version",
        "use_cache",
        # training and initialisation
        "attention_dropout",
        "initializer_range",
    }
)
"""Fields of any family that do not change the function the weights define at inference."""


@dataclass(frozen=True)
class Family:
    """How config.json of some architectures is read: every field is parsed, fixed or harmless, or else refused."""

    parse: Callable[[Fields], dict[str, Any]]
    """The fields of core/models/config.h except architecture and dtype."""
    fixed: Fixed
    harmless: frozenset[str]

    def read(self, fields: Fields) -> dict[str, Any]:
        check_fixed(fields, self.fixed)
        return self.parse(fields)


def check_fixed(fields: Fields, fixed: Fixed) -> None:
    for name, (allowed, default) in fixed.items():
        value = fields.get(name)
        if value is None and default is not ...:
            continue
        if not any(type(value) is type(one) and value == one for one in allowed):
            fields.refuse(name, " or ".join(_json_word(one) for one in allowed) or "null")


def refuse_unknown(fields: Fields, family: Family) -> None:
    """After everything was read: no field may be left that nobody knows."""
    unknown = [name for name in fields.unread() if name not in family.harmless | BOOKKEEPING]
    if unknown:
        refuse_field(fields.file, unknown[0], "no such field (its meaning is unknown)", fields.get(unknown[0]))


def divisor(fields: Fields, name: str, default: int, *, of: int, whole: str) -> int:
    """A field that divides `of`, the field `whole`."""
    value = fields.optional_integer(name, minimum=1)
    if value is None:
        value = default
    if of % value != 0:
        fields.refuse(name, f"a divisor of {whole} {of}")
    return value


def positive(fields: Fields, name: str, default: float) -> float:
    value = fields.optional_number(name, minimum=0.0, above=True)
    return default if value is None else value


def _json_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
