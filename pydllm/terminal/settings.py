"""What a conversation asks of the model, changed by commands; every change is checked at once."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydllm import _core
from pydllm.errors import InvalidRequestError, PydllmError
from pydllm.params import DiffusionParams, ParamScalar, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNSET = "default"
"""Written for a value: back to the default."""
THRESHOLDS = ("confidence_threshold", "entropy_threshold")
STEPS = ("steps", "max_steps_per_block")
_FIELDS = frozenset(known.name for known in dataclasses.fields(DiffusionParams)) - {"algorithm", "extra"}
_REQUEST_LIMITS = ("max_forward_passes",)
"""Fields of DiffusionParams that every algorithm has."""


class SettingError(PydllmError):
    """A setting is wrong; one line."""


@dataclass(frozen=True)
class Settings:
    """The settings of a conversation. `sampling` and `params` hold what was set; all else is the model's own."""

    algorithm: str
    """A name of `algorithms`."""
    algorithms: tuple[str, ...]
    """Canonical names of what the model can run, the default first."""
    defaults: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The model's, by (algorithm, parameter); the algorithm's own where it says nothing."""
    attention: str = "full"
    """The model's, "full" or "block_causal"."""
    params: Mapping[str, ParamScalar] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""

    def sampling_params(self) -> SamplingParams:
        """For the next request."""
        return SamplingParams(**self.sampling)

    def diffusion_params(self) -> DiffusionParams:
        """For the next request."""
        fields = {name: value for name, value in self.params.items() if name in _FIELDS}
        extra = {name: value for name, value in self.params.items() if name not in _FIELDS}
        return DiffusionParams(algorithm=self.algorithm, **fields, extra=extra)  # type: ignore[arg-type]


def initial(
    algorithms: Sequence[str], defaults: Mapping[tuple[str, str], str] | None = None, attention: str = "full"
) -> Settings:
    """The model's defaults."""
    return Settings(algorithms[0] if algorithms else "", tuple(algorithms), defaults or {}, attention)


def with_algorithm(settings: Settings, name: str) -> tuple[Settings, list[str]]:
    """Another algorithm by name or alias, and the parameters that were set but that it does not have: they are gone."""
    chosen = next((known.name for known in _core.algorithms() if name in known.aliases), name)
    if chosen not in settings.algorithms:
        raise SettingError(f"algorithm: expected one of {', '.join(settings.algorithms)}, got {name!r}")
    known = _specs(replace(settings, algorithm=chosen))
    lost = [] if known is None else [key for key in settings.params if key not in (*known, *_REQUEST_LIMITS)]
    params = {key: value for key, value in settings.params.items() if key not in lost}
    return replace(settings, algorithm=chosen, params=params), lost


def with_param(settings: Settings, name: str, value: ParamScalar) -> Settings:
    """A parameter of the algorithm, checked against the registry of this build where that knows the algorithm."""
    if value == UNSET:
        gone = _own_name(settings, name)
        return replace(settings, params={key: kept for key, kept in settings.params.items() if key != gone})
    changed = replace(settings, params={**settings.params, **_checked(settings, name, value)})
    try:
        changed.diffusion_params()
    except InvalidRequestError as error:
        raise SettingError(str(error)) from None
    return changed


def with_sampling(settings: Settings, name: str, value: ParamScalar) -> Settings:
    """A field of SamplingParams."""
    sampling = {key: kept for key, kept in settings.sampling.items() if key != name}
    changed = replace(settings, sampling=sampling if value == UNSET else {**sampling, name: value})
    try:
        changed.sampling_params()
    except InvalidRequestError as error:
        raise SettingError(str(error)) from None
    return changed


def one_of(settings: Settings, names: Sequence[str]) -> str:
    """Which of these parameters the algorithm has."""
    known = _specs(settings)
    for name in names:
        if known is None or name in known:
            return name
    raise SettingError(f"{settings.algorithm} has none of {', '.join(names)}; it has {', '.join(known or ())}")


def names(settings: Settings) -> tuple[str, ...]:
    """Parameters that can be set now."""
    return (*(_specs(settings) or ()), *_REQUEST_LIMITS)


def scalar(written: str) -> ParamScalar:
    """A JSON number, true or false; anything else is text."""
    try:
        value = json.loads(written)
    except ValueError:
        return written
    return value if isinstance(value, bool | int | float) else written


def described(settings: Settings) -> str:
    """Every setting with its value, one per line."""
    lines = [f"algorithm  {settings.algorithm}  (of {', '.join(settings.algorithms)})"]
    defaults = _defaults(settings)
    for name in (*defaults, *(key for key in settings.params if key not in defaults)):
        value = settings.params.get(name)
        lines.append(f"  {name}  {f'default {defaults[name]}' if value is None else value}")
    for name in ("temperature", "max_tokens", "seed"):
        lines.append(f"{name}  {settings.sampling.get(name, UNSET)}")
    for name, value in settings.sampling.items():
        if name not in ("temperature", "max_tokens", "seed"):
            lines.append(f"{name}  {value}")
    return "\n".join([*lines, f"system  {settings.system or 'none'}"])


def default_block_length(settings: Settings) -> int:
    """The algorithm's; 0 when it has no blocks or is not known here."""
    written = _defaults(settings).get("block_length", "")
    return int(written) if written.isdigit() else 0


def _defaults(settings: Settings) -> dict[str, str]:
    """Of the algorithm's parameters: the model's, else the algorithm's own."""
    own = {name: spec.default for name, spec in (_specs(settings) or {}).items()}
    models = {name: value for (algorithm, name), value in settings.defaults.items() if algorithm == settings.algorithm}
    return own | models


def _specs(settings: Settings) -> dict[str, _core.ParamSpec] | None:
    """The algorithm's parameters on this model; None for one that this build does not know (a server's own)."""
    found = next((known for known in _core.algorithms() if known.name == settings.algorithm), None)
    return None if found is None else {spec.name: spec for spec in found.params if settings.attention in spec.attention}


def _own_name(settings: Settings, name: str) -> str:
    """The parameter's name, of that or an alias."""
    specs = _specs(settings)
    if specs is None or name in specs or name in _REQUEST_LIMITS:
        return name
    found = next((spec.name for spec in specs.values() if spec.alias == name), None)
    if found is None:
        raise SettingError(f"{name}: expected a parameter of {settings.algorithm} ({', '.join(specs)})")
    return found


def _checked(settings: Settings, name: str, value: ParamScalar) -> dict[str, ParamScalar]:
    if name in _REQUEST_LIMITS or _specs(settings) is None:
        return {name: value}
    try:
        return _core.check_params(settings.algorithm, {name: value}, attention=settings.attention)
    except _core.CoreError as error:
        raise SettingError(str(error)) from None
