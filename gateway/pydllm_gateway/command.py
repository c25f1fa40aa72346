"""The command `pydllm-gateway`: a gateway of its own, in front of an engine that runs elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from pydllm_gateway.configure import ConfigError, parse, read_keys, settings_from
from pydllm_gateway.process import Events, configuration, log_to_stderr, serve
from pydllm_gateway.server import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydllm_gateway.settings import Settings

log = logging.getLogger("pydllm.gateway")

USAGE = 2

_OPTIONS = (
    ("engine", str, "HOST:PORT", "gRPC address of the engine (127.0.0.1:50051)"),
    ("engine-tls-ca", str, "FILE", "PEM certificates that the engine's is checked against; turns TLS to it on"),
    ("engine-api-key-file", str, "FILE", "API key for the engine"),
    ("host", str, "ADDRESS", "address to listen on (127.0.0.1)"),
    ("port", int, "PORT", "port to listen on, 0 for any free one (8000)"),
    ("api-key-file", str, "FILE", "API keys that clients must use, one per line"),
    ("tls-cert", str, "FILE", "PEM certificate chain; turns HTTPS on"),
    ("tls-key", str, "FILE", "its private key"),
    ("tls-client-ca", str, "FILE", "PEM certificates that clients' are checked against; demands client certificates"),
    ("drain-timeout", float, "SECONDS", "that running requests have after SIGTERM (30)"),
    ("max-body-bytes", int, "BYTES", "longest request body (8388608)"),
    ("log-level", str, "LEVEL", "debug, info, warning or error (info)"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"pydllm-gateway: {message}", file=sys.stderr)
        raise SystemExit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core logs to stderr on its own
    options = vars(_parser().parse_args(arguments))
    if options.pop("supervised"):
        return supervised()
    try:
        settings = _settings(options)
        _start_logging(settings)
        asyncio.run(serve(settings, lambda port: _announce(settings, port), watch_stdin=False))
    except (ConfigError, StartError) as error:
        print(f"pydllm-gateway: {error}", file=sys.stderr)
        return error.code if isinstance(error, StartError) else USAGE
    return 0


def supervised() -> int:
    """Serves under a supervisor; the exit code. Every failure is an event."""
    events = Events()
    try:
        settings = parse(configuration())
        log_to_stderr(settings.log_level)
        asyncio.run(serve(settings, lambda port: events.send("ready", port=port), watch_stdin=True))
    except (ConfigError, StartError) as error:
        code = error.code if isinstance(error, StartError) else USAGE
        events.send("failed", message=str(error), code=code)
        return code
    except Exception:
        log.exception("cannot start")
        events.send("failed", message="the gateway cannot start: internal error, see the log", code=1)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pydllm-gateway", description="OpenAI-compatible REST in front of a pydllm engine.")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    for name, kind, metavar, words in _OPTIONS:
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=words)
    return parser


def _settings(options: dict[str, object]) -> Settings:
    given = {name: value for name, value in options.items() if value is not None}
    if "api_key_file" in given:
        given["api_keys"] = read_keys(str(given.pop("api_key_file")))
    if "engine_api_key_file" in given:
        given["engine_api_key"] = read_keys(str(given.pop("engine_api_key_file")))[0]
    return settings_from(given)


def _start_logging(settings: Settings) -> None:
    log_to_stderr(settings.log_level)
    if _is_loopback(settings.host):
        return
    if not settings.api_keys and not settings.tls_client_ca:
        log.warning("%s is reachable from other machines and there is NO AUTHENTICATION", settings.host)
    if not settings.tls_cert:
        log.warning("%s is reachable from other machines and there is NO ENCRYPTION", settings.host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(settings: Settings, port: int) -> None:
    scheme = "https" if settings.tls_cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"pydllm-gateway ready: {scheme}://{host}:{port}", flush=True)
