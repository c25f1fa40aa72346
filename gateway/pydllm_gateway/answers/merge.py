"""Several streams read as one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

T = TypeVar("T")

_AHEAD = 16  # messages read before a slow client has taken them; the engine's own buffers do the rest


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """(number of the stream, message) in order of arrival.

    The first failure ends all of them and is raised here; closing this generator closes them too.
    """
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(_AHEAD)
    readers = [asyncio.create_task(_read(number, stream, queue)) for number, stream in enumerate(streams)]
    try:
        running = len(readers)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(
    number: int, stream: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[int, T] | Exception | None]
) -> None:
    """Ends with None or the failure in the queue, unless it is cancelled: then nobody reads any more."""
    try:
        async with contextlib.aclosing(stream):
            async for message in stream:
                await queue.put((number, message))
    except Exception as error:  # noqa: BLE001 - raised again by the queue's reader
        await queue.put(error)
    else:
        await queue.put(None)
