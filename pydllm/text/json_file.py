"""Bounded reading of a checkpoint's files: untrusted data, so size, shape and nesting are checked before
use."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any, NoReturn

from pydllm.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_CONTAINERS = 8_000_000
"""A JSON list or dict costs about 60 bytes in Python for 2 in the file; this bounds a hostile file to 0.5
GB."""


def one_line(text: object, *, limit: int = 200) -> str:
    """The first non-empty line of `text`, printable and at most `limit` characters."""
    lines = str(text)[: 10 * limit].strip().splitlines()
    line = "".join(c if c.isprintable() else " " for c in (lines[0] if lines else "")).strip()
    return line if len(line) <= limit else line[: limit - 3] + "..."


def read_bytes(path: Path, *, max_bytes: int) -> bytes | None:
    """The content of a regular file, None when there is none. CheckpointError when unreadable or too
    large."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1) if _is_regular(path) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: cannot be read ({one_line(_reason(error))})") from None
    if data is None:
        raise CheckpointError(f"{path.name}: expected a regular file")
    if len(data) > max_bytes:
        raise CheckpointError(f"{path.name}: larger than {max_bytes} bytes")
    return data


def read_text(path: Path, *, max_bytes: int) -> str | None:
    """The UTF-8 content of a file, None when there is none. CheckpointError as in read_bytes."""
    data = read_bytes(path, max_bytes=max_bytes)
    try:
        return None if data is None else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name}: not UTF-8 at byte {error.start}") from None


def read_json_object(path: Path, *, max_bytes: int) -> dict[str, Any] | None:
    """A JSON object, None when the file is absent. CheckpointError when it is anything else."""
    data = read_bytes(path, max_bytes=max_bytes)
    return None if data is None else parse_json_object(data, name=path.name)


def parse_json_object(data: bytes, *, name: str) -> dict[str, Any]:
    """Strict JSON: an object in UTF-8, no NaN or Infinity, bounded nesting."""
    if data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS:
        raise CheckpointError(f"{name}: more than {_MAX_CONTAINERS} JSON lists and objects")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise CheckpointError(f"{name}: JSON nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{name}: not valid JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.stat().st_mode)


def _reason(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else type(error).__name__


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
