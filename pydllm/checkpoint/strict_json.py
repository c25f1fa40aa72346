"""JSON files of a checkpoint, which are untrusted: bounded, strict, refusals name the file in one line."""

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydllm.errors import CheckpointError

_SHOWN = 60
_MAX_CONTAINERS = 2_000_000
"""Lists and objects of one file: two bytes there become about sixty in memory."""


def shown(value: object) -> str:
    """A value from a file for a message: JSON notation, ASCII, one line, cut after 60 characters."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def file_label(name: str) -> str:
    """A file name for a message, with everything but printable ASCII escaped."""
    return name if name.isascii() and name.isprintable() else ascii(name)[1:-1]


def refuse_field(file: str, field: str, expected: str, got: object) -> NoReturn:
    """Raises the CheckpointError for one field."""
    raise CheckpointError(f"{file}: {file_label(field)}: expected {expected}, got {shown(got)}")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO opens at once instead of waiting for a writer


def read_bounded(path: Path, *, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; never waits on a FIFO or device."""
    name = file_label(path.name)
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"{name}: expected a regular file")
            data = file.read(limit + 1)
    except IsADirectoryError:
        raise CheckpointError(f"{name}: expected a regular file") from None
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise CheckpointError(f"{name}: expected at most {limit} bytes, got more")
    return data


class _RefusedError(ValueError):
    """What the hooks below found wrong."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _RefusedError(f"duplicate key {shown(key)}")
        out[key] = value
    return out


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedError(f"number {text[:_SHOWN]} is out of range")
    return value


def _no_constant(text: str) -> NoReturn:
    raise _RefusedError(f"{text} is no JSON number")


def parse_object(data: bytes, *, file: str) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN or infinities at any depth. Raises CheckpointError."""
    if data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS:
        raise CheckpointError(f"{file}: expected at most {_MAX_CONTAINERS} JSON lists and objects")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: expected UTF-8 text, byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file}: not JSON: line {error.lineno}: {error.msg}") from None
    except _RefusedError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{file}: nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise CheckpointError(f"{file}: a number is too long") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {shown(value)}")
    return value


def read_object(path: Path, *, limit: int) -> dict[str, Any]:
    """`parse_object` of a file."""
    return parse_object(read_bounded(path, limit=limit), file=file_label(path.name))


class Fields:
    """Typed access to one JSON object that remembers what was read. Absent and null mean the default."""

    def __init__(self, values: Mapping[str, Any], *, file: str) -> None:
        self._values = values
        self._file = file
        self._read: set[str] = set()

    @property
    def file(self) -> str:
        return self._file

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._values.get(name)

    def refuse(self, name: str, expected: str) -> NoReturn:
        if name not in self._values:
            raise CheckpointError(f"{self._file}: {file_label(name)}: expected {expected}, the field is missing")
        refuse_field(self._file, name, expected, self._values[name])

    def integer(self, name: str, *, minimum: int, maximum: int = 2**31 - 1) -> int:
        value = self.optional_integer(name, minimum=minimum, maximum=maximum)
        if value is None:
            self.refuse(name, f"an integer in [{minimum}, {maximum}]")
        return value

    def optional_integer(self, name: str, *, minimum: int, maximum: int = 2**31 - 1) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if type(value) is not int or not minimum <= value <= maximum:
            self.refuse(name, f"an integer in [{minimum}, {maximum}]")
        return value

    def optional_number(
        self, name: str, *, minimum: float, maximum: float = math.inf, above: bool = False
    ) -> float | None:
        """A number in [minimum, maximum], or in (minimum, maximum] when `above`."""
        value = self.get(name)
        if value is None:
            return None
        good = type(value) in (int, float) and (minimum < value if above else minimum <= value) and value <= maximum
        if not good or abs(value) > 1e300:
            bound = f"a number {'>' if above else '>='} {minimum:g}"
            self.refuse(name, bound if math.isinf(maximum) else f"{bound} and <= {maximum:g}")
        return float(value)

    def boolean(self, name: str, *, default: bool | None = None) -> bool:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not bool:
            self.refuse(name, "true or false")
        return value

    def token_id(self, name: str, *, vocab_size: int) -> int | None:
        return self.optional_integer(name, minimum=0, maximum=vocab_size - 1)

    def token_ids(self, name: str, *, vocab_size: int) -> tuple[int, ...] | None:
        """An id or a list of ids, without repetitions, in the order of the file."""
        value = self.get(name)
        if value is None:
            return None
        ids = value if isinstance(value, list) else [value]
        if any(type(i) is not int or not 0 <= i < vocab_size for i in ids):
            self.refuse(name, f"an id or a list of ids in [0, {vocab_size - 1}]")
        return tuple(dict.fromkeys(ids))

    def unread(self) -> list[str]:
        return sorted(set(self._values) - self._read)
