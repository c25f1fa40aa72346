"""What the parser of one family of config.json needs: typed fields, values that are fixed, fields without effect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydllm.checkpoint.strict_json import Fields, refuse_field
from pydllm.errors import CheckpointError

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


_ROPE = "rope_parameters"

PLAIN: Mapping[str, Any] = {
    "attention_bias": False,
    "linear_bias": False,
    "logit_shift": False,
    "qk_norm": False,
    "rotary_dim": 0,
    "moe": {},
}
"""What most families do not have."""


@dataclass(frozen=True)
class Family:
    """How config.json of some architectures is read: every field is parsed, fixed or harmless, or else refused."""

    parse: Callable[[Fields], dict[str, Any]]
    """The fields of core/models/config.h except architecture, block_length and dtype; those of PLAIN may be absent."""
    fixed: Fixed
    harmless: frozenset[str]
    partial_rotation: bool = False
    """`partial_rotary_factor` is a field of it."""
    control_tokens: bool = False
    """`delete_token_id` and `split_token_id` are fields of it."""
    block_causal: bool = False
    block_field: str = "block_size"
    published_block_length: int | None = None
    """Of every published model of a block-causal family, where there is one that config.json may leave out."""

    def read(self, fields: Fields, *, block_length: int | None) -> dict[str, Any]:
        """`block_length` wins over the file's; a family with full attention has none."""
        check_fixed(fields, self.fixed)
        self._check_rotation(fields)
        block = self._block_length(fields, block_length) if self.block_causal else 0
        values = {**PLAIN, **self.parse(fields), "block_length": block}
        if "expert_capacity" in values["moe"]:
            self._check_routing_block(fields, block)
        return values

    def _check_rotation(self, fields: Fields) -> None:
        """Heads rotate whole unless the family says how much of them."""
        if not self.partial_rotation:
            check_fixed(rope_parameters(fields), {f"{_ROPE}.partial_rotary_factor": ((1, 1.0), 1)})

    def _check_routing_block(self, fields: Fields, block: int) -> None:
        """Experts that a block shares belong to the block the model was trained with."""
        stored = fields.optional_integer(self.block_field, minimum=1)
        if stored not in (None, block):
            raise CheckpointError(
                f"block_length: expected {self.block_field} {stored} of {fields.file}, which has an expert_capacity, "
                f"got {block}"
            )

    def _block_length(self, fields: Fields, given: int | None) -> int:
        stored = fields.optional_integer(self.block_field, minimum=1)
        block = next((one for one in (given, stored, self.published_block_length) if one is not None), None)
        if block is None:
            raise CheckpointError(
                f"block_length: expected {self.block_field} in {fields.file} or the option block_length; got neither"
            )
        return block


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


def positive(fields: Fields, name: str, default: float | None = None) -> float:
    """A number > 0; required without a default."""
    value = fields.optional_number(name, minimum=0.0, above=True)
    if value is not None:
        return value
    if default is None:
        fields.refuse(name, "a number > 0")
    return default


def rope_theta(fields: Fields, default: float | None = None) -> float:
    """The base of plain rotary positions: `rope_theta`, or, as newer files have it, `rope_parameters.rope_theta`."""
    inner = rope_parameters(fields)
    stored = positive(inner, f"{_ROPE}.rope_theta", 0.0)
    if not stored:
        return positive(fields, "rope_theta", default)
    if positive(fields, "rope_theta", stored) != stored:
        fields.refuse("rope_theta", f"{stored:g} as in {_ROPE}.rope_theta")
    return stored


def rope_parameters(fields: Fields) -> Fields:
    """The fields of `rope_parameters` under their full names; refuses other kinds of positions than plain ones."""
    stored = fields.get(_ROPE)
    if stored is None:
        return Fields({}, file=fields.file)
    if not isinstance(stored, dict):
        fields.refuse(_ROPE, "an object or null")
    inner = Fields({f"{_ROPE}.{name}": value for name, value in stored.items()}, file=fields.file)
    check_fixed(inner, {f"{_ROPE}.rope_type": (("default",), "default")})
    for name in (f"{_ROPE}.rope_theta", f"{_ROPE}.partial_rotary_factor"):
        inner.get(name)
    if unknown := inner.unread():
        inner.refuse(unknown[0], "no such field (its meaning is unknown)")
    return inner


def partial_rotary_factor(fields: Fields) -> float | None:
    """The share of a head that rotates, in (0, 1]; None when neither place of it says."""
    name, inner_name = "partial_rotary_factor", f"{_ROPE}.partial_rotary_factor"
    inner = rope_parameters(fields).optional_number
    stored = inner(inner_name, minimum=0.0, maximum=1.0, above=True)
    factor = fields.optional_number(name, minimum=0.0, maximum=1.0, above=True)
    if None not in (stored, factor) and stored != factor:
        fields.refuse(name, f"{stored:g} as in {inner_name}")
    return stored if factor is None else factor


def _json_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
