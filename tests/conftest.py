"""What every Python test may use: where the golden data lie, and engines that are loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from devices import DEVICE

from pydllm.llm import LLM

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """A random LLaDA of 3 layers, vocabulary 352, float32."""
    return GOLDEN / "checkpoints" / "llada-tiny"


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path) -> Iterator[LLM]:
    """The random model with the checks of debug builds on. After the tests its pages must be free and intact."""
    with LLM(tiny_checkpoint, device=DEVICE, debug_checks=True) as llm:
        yield llm
        stats = llm.engine.stats()
        assert stats.integrity == ""


@pytest.fixture(scope="session")
def demo() -> Iterator[LLM]:
    """The trained demo model that ships with the package."""
    with LLM(device=DEVICE) as llm:
        yield llm
