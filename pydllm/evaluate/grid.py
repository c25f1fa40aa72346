"""Settings to compare: a decoding algorithm with its parameters, as one line of text."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from pydllm.errors import PydllmError
from pydllm.params import DiffusionParams

_TYPED = tuple(field.name for field in dataclasses.fields(DiffusionParams) if field.name not in ("algorithm", "extra"))


class SettingError(PydllmError):
    """A setting cannot be understood: one line."""


@dataclass(frozen=True)
class Setting:
    """What one row of the table was decoded with."""

    label: str
    diffusion: DiffusionParams


def parse(text: str) -> Setting:
    """ "ALGORITHM NAME=VALUE ..."; "default" is the model's own choice. Raises SettingError and InvalidRequestError."""
    words = text.split()
    if not words:
        raise SettingError("--setting: expected ALGORITHM NAME=VALUE ..., got nothing")
    values = dict(map(_assignment, words[1:]))
    typed: dict[str, Any] = {name: values.pop(name) for name in _TYPED if name in values}
    algorithm = "" if words[0] == "default" else words[0]
    return Setting(" ".join(words), DiffusionParams(algorithm=algorithm, extra=values, **typed))


def _assignment(word: str) -> tuple[str, bool | int | float | str]:
    name, equals, written = word.partition("=")
    if not (name and equals):
        raise SettingError(f"--setting: expected NAME=VALUE, got {word[:60]!r}")
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    return name, value if isinstance(value, bool | int | float) else written


def default_grid(max_tokens: int) -> list[Setting]:
    """The curve of the README: fixed schedules, confidence and entropy thresholds, block lengths."""
    block = 32
    lines = [
        f"llada_schedule block_length={block} steps={max(max_tokens // per_step, max_tokens // block)}"
        for per_step in (1, 2, 4, 8, 16, 32)
    ]
    lines += [
        f"confidence_threshold block_length={block} confidence_threshold={threshold}"
        for threshold in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
    ]
    lines += [
        f"entropy_threshold block_length={block} entropy_threshold={threshold}" for threshold in (0.1, 0.3, 0.5, 1.0)
    ]
    lines += [
        f"confidence_threshold block_length={length} confidence_threshold=0.9"
        for length in (4, 8, 16, max_tokens)
        if length != block
    ]
    return [parse(line) for line in dict.fromkeys(lines)]
