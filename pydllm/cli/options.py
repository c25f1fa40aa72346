"""Options that come from a flag, the environment, a YAML file or the default, in this order."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PREFIX = "PYDLLM_"


class UsageError(Exception):
    """The configuration is wrong: one line for stderr, exit code 2."""


@dataclass(frozen=True)
class Option:
    """One option under its flag, environment variable and YAML key. `parse` raises ValueError: what it expects."""

    name: str
    help: str
    parse: Callable[[str], Any]
    default: Any = None
    """None: decided later, as the help says."""
    metavar: str = ""
    unset: str = "automatic"
    """What None is called where values are shown."""
    secret: bool = False
    """The value is never shown."""

    def shown(self, value: Any) -> str:
        """A value for people."""
        if value is None:
            return f"({self.unset})"
        return "(set)" if self.secret else str(value)

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The option in the environment."""
        return PREFIX + self.name.upper()


@dataclass(frozen=True)
class Resolved:
    """A value and where it came from: "flag", "env PYDLLM_…", "config FILE" or "default"."""

    value: Any
    source: str


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Parses an integer in [low, high]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"an integer in [{low}, {high}]")
        return value

    return parse


def real(low: float, high: float) -> Callable[[str], float]:
    """Parses a number in [low, high]."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"a number in [{low:g}, {high:g}]")
        return value

    return parse


def choice(*allowed: str) -> Callable[[str], str]:
    """Parses one of some words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return text

    return parse


def text(value: str) -> str:
    """Parses any non-empty text."""
    if not value:
        raise ValueError("a text that is not empty")
    return value


def api_key(value: str) -> str:
    """Parses what can be sent as a bearer token."""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("printable ASCII characters without spaces")
    return value


def switch(value: str) -> bool:
    """Parses true or false."""
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def add_options(parser: argparse.ArgumentParser, groups: Mapping[str, Sequence[Option]]) -> None:
    """Adds one flag per option; the values are parsed by `resolve`, so that every source gives the same errors."""
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            if option.parse is switch:
                group.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=option.help)
            else:
                group.add_argument(option.flag, default=None, metavar=option.metavar or "X", help=option.help)


def resolve(
    options: Sequence[Option], flags: Mapping[str, Any], environment: Mapping[str, str], config: str | None
) -> dict[str, Resolved]:
    """Every option's value and source. UsageError for a bad value, an unreadable file or an unknown key."""
    path = config or environment.get(PREFIX + "CONFIG") or None
    entries = read_config(path, [option.name for option in options]) if path else {}
    return {option.name: _resolved(option, flags, environment, entries, path) for option in options}


def _resolved(
    option: Option,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    entries: Mapping[str, Any],
    path: str | None,
) -> Resolved:
    if flags.get(option.name) is not None:
        return _parsed(option, flags[option.name], "flag", option.flag)
    if option.variable in environment:
        return _parsed(option, environment[option.variable], f"env {option.variable}", option.variable)
    if entries.get(option.name) is not None:
        return _parsed(option, entries[option.name], f"config {path}", f"{path}: {option.name}")
    return Resolved(option.default, "default")


def _parsed(option: Option, value: Any, source: str, where: str) -> Resolved:
    written = str(value).lower() if isinstance(value, bool) else str(value)
    try:
        if not isinstance(value, (str, int, float)):
            raise ValueError("a single value")
        return Resolved(option.parse(written), source)
    except ValueError as error:
        got = "" if option.secret else f", got {written[:60]!r}"
        raise UsageError(f"{where}: expected {error}{got}") from None


def read_config(path: str, known: Sequence[str]) -> dict[str, Any]:
    """A YAML file's entries; keys are written with - or _."""
    entries = read_yaml(path)
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        raise UsageError(f"{path}: expected a mapping of options")
    named = {str(key).replace("-", "_"): value for key, value in entries.items()}
    for key in named:
        if key not in known:
            raise UsageError(f"{path}: {key}: no such option; expected one of {', '.join(known)}")
    return named


def read_yaml(path: str) -> Any:
    """What a YAML file holds: plain data only."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no valid YAML: {' '.join(str(error).split())[:200]}") from None
