"""What `pydllm serve` was asked for, and what it tells each child. The children check the values they use."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydllm.supervisor.child import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

API_KEY_VARIABLE = "PYDLLM_API_KEY"
_SECRET_VARIABLES = frozenset({API_KEY_VARIABLE})
_HUB_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""What only the process that downloads needs."""
_LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel's limit is 107."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The options of `pydllm serve`. Ports: 0 is any free one. Times in seconds."""

    model: str | None = None
    revision: str | None = None
    served_model_name: str | None = None
    log_level: str = "info"
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Fields of EngineConfig that were given."""
    host: str = "127.0.0.1"
    grpc_port: int = 50051
    http_port: int = 8000
    metrics_port: int = 8002
    gateway: bool = True
    drain_timeout: float = 30.0
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    enable_admin: bool = False
    metrics_alias: bool = False
    skip_tokenizer: bool = False

    @property
    def ports(self) -> dict[str, int]:
        """The ports that will be listened on, by option."""
        http = {"http_port": self.http_port} if self.gateway else {}
        return {"grpc_port": self.grpc_port, **http, "metrics_port": self.metrics_port}


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that only this user can enter, with a path short enough for a socket in it."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _LONGEST_SOCKET_PATH - len("/pydllm-12345678/engine.sock"):
        base = "/tmp"  # noqa: S108 - mkdtemp makes it private
    return tempfile.TemporaryDirectory(prefix="pydllm-", dir=base, ignore_cleanup_errors=True)


def specs(config: ServeConfig, folder: str) -> tuple[Spec, ...]:
    """The children: the engine, and the gateway when it is wanted. `folder` holds their socket."""
    internal_key = secrets.token_urlsafe(32)
    socket = os.path.join(folder, "engine.sock") if config.gateway else None
    engine = _spec("engine", "pydllm.server", engine_config(config, socket, internal_key), _SECRET_VARIABLES)
    if socket is None:
        return (engine,)
    told = gateway_config(config, socket, internal_key)
    return (engine, _spec("gateway", "pydllm_gateway", told, _SECRET_VARIABLES | _HUB_VARIABLES))


def engine_config(config: ServeConfig, socket: str | None, internal_key: str) -> dict[str, Any]:
    """The line for `python -m pydllm.server --supervised`."""
    return {
        "model": config.model,
        "revision": config.revision,
        "served_model_name": config.served_model_name,
        "log_level": config.log_level,
        "engine": dict(config.engine),
        "server": {
            **_shared(config),
            "port": config.grpc_port,
            "socket": socket,
            "internal_key": internal_key if socket else None,
            "enable_admin": config.enable_admin,
            "metrics_port": config.metrics_port,
            "metrics_alias": config.metrics_alias,
            "skip_tokenizer": config.skip_tokenizer,
        },
    }


def gateway_config(config: ServeConfig, socket: str, internal_key: str) -> dict[str, Any]:
    """The line for `python -m pydllm_gateway --supervised`."""
    return {
        **_shared(config),
        "engine": f"unix:{socket}",
        "engine_api_key": internal_key,
        "port": config.http_port,
        "log_level": config.log_level,
    }


def _shared(config: ServeConfig) -> dict[str, Any]:
    return {
        "host": config.host,
        "drain_timeout": config.drain_timeout,
        "api_keys": list(config.api_keys),
        "tls_cert": config.tls_cert,
        "tls_key": config.tls_key,
        "tls_client_ca": config.tls_client_ca,
    }


def _spec(name: str, module: str, told: dict[str, Any], hidden: frozenset[str]) -> Spec:
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment.setdefault("GRPC_VERBOSITY", "NONE")  # its C core logs to stderr on its own
    # -P: what lies in the current directory must not be imported in place of a library
    return Spec(
        name=name,
        command=(sys.executable, "-P", "-m", module, "--supervised"),
        config=told,
        environment=environment,
    )
