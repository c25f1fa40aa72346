"""An engine process under a supervisor: configuration on stdin, events on stdout, the end of stdin is the parent's end.

The configuration is one line of JSON (config.ProcessConfig). Events are lines of JSON; nothing else is ever written to
stdout: {"event": "ready", "model", "grpc_port", "metrics_port"} and {"event": "failed", "message", "code"}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import TYPE_CHECKING

from pydllm.console import loading
from pydllm.errors import CheckpointError, InvalidRequestError, PydllmError, UnsupportedError
from pydllm.server.config import ConfigError, ProcessConfig, parse
from pydllm.server.life import EngineEndedError, LoadingStoppedError, serve
from pydllm.server.listen import PortError
from pydllm.server.loading import load_served

if TYPE_CHECKING:
    from pydllm.server.app import App
    from pydllm.server.served import Served

log = logging.getLogger("pydllm.server")

OK = 0
FAILED = 1
"""The checkpoint, the model or anything else."""
USAGE = 2
"""Options, address, port: nothing was attempted."""

STDIN, STDOUT, STDERR = 0, 1, 2
MAX_LINE_BYTES = 1 << 20
"""Of the configuration."""


class Events:
    """The event lines. Takes stdout for itself: whatever else prints goes to stderr from now on."""

    def __init__(self) -> None:
        self._out = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)

    def send(self, event: str, **fields: object) -> None:
        """Writes one line; a parent that is gone misses it."""
        line = json.dumps({"event": event, **fields}) + "\n"
        try:
            os.write(self._out, line.encode())
        except OSError:
            log.warning("nobody reads the event %s", event)


def main() -> int:
    """Serves until a signal or the parent's end; the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core logs to stderr on its own
    events = Events()
    try:
        _run(parse(_configuration()), events)
    except LoadingStoppedError:
        sys.stderr.flush()
        os._exit(OK)  # the loading thread cannot be stopped, and nothing was accepted yet
    except Exception as error:  # noqa: BLE001 - the parent hears of every failure
        message, code = _failure(error)
        events.send("failed", message=" ".join(message.split()), code=code)
        return code
    return OK


def _run(config: ProcessConfig, events: Events) -> None:
    _log_to_stderr(config.log_level)

    def ready(app: App, served: Served) -> None:
        events.send("ready", model=served.name, grpc_port=app.port, metrics_port=app.metrics_port)

    asyncio.run(serve(config.server, lambda: _load(config), ready, parent=STDIN))


def _load(config: ProcessConfig) -> Served:
    with loading(config.model or "the embedded demo model") as progress:
        served = load_served(
            config.model,
            config.engine,
            served_model_name=config.served_model_name,
            revision=config.revision,
            skip_tokenizer=config.server.skip_tokenizer,
            progress=progress,
        )
    loaded = served.engine.loaded
    if loaded.info.device != "cpu":
        log.info("on %s, bfloat16 matrix products: %s", loaded.info.device, loaded.matmul)
    return served


def _configuration() -> bytes:
    """The first line of stdin. Read unbuffered: the rest of stdin is the watch for the parent's end."""
    given = b""
    while b"\n" not in given and len(given) < MAX_LINE_BYTES:
        part = os.read(STDIN, 65536)
        if not part:
            break
        given += part
    return given.split(b"\n", 1)[0]


def _failure(error: Exception) -> tuple[str, int]:
    """One line for the operator and the exit code."""
    if isinstance(error, (ConfigError, PortError, InvalidRequestError, UnsupportedError)):
        return str(error), USAGE
    if isinstance(error, CheckpointError):
        return f"checkpoint: {error}", FAILED
    if isinstance(error, EngineEndedError):
        return str(error), FAILED
    if isinstance(error, PydllmError):
        return f"cannot start: {error}", FAILED
    log.error("cannot start", exc_info=error)
    return "cannot start: internal error, see the log", FAILED


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("pydllm").setLevel(level.upper())
    # gRPC reports a call that is cancelled before its handler runs as an error of ours.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_cancellation)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)
