"""`pydllm serve`: resolves the options and supervises an engine process and a gateway process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from pydllm.cli.console import OK, USAGE, fail
from pydllm.cli.files import check_tls, is_private, read_algorithm_config, read_api_keys
from pydllm.cli.options import Resolved, UsageError, resolve
from pydllm.cli.settings import ENGINE, MODEL, SERVE, listed
from pydllm.supervisor.config import ServeConfig, private_folder, specs
from pydllm.supervisor.examples import examples, ready_line
from pydllm.supervisor.keeper import StartError, Timing
from pydllm.supervisor.ports import PortError, check_ports
from pydllm.supervisor.stop import Stop
from pydllm.supervisor.supervisor import LoadingStoppedError, supervise

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pydllm.supervisor.child import Event

log = logging.getLogger("pydllm.supervisor")

OPTIONS = (MODEL, *listed(SERVE), *listed(ENGINE))
_ENGINE_FIELDS = (*(option.name for option in listed(ENGINE)), "algorithm", "block_length")
_PLAIN_FIELDS = (
    "model",
    "revision",
    "served_model_name",
    "log_level",
    "host",
    "grpc_port",
    "http_port",
    "metrics_port",
    "gateway",
    "drain_timeout",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "enable_admin",
    "metrics_alias",
    "skip_tokenizer",
)
_SLACK = 15.0
"""Seconds beyond the drain timeout that the children have to clean up."""


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    try:
        settings = resolve(OPTIONS, vars(arguments), os.environ, arguments.config)
        config = serve_config(settings)
        _log_to_stderr(config.log_level)
        check_ports(config.host, config.ports)
    except (UsageError, PortError) as error:
        return fail("serve", error, USAGE)
    _print_settings(settings)
    _warn_of_readers(settings["api_key_file"].value)
    try:
        return asyncio.run(_serve(config))
    except StartError as error:
        return fail("serve", error, error.code)
    except LoadingStoppedError as error:
        return fail("serve", error, OK)


def serve_config(settings: Mapping[str, Resolved]) -> ServeConfig:
    """The settings as plain values, with the files that they name. UsageError for what cannot be used."""
    check_tls(settings)
    values = {name: settings[name].value for name in _PLAIN_FIELDS}
    return ServeConfig(engine=_engine_fields(settings), api_keys=_api_keys(settings), **values)


def _engine_fields(settings: Mapping[str, Resolved]) -> dict[str, Any]:
    fields = {name: settings[name].value for name in _ENGINE_FIELDS if settings[name].value is not None}
    path = settings["algorithm_config"].value
    return {**fields, "algorithm_params": read_algorithm_config(path)} if path else fields


def _api_keys(settings: Mapping[str, Resolved]) -> tuple[str, ...]:
    key, path = settings["api_key"].value, settings["api_key_file"].value
    return (*([key] if key else []), *(read_api_keys(path) if path else []))


async def _serve(config: ServeConfig) -> int:
    timing, stop = Timing(drain=config.drain_timeout + _SLACK), Stop()

    def announce(events: Mapping[str, Event]) -> None:
        print(ready_line(config, events), flush=True)
        print(examples(config, events), file=sys.stderr, flush=True)

    with private_folder() as folder, stop.installed():
        return await supervise(specs(config, folder), timing=timing, stop=stop, announce=announce)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("pydllm").setLevel(level.upper())


def _print_settings(settings: Mapping[str, Resolved]) -> None:
    width = max(map(len, settings))
    for option in OPTIONS:
        resolved = settings[option.name]
        unused = option.name == "http_port" and not settings["gateway"].value
        value = "(unused without the gateway)" if unused else option.shown(resolved.value)
        print(f"{option.name:{width}}  {value}  [{resolved.source}]", file=sys.stderr)


def _warn_of_readers(key_file: str | None) -> None:
    if key_file and not is_private(key_file):
        log.warning("api_key_file: %s can be read by other users of this machine (chmod 600 keeps them out)", key_file)
