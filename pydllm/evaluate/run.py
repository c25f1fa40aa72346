"""Runs a suite under one setting with a fixed number of problems at once."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydllm.evaluate.backends import Backend, Reply
    from pydllm.evaluate.grid import Setting
    from pydllm.evaluate.suite import Item
    from pydllm.params import SamplingParams


@dataclass(frozen=True)
class Score:
    """Right answers of one family."""

    right: int
    count: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.count

    @property
    def standard_error(self) -> float:
        """Of the accuracy, binomial."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.count)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting at one batch size. `tokens` counts up to and including what ended each answer."""

    setting: str
    batch: int
    families: Mapping[str, Score]
    tokens: int
    forward_passes: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Mean over the families, each with the same weight."""
        return sum(score.accuracy for score in self.families.values()) / len(self.families)

    @property
    def standard_error(self) -> float:
        """Of `accuracy`."""
        return math.sqrt(sum(score.standard_error**2 for score in self.families.values())) / len(self.families)

    @property
    def tokens_per_forward(self) -> float:
        """Tokens over forward passes, both summed over the problems."""
        return self.tokens / max(1, self.forward_passes)

    @property
    def tokens_per_second(self) -> float:
        """Tokens over wall time."""
        return self.tokens / self.seconds


async def run(
    backend: Backend,
    items: Sequence[Item],
    setting: Setting,
    sampling: SamplingParams,
    *,
    batch: int,
    answered: Callable[[], None] = lambda: None,
) -> Row:
    """Answers every item, `batch` of them at a time. The first failure cancels the rest and is raised."""
    places = asyncio.Semaphore(batch)

    async def one(item: Item) -> Reply:
        async with places:
            reply = await backend.answer(item.prompt, sampling, setting.diffusion)
        answered()
        return reply

    began = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    seconds = time.monotonic() - began
    replies = [task.result() for task in tasks]
    return Row(
        setting=setting.label,
        batch=batch,
        families=_scores(items, replies),
        tokens=sum(reply.tokens for reply in replies),
        forward_passes=sum(reply.forward_passes for reply in replies),
        seconds=seconds,
    )


def _scores(items: Sequence[Item], replies: Sequence[Reply]) -> dict[str, Score]:
    verdicts: dict[str, list[bool]] = {}
    for item, reply in zip(items, replies, strict=True):
        verdicts.setdefault(item.family, []).append(item.right(reply.text))
    return {family: Score(sum(each), len(each)) for family, each in verdicts.items()}
