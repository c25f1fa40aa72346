"""Request parameters: frozen dataclasses with the names of proto/pydllm/v1/types.proto.

`None` means unset: the checkpoint's generation_config, then the default. An explicit 0 is a value.
Construction checks types and ranges and raises `InvalidRequestError` naming the proto field; what depends on
the model (token ids, the context, an algorithm's own ranges) is checked when the request is made.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from pydllm.errors import InvalidRequestError

MAX_INT32 = 2**31 - 1
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_STOP_TOKEN_IDS = 64
MAX_CANDIDATES = 128

ParamScalar = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when generation ends."""

    temperature: float | None = None
    """[0, 100]; 0 is greedy."""
    top_p: float | None = None
    """Nucleus mass in (0, 1]."""
    top_k: int | None = None
    """0 disables."""
    min_p: float | None = None
    """[0, 1]: no id below this share of the largest probability is drawn; 0 disables. Without effect on a greedy
    request."""
    repetition_penalty: float | None = None
    """(0, 100]: divides a positive logit and multiplies another one for every token of the prompt and of what is
    written so far; 1 disables."""
    presence_penalty: float | None = None
    """[-2, 2]: subtracted from the logit of every token written so far."""
    frequency_penalty: float | None = None
    """[-2, 2]: subtracted as often as the token is written so far."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to logits, by token id: [-100, 100]; -100 bans the token."""
    seed: int | None = None
    """Unsigned 64 bit. Candidate i uses seed + i (modulo 2**64). Unset: random."""
    max_tokens: int | None = None
    """At least 1, honoured exactly."""
    min_tokens: int | None = None
    """No end of sequence and no stop id among the first tokens; at most max_tokens. Stop strings still end."""
    stop: tuple[str, ...] = ()
    """At most 16 non-empty strings of at most 1024 characters; a single string is accepted."""
    stop_token_ids: tuple[int, ...] = ()
    """At most 64 ids of the vocabulary."""
    include_stop: bool | None = None
    ignore_eos: bool | None = None
    max_repetition_run: int | None = None
    """End after this many equal generated tokens in a row, at least 2; 0 disables."""
    n: int | None = None
    """Candidates, 1 to 128."""

    def __post_init__(self) -> None:
        _set(
            self,
            "temperature",
            _real("sampling.temperature", self.temperature, "a number in [0, 100]", 0, 100),
        )
        _set(self, "top_p", _real("sampling.top_p", self.top_p, "a number in (0, 1]", 0, 1, open_low=True))
        _set(self, "top_k", _integer("sampling.top_k", self.top_k, 0, MAX_INT32))
        _set(self, "min_p", _real("sampling.min_p", self.min_p, "a number in [0, 1]", 0, 1))
        _set(self, "repetition_penalty", _repetition_penalty(self.repetition_penalty))
        for name in ("presence_penalty", "frequency_penalty"):
            _set(self, name, _real(f"sampling.{name}", getattr(self, name), "a number in [-2, 2]", -2, 2))
        _set(self, "logit_bias", _logit_bias(self.logit_bias))
        _set(self, "min_tokens", _integer("sampling.min_tokens", self.min_tokens, 0, MAX_INT32))
        _set(self, "seed", _integer("sampling.seed", self.seed, 0, 2**64 - 1))
        _set(self, "max_tokens", _integer("sampling.max_tokens", self.max_tokens, 1, MAX_INT32))
        _set(self, "stop", _stop_strings(self.stop))
        _set(self, "stop_token_ids", _stop_token_ids(self.stop_token_ids))
        _boolean("sampling.include_stop", self.include_stop)
        _boolean("sampling.ignore_eos", self.ignore_eos)
        _set(self, "max_repetition_run", _repetition_run(self.max_repetition_run))
        _set(self, "n", _integer("sampling.n", self.n, 1, MAX_CANDIDATES))


@dataclass(frozen=True, kw_only=True)
class DiffusionParams:
    """What is specific to diffusion decoding. The ranges of an algorithm's parameters are the algorithm's."""

    algorithm: str = ""
    """A name of `LLM.algorithms`; empty is the model's default."""
    block_length: int | None = None
    """Tokens denoised together."""
    max_steps_per_block: int | None = None
    """Most denoising steps for one block."""
    max_forward_passes: int | None = None
    """At least 1: the request ends with what is final after this many forward passes."""
    confidence_threshold: float | None = None
    entropy_threshold: float | None = None
    """In nats."""
    cache: str | None = None
    """K/V window of full-attention models, an approximation: "none" (exact), "prefix", "dual" or "delayed"."""
    cache_refresh_interval: int | None = None
    """Feed the whole sequence every so many forward passes; 0: never for that reason. Only "delayed" has it."""
    allow_edits: bool | None = None
    """Whether written tokens may be replaced while their block is open."""
    edit_threshold: float | None = None
    """Replace a written token when its replacement is more probable than this."""
    extra: Mapping[str, ParamScalar] = field(default_factory=dict)
    """Parameters of one algorithm that have no field here; unknown keys are errors."""

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, str):
            _refuse("diffusion.algorithm", "a string", self.algorithm)
        for name in ("block_length", "max_steps_per_block", "max_forward_passes"):
            _set(self, name, _integer(f"diffusion.{name}", getattr(self, name), 1, MAX_INT32))
        interval = _integer("diffusion.cache_refresh_interval", self.cache_refresh_interval, 0, MAX_INT32)
        _set(self, "cache_refresh_interval", interval)
        for name in ("confidence_threshold", "entropy_threshold", "edit_threshold"):
            _set(self, name, finite_number(f"diffusion.{name}", getattr(self, name)))
        if self.cache is not None and not isinstance(self.cache, str):
            _refuse("diffusion.cache", "a string", self.cache)
        _boolean("diffusion.allow_edits", self.allow_edits)
        _set(self, "extra", param_scalars("diffusion.extra", self.extra))


