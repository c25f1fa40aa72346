"""Files that options name: API keys, TLS material, parameters of the algorithm. UsageError for what cannot be used."""

from __future__ import annotations

import math
import os
import stat
from typing import TYPE_CHECKING, Any

from pydllm.cli.options import UsageError, api_key, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydllm.cli.options import Resolved

_LONGEST_KEY_FILE = 2**18
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_api_keys(path: str) -> tuple[str, ...]:
    """One key per line; empty lines and lines that begin with # do not count."""
    lines = enumerate(_read(path).splitlines(), start=1)
    keys = tuple(
        _key(path, number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")
    )
    if not keys:
        raise UsageError(f"api_key_file: {path}: expected one key per line, got none")
    return keys


def is_private(path: str) -> bool:
    """Whether only the file's owner can read or change it."""
    return not os.stat(path).st_mode & _OTHERS


def check_tls(settings: Mapping[str, Resolved]) -> None:
    """The files exist and can be read, and the options make sense together. What is in them the servers check."""
    given = {name: settings[name].value for name in ("tls_cert", "tls_key", "tls_client_ca") if settings[name].value}
    for name, needed in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
        if name in given and needed not in given:
            raise UsageError(f"{needed}: expected a file, because {name} is set")
    for name, path in given.items():
        _check_readable(name, path)


def read_algorithm_config(path: str) -> dict[str, Any]:
    """Parameters by name; the engine checks names and values."""
    entries = read_yaml(path)
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"algorithm_config: {path}: expected a mapping of parameters")
    for name, value in entries.items():
        if not isinstance(name, str):
            raise UsageError(f"algorithm_config: {path}: expected names as keys, got {name!r:.60}")
        if not isinstance(value, (bool, int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
            raise UsageError(f"algorithm_config: {path}: {name}: expected a number, true, false or a text")
    return entries


def _key(path: str, number: int, line: str) -> str:
    try:
        return api_key(line.strip())
    except ValueError as error:
        raise UsageError(f"api_key_file: {path}, line {number}: expected {error}") from None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST_KEY_FILE + 1)
    except OSError as error:
        raise UsageError(f"api_key_file: {path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError:
        raise UsageError(f"api_key_file: {path}: expected UTF-8 text") from None
    if len(text) > _LONGEST_KEY_FILE:
        raise UsageError(f"api_key_file: {path}: expected at most {_LONGEST_KEY_FILE} characters")
    return text


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(f"{name}: {path}: cannot be read: {os.strerror(error.errno or 0)}") from None
