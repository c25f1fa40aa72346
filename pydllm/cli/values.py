"""Parameters of a request from resolved options, for the commands that generate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydllm.cli.options import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydllm.cli.options import Option, Resolved

SAMPLING = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "n",
    "ignore_eos",
    "max_repetition_run",
)
"""Options that are fields of SamplingParams."""
DIFFUSION = (
    "algorithm",
    "block_length",
    "max_steps_per_block",
    "max_forward_passes",
    "confidence_threshold",
    "entropy_threshold",
)
"""Options that are fields of DiffusionParams."""


DEMO_PACE = 0.06
"""Seconds that a step stays on the screen with the demo model, which is too quick to watch."""


def given(options: Mapping[str, Resolved], names: tuple[str, ...]) -> dict[str, Any]:
    """The values of those options that the command has and that are set."""
    return {name: options[name].value for name in names if name in options and options[name].value is not None}


def extra_param(written: str) -> tuple[str, bool | int | float | str]:
    """--param NAME=VALUE: a JSON number, true or false; anything else is text. UsageError otherwise."""
    name, equals, text = written.partition("=")
    if not (name and equals):
        raise UsageError(f"--param: expected NAME=VALUE, got {written[:60]!r}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return name, value if isinstance(value, bool | int | float) else text


def pace(options: Mapping[str, Resolved], *, demo: bool) -> float:
    """Seconds that every step of a live view stays on the screen at least."""
    asked = options["pace"].value
    if asked is not None:
        return float(asked)
    return DEMO_PACE if demo else 0.0


def check_server_options(options: Mapping[str, Resolved], *, local: Sequence[Option], remote: Sequence[Option]) -> None:
    """A flag that could have no effect is a UsageError: of a local model with --server, of a server without it."""
    served = options["server"].value is not None
    pointless = local if served else [option for option in remote if option.name != "server"]
    for option in pointless:
        if options[option.name].source == "flag":
            raise UsageError(f"{option.flag}: {'not with' if served else 'only with'} --server")
