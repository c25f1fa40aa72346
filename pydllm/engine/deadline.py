"""A deadline: a budget of time that begins when it is made."""

from __future__ import annotations

import math
import time

from pydllm.params import finite_number

NO_PLACE_IN_TIME = "the deadline passed while the request waited for a place in the queue"


class Deadline:
    """Counts down from now. Monotonic time."""

    def __init__(self, seconds: float | None) -> None:
        """None: there is none. InvalidRequestError for what is no finite number."""
        given = finite_number("deadline_seconds", seconds)
        self._end = math.inf if given is None else time.monotonic() + given

    def left(self) -> float | None:
        """Seconds until it passes, below 0 afterwards; None when there is none."""
        return None if self._end == math.inf else self._end - time.monotonic()

    @property
    def passed(self) -> bool:
        """Nothing is left."""
        return time.monotonic() >= self._end
