"""The life of all children together: start, serve, drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydllm.supervisor.keeper import Keeper

if TYPE_CHECKING:
    from pydllm.supervisor.child import Event, Spec
    from pydllm.supervisor.keeper import Timing
    from pydllm.supervisor.stop import Stop

log = logging.getLogger("pydllm.supervisor")

Announce = Callable[[Mapping[str, "Event"]], None]
"""Takes the ready events by the child's name."""

FAILED = 1


class LoadingStoppedError(Exception):
    """A signal came before everything was ready; nothing was accepted, nothing is lost."""


async def supervise(specs: Sequence[Spec], *, timing: Timing, stop: Stop, announce: Announce) -> int:
    """Runs the children until `stop`; the exit code: 0 drained, 1 cut off, 128 + n after a second signal n.

    All start at the same time; `announce` is called when all are ready. From then on a child that ends is started
    again. Raises StartError when one cannot start at first, LoadingStoppedError, and what `announce` raises; no child
    is left in any case.
    """
    keepers = [Keeper(spec, timing) for spec in specs]
    grace, serving = timing.starting, False
    try:
        serving = await _all_ready(keepers, stop)
        if serving:
            grace = timing.drain
            announce({spec.name: keeper.ready.result() for spec, keeper in zip(specs, keepers, strict=True)})
            await _until_stopped(keepers, stop)
            log.info("draining: SIGTERM to every process, up to %g s", grace)
    finally:
        code = await _end(keepers, stop, grace)
    if code == 0 and not serving:
        raise LoadingStoppedError("stopped while loading")
    return code


async def _all_ready(keepers: Sequence[Keeper], stop: Stop) -> bool:
    """False when a signal came first. Raises StartError."""
    ready = asyncio.gather(*(keeper.ready for keeper in keepers))
    stopped = asyncio.create_task(stop.first.wait())
    await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
    if stopped.done():
        ready.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())  # nobody asks any more
        return False
    stopped.cancel()
    await ready
    return True


async def _until_stopped(keepers: Sequence[Keeper], stop: Stop) -> None:
    stopped = asyncio.create_task(stop.first.wait())
    done, _ = await asyncio.wait((stopped, *(keeper.task for keeper in keepers)), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in done:
        task.result()  # a keeper that ends by itself is a bug; it must not go unseen


async def _end(keepers: Sequence[Keeper], stop: Stop, grace: float) -> int:
    """Drains all children at once; the exit code."""
    ending = asyncio.gather(*(keeper.stop(grace) for keeper in keepers), return_exceptions=True)
    hurried = asyncio.create_task(stop.second.wait())
    await asyncio.wait((ending, hurried), return_when=asyncio.FIRST_COMPLETED)
    if hurried.done():
        for keeper in keepers:
            keeper.kill()
    hurried.cancel()
    drained = await ending
    if stop.second.is_set():
        return 128 + stop.number
    return 0 if all(outcome is True for outcome in drained) else FAILED
