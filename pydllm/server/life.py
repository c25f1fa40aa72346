"""The life of a server process: listen, load, serve until a signal or the parent's end, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

from pydllm.errors import PydllmError
from pydllm.server.app import App

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydllm.server.config import ServerConfig
    from pydllm.server.served import Served

log = logging.getLogger("pydllm.server")

ORPHAN_DRAIN_SECONDS = 5.0
"""How long running requests have once the parent process is gone."""


class LoadingStoppedError(Exception):
    """A signal came before the model was loaded. The loading thread may still run."""


class EngineEndedError(PydllmError):
    """The engine serves no more and nobody told it to stop: its device is lost, or memory ran out in it."""


async def serve(
    config: ServerConfig,
    load: Callable[[], Served],
    ready: Callable[[App, Served], None],
    *,
    parent: int | None = None,
) -> None:
    """Runs until SIGTERM or SIGINT and drains; a second signal ends the process at once.

    `load` runs in a thread while the port already answers STARTING; `ready` is called when requests are served.
    `parent`: a file descriptor whose end of file means that the parent process is gone; drains like a signal, but
    within ORPHAN_DRAIN_SECONDS. Raises ConfigError, PortError, LoadingStoppedError, EngineEndedError (whoever started
    this process starts another) and what `load` raises.
    """
    stop = asyncio.Event()
    app = App(config)

    def orphaned() -> None:
        log.warning("the parent process is gone")
        app.hurry(ORPHAN_DRAIN_SECONDS)
        stop.set()

    try:
        await app.start()
        with _signals(stop):
            _watch(parent, orphaned)
            served = await _loaded(load, stop)
            await app.publish(served)
            ready(app, served)
            ended = await _ended(served, stop)
            log.info("draining: up to %g s for %d calls", app.drain_seconds, app.lifecycle.running_calls)
            await app.drain()
            if ended:
                raise EngineEndedError("the engine ended by itself, see the failures of its requests")
    finally:
        await app.close()


def _watch(parent: int | None, gone: Callable[[], None]) -> None:
    """Calls `gone` in this event loop at the descriptor's end of file."""
    if parent is None:
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(parent, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends anyway
            loop.call_soon_threadsafe(gone)

    threading.Thread(target=read, name="pydllm-parent", daemon=True).start()


async def _ended(served: Served, stop: asyncio.Event) -> bool:
    """Waits for `stop` or the engine's own end, and whether it was the latter."""
    waits = [asyncio.ensure_future(wait) for wait in (stop.wait(), served.engine.ended())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return not stop.is_set()


async def _loaded(load: Callable[[], Served], stop: asyncio.Event) -> Served:
    """What `load` returns or raises. Its thread is a daemon: a signal must not wait for it."""
    loop = asyncio.get_running_loop()
    loading: asyncio.Future[Served] = loop.create_future()

    def settle(served: Served | None, error: BaseException | None) -> None:
        if loading.cancelled():
            return
        if error is not None:
            loading.set_exception(error)
        elif served is not None:
            loading.set_result(served)

    def run() -> None:
        outcome: tuple[Served | None, BaseException | None]
        try:
            outcome = (load(), None)
        except Exception as error:  # noqa: BLE001 - raised again in the event loop
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="pydllm-load", daemon=True).start()
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not loading.done():
        loading.cancel()
        raise LoadingStoppedError("stopped while loading")
    return loading.result()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    seen = False

    def on_signal(number: int) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + number)
        seen = True
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
