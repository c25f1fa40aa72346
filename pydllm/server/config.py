"""What a server is told at its start, checked once at the edge."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydllm.engine import EngineConfig
from pydllm.params import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path that the kernel takes."""


class ConfigError(Exception):
    """A setting is wrong; one line that names it. Exit code 2."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where to listen, whom to let in and how to stop."""

    host: str = "127.0.0.1"
    port: int = 50051
    """0: any free port."""
    drain_timeout: float = 30.0
    """Seconds that running requests have after the first SIGTERM."""
    socket: str | None = None
    """Path of a unix socket that is listened on as well, without TLS; its directory must be private."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Bearer tokens that clients may use; empty: no authentication."""
    internal_key: str | None = field(default=None, repr=False)
    """One more token, for the gateway; demands nothing by itself."""
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    """PEM files; a client CA demands client certificates."""
    enable_admin: bool = False
    """Serve AdminService."""
    metrics_port: int | None = None
    """Port of the Prometheus page; 0: any free one, None: no page."""
    metrics_alias: bool = False
    """Show the metrics under vLLM's names as well."""
    skip_tokenizer: bool = False
    """Serve token ids only: no tokenizer and no chat template are read."""


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """The whole configuration of an engine process."""

    model: str | None = None
    """Checkpoint directory or Hugging Face id; None: the embedded demo model."""
    revision: str | None = None
    served_model_name: str | None = None
    log_level: str = "info"
    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerConfig = field(default_factory=ServerConfig)


@dataclass(frozen=True)
class _Kind:
    expected: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable() and bool(value) and " " not in value


def _or_null(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.expected} or null", lambda value: value is None or kind.accepts(value))


_TEXT = _Kind("a text", lambda value: isinstance(value, str) and bool(value) and "\0" not in value)
_SWITCH = _Kind("true or false", lambda value: isinstance(value, bool))
_PORT = _Kind("an integer in [0, 65535]", _port)
_SOCKET = _Kind(
    f"an absolute path of at most {MAX_SOCKET_PATH} bytes",
    lambda value: _TEXT.accepts(value) and value.startswith("/") and len(value.encode()) <= MAX_SOCKET_PATH,
)
_KEY = _Kind("printable ASCII without spaces", _is_key)
_KEYS = _Kind(
    "a list of keys, printable ASCII without spaces", lambda v: isinstance(v, list) and all(map(_is_key, v)), tuple
)
_LEVELS = ("debug", "info", "warning", "error")

_SERVER: Mapping[str, _Kind] = {
    "host": _TEXT,
    "port": _PORT,
    "drain_timeout": _Kind("seconds in [0, 86400]", _number(0, 86400)),
    "socket": _or_null(_SOCKET),
    "api_keys": _KEYS,
    "internal_key": _or_null(_KEY),
    "tls_cert": _or_null(_TEXT),
    "tls_key": _or_null(_TEXT),
    "tls_client_ca": _or_null(_TEXT),
    "enable_admin": _SWITCH,
    "metrics_port": _or_null(_PORT),
    "metrics_alias": _SWITCH,
    "skip_tokenizer": _SWITCH,
}
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_PROCESS: Mapping[str, _Kind] = {
    "model": _or_null(_TEXT),
    "revision": _or_null(_TEXT),
    "served_model_name": _or_null(_TEXT),
    "log_level": _Kind("one of " + ", ".join(_LEVELS), lambda value: value in _LEVELS),
    "engine": _OBJECT,
    "server": _OBJECT,
}
_SECRET = ("api_keys", "internal_key")


def parse(line: bytes) -> ProcessConfig:
    """The configuration of an engine process from its line of JSON.

    Raises ConfigError, and EngineConfig's InvalidRequestError or UnsupportedError.
    """
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError("configuration: expected one line with a JSON object") from None
    if not isinstance(given, dict):
        raise ConfigError("configuration: expected one line with a JSON object")
    checked = _checked(given, _PROCESS, "")
    engine = EngineConfig.from_options(**checked.pop("engine", {}))
    server = ServerConfig(**_checked(checked.pop("server", {}), _SERVER, "server."))
    return ProcessConfig(engine=engine, server=server, **checked)


def _checked(given: Mapping[str, Any], kinds: Mapping[str, _Kind], prefix: str) -> dict[str, Any]:
    for name in given:
        if name not in kinds:
            raise ConfigError(f"{prefix}{name}: no such setting; expected one of {', '.join(kinds)}")
    return {name: _value(value, kinds[name], prefix + name) for name, value in given.items()}


def _value(value: Any, kind: _Kind, path: str) -> Any:
    if not kind.accepts(value):
        got = "" if path.endswith(_SECRET) else f", got {shown(value)}"
        raise ConfigError(f"{path}: expected {kind.expected}{got}")
    return value if value is None else kind.convert(value)
