"""Settings from what a supervisor or a command line says. Whatever is wrong with them is one line."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pydllm_gateway.body import parse as parse_json
from pydllm_gateway.errors import ApiError
from pydllm_gateway.invalid import expectation, field_name
from pydllm_gateway.settings import Settings

_SETTINGS = TypeAdapter(Settings)
_LONGEST_KEY_FILE = 64 * 1024


class ConfigError(Exception):
    """An unusable configuration; one line for the operator, without secrets."""


def parse(line: bytes) -> Settings:
    """Settings from one JSON object. Raises ConfigError."""
    try:
        return settings_from(parse_json(line))
    except ApiError as error:
        raise ConfigError(f"configuration: {error.message.replace('the body', 'the line')}") from None


def settings_from(fields: dict[str, Any]) -> Settings:
    """Settings from plain values. Raises ConfigError naming the field; never shows a value, which may be a secret."""
    try:
        settings = _SETTINGS.validate_json(json.dumps(fields))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = field_name(problem["loc"])
        known = problem["type"] not in {"unexpected_keyword_argument", "extra_forbidden"}
        raise ConfigError(f"{name}: expected {expectation(problem)}" if known else f"{name}: no such option") from None
    check_engine_ca(settings)
    return settings


def check_engine_ca(settings: Settings) -> None:
    """The file must hold certificates: gRPC would only fail to connect, later."""
    if settings.engine_tls_ca is None:
        return
    try:
        ssl.create_default_context(cafile=settings.engine_tls_ca)
    except OSError as error:  # ssl.SSLError is one
        reason = "no PEM certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"engine_tls_ca: {settings.engine_tls_ca} cannot be used: {reason}") from None


def read_keys(path: str) -> tuple[str, ...]:
    """API keys of a file, one per line; empty lines and lines that begin with # do not count. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LONGEST_KEY_FILE + 1).decode("ascii")
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the key file {path} is not ASCII text") from None
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys or len(text) > _LONGEST_KEY_FILE:
        raise ConfigError(f"the key file {path} holds {'no key' if not keys else 'more than 64 KiB'}")
    return keys
