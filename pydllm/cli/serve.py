"""`pydllm serve`: the engine and its gRPC server in one process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from pydllm.cli.console import FAILED, OK, USAGE, fail, loading
from pydllm.cli.options import Resolved, UsageError, resolve
from pydllm.cli.settings import ENGINE, MODEL, SERVE, listed
from pydllm.errors import CheckpointError, InvalidRequestError, PydllmError, UnsupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pydllm.server.app import App
    from pydllm.server.loading import EngineConfig
    from pydllm.server.served import Served

_ENGINE_FIELDS = (
    "device",
    "dtype",
    "max_model_len",
    "max_batched_tokens",
    "max_running_requests",
    "max_waiting_requests",
    "page_size",
    "mem_fraction",
    "threads",
    "mask_token_id",
    "algorithm",
    "block_length",
    "allow_unused_tensors",
)


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core logs to stderr on its own
    options = (MODEL, *listed(SERVE), *listed(ENGINE))
    try:
        settings = resolve(options, vars(arguments), os.environ, arguments.config)
        config = engine_config(settings)
    except (UsageError, InvalidRequestError, UnsupportedError) as error:
        return fail("serve", error, USAGE)
    _log_to_stderr(settings["log_level"].value)
    _print_settings(settings)
    return _serve(settings, config)


def engine_config(settings: Mapping[str, Resolved]) -> EngineConfig:
    """The engine's part of the settings; InvalidRequestError or UnsupportedError for what it refuses."""
    from pydllm.server.loading import EngineConfig

    given = {name: settings[name].value for name in _ENGINE_FIELDS if settings[name].value is not None}
    return EngineConfig.from_options(**given)


def _serve(settings: Mapping[str, Resolved], config: EngineConfig) -> int:
    from pydllm.server.app import LoadingStoppedError, PortError, ServerConfig, serve

    server = ServerConfig(
        host=settings["host"].value,
        port=settings["grpc_port"].value,
        drain_timeout=settings["drain_timeout"].value,
    )
    try:
        asyncio.run(serve(server, lambda: _load(settings, config), _ready))
    except PortError as error:
        return fail("serve", error, USAGE)
    except LoadingStoppedError as error:
        fail("serve", error, OK)
        sys.stderr.flush()
        os._exit(OK)  # the loading thread cannot be stopped, and nothing was accepted yet
    except (InvalidRequestError, UnsupportedError) as error:
        return fail("serve", error, USAGE)
    except PydllmError as error:
        what = "checkpoint" if isinstance(error, CheckpointError) else "cannot start"
        return fail("serve", f"{what}: {error}", FAILED)
    return OK


def _load(settings: Mapping[str, Resolved], config: EngineConfig) -> Served:
    from pydllm.server.loading import load_served

    model = settings["model"].value
    with loading(model or "the embedded demo model") as progress:
        return load_served(
            model,
            config,
            served_model_name=settings["served_model_name"].value,
            revision=settings["revision"].value,
            progress=progress,
        )


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("pydllm").setLevel(level.upper())


def _print_settings(settings: Mapping[str, Resolved]) -> None:
    width = max(map(len, settings))
    for name, resolved in settings.items():
        value = "(automatic)" if resolved.value is None else resolved.value
        print(f"{name:{width}}  {value}  [{resolved.source}]", file=sys.stderr)


def _ready(app: App, served: Served) -> None:
    host = f"[{app.config.host}]" if ":" in app.config.host else app.config.host
    address = f"{host}:{app.port}"
    print(f"pydllm ready: model {served.name} on grpc://{address}", flush=True)
    print(_EXAMPLES.format(address=address), file=sys.stderr, flush=True)


_EXAMPLES = """\
  grpcurl -plaintext -d '{{"chat": {{"messages": [{{"role": "user", "content": "Solve: 12 + 30."}}]}}}}' \\
    {address} pydllm.v1.GenerationService/Generate
  python -c 'import grpc; from pydllm_proto.v1 import generation_service_pb2 as g, \
generation_service_pb2_grpc as s, types_pb2 as t; \
print(s.GenerationServiceStub(grpc.insecure_channel("{address}")).Generate(g.GenerateRequest(\
chat=t.ChatInput(messages=[t.ChatMessage(role="user", content="Solve: 12 + 30.")]))).candidates[0].text)'"""