def _set(params: object, name: str, value: object) -> None:
    object.__setattr__(params, name, value)


def shown(value: object) -> str:
    """The value as an error message shows it: one short line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(name: str, expected: str, value: object) -> NoReturn:
    raise InvalidRequestError(name, f"{name}: expected {expected}, got {shown(value)}")


def _real(
    name: str,
    value: float | None,
    expected: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        _refuse(name, expected, value)
    try:
        number = float(value)
    except OverflowError:
        _refuse(name, expected, value)
    if not math.isfinite(number) or number > high or number < low or (open_low and number == low):
        _refuse(name, expected, value)
    return number


def finite_number(name: str, value: float | None) -> float | None:
    """A float (None stays None); InvalidRequestError(name) for what is no finite number."""
    return _real(name, value, "a finite number")


def _integer(name: str, value: int | None, low: int, high: int) -> int | None:
    return None if value is None else whole_number(name, value, low, high)


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """An int (or another integral type, such as numpy's) in [low, high]; InvalidRequestError(name)
    otherwise."""
    expected = f"an integer in [{low}, {high}]"
    if isinstance(value, bool):
        _refuse(name, expected, value)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        _refuse(name, expected, value)
    if not low <= number <= high:
        _refuse(name, expected, value)
    return number


def _repetition_penalty(value: float | None) -> float | None:
    return _real("sampling.repetition_penalty", value, "a number in (0, 100]", 0, 100, open_low=True)


def _logit_bias(values: object) -> dict[int, float]:
    name = "sampling.logit_bias"
    if not isinstance(values, Mapping):
        _refuse(name, "a mapping of token ids to numbers", values)
    return {whole_number(name, key, 0, MAX_INT32): _bias(name, value) for key, value in values.items()}


def _bias(name: str, value: float | None) -> float:
    expected = "numbers in [-100, 100]"
    number = _real(name, value, expected, -100, 100)
    if number is None:
        _refuse(name, expected, value)
    return number


def _repetition_run(value: int | None) -> int | None:
    name = "sampling.max_repetition_run"
    run = _integer(name, value, 0, MAX_INT32)
    if run == 1:  # would end every candidate at its first token
        _refuse(name, f"0 or an integer in [2, {MAX_INT32}]", value)
    return run


def _boolean(name: str, value: bool | None) -> None:
    if value is not None and not isinstance(value, bool):
        _refuse(name, "true or false", value)


def _listed(name: str, values: object, most: int, what: str) -> list[object]:
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping)):
        _refuse(name, f"a list of {what}", values)
    out = list(values)
    if len(out) > most:
        raise InvalidRequestError(name, f"{name}: expected at most {most} {what}, got {len(out)}")
    return out


def _stop_strings(values: object) -> tuple[str, ...]:
    if isinstance(values, str):
        values = (values,)
    listed = _listed("sampling.stop", values, MAX_STOP_STRINGS, "strings")
    return tuple(_stop_string(value) for value in listed)


def _stop_string(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_STOP_CHARACTERS:
        _refuse("sampling.stop", f"non-empty strings of at most {MAX_STOP_CHARACTERS} characters", value)
    return value


def _stop_token_ids(values: object) -> tuple[int, ...]:
    name = "sampling.stop_token_ids"
    listed = _listed(name, values, MAX_STOP_TOKEN_IDS, "token ids")
    return tuple(whole_number(name, value, 0, MAX_INT32) for value in listed)


def param_scalars(field: str, values: object) -> dict[str, ParamScalar]:
    """A copy of a mapping of names to plain values; InvalidRequestError naming `field` or "field.NAME" for others."""
    if not isinstance(values, Mapping):
        _refuse(field, "a mapping of parameter names to values", values)
    return {_param_name(field, key): _param_value(f"{field}.{key}", value) for key, value in values.items()}


def _param_name(field: str, key: object) -> str:
    if not isinstance(key, str):
        _refuse(field, "names that are strings", key)
    return key


def _param_value(name: str, value: object) -> ParamScalar:
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return whole_number(name, value, -(2**63), 2**63 - 1)
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isfinite(number):
            return number
    _refuse(name, "a finite number, a string, true or false", value)
