"""The requests in flight by id, and how an operator ends one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pydllm.errors import RequestCancelledError
from pydllm.params import shown
from pydllm.server.errors import RequestIdInUseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydllm.engine import AsyncGeneration


class InFlight:
    """One request from the check of its id to the end of its call."""

    def __init__(self) -> None:
        self._generation: AsyncGeneration | None = None
        self._aborted: str | None = None

    def submitted(self, generation: AsyncGeneration) -> None:
        """The engine has taken it. Raises RequestCancelledError when it was aborted before."""
        self._generation = generation
        self.check()

    def check(self) -> None:
        """Raises RequestCancelledError when the request was aborted."""
        if self._aborted is not None:
            raise RequestCancelledError(self._aborted)

    def abort(self, message: str) -> bool:
        """Ends it; False when it has ended or was aborted before. The engine's word comes with the request's events."""
        if self._aborted is not None or (self._generation is not None and not self._generation.abort()):
            return False
        self._aborted = message
        return True


class Requests:
    """Ids are unique among the requests in flight. Event-loop thread only."""

    def __init__(self) -> None:
        self._running: dict[str, InFlight] = {}

    @contextlib.contextmanager
    def in_flight(self, request_id: str) -> Iterator[InFlight]:
        """Reserves a request's id while it runs; RequestIdInUseError when it is taken."""
        if request_id in self._running:
            raise RequestIdInUseError(f"request_id: {shown(request_id)} is in flight already")
        entry = self._running[request_id] = InFlight()
        try:
            yield entry
        except RequestCancelledError:
            entry.check()
            raise
        finally:
            del self._running[request_id]

    def ids(self) -> list[str]:
        """Of all of them."""
        return list(self._running)

    def abort(self, ids: Iterable[str], message: str) -> list[str]:
        """Ends the requests with exactly these ids; the ids of those that it ended. Unknown ones are no error."""
        found = ((request_id, self._running.get(request_id)) for request_id in dict.fromkeys(ids))
        return [request_id for request_id, entry in found if entry is not None and entry.abort(message)]
