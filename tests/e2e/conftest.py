"""One real `pydllm serve` for all tests here, and one that demands a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stack import KEY, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The demo model. After the tests nothing runs in it, no process has died and no traceback was written."""
    with Stack("--max-running-requests", "128") as running:
        pids = running.pids()
        yield running
        running.wait_idle()
        assert running.pids() == pids
        assert "Traceback" not in running.errors(), running.errors()[-4000:]
        assert running.stop() == 0


@pytest.fixture(scope="session")
def keyed() -> Iterator[Stack]:
    """A server that demands one of two API keys."""
    with Stack(PYDLLM_API_KEY=KEY) as running:
        yield running
