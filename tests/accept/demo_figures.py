"""Figures of the embedded models for `make accept-demo`; the argument is accuracy, sibling, speed or trade."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import TYPE_CHECKING

from pydllm.evaluate.backends import Local
from pydllm.evaluate.grid import parse
from pydllm.evaluate.run import Row, run
from pydllm.evaluate.suite import Item, demo_suite, first_of_each
from pydllm.llm import AsyncLLM
from pydllm.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEAST_ACCURACY = 0.90
LEAST_OF_SIBLING = 0.80
LEAST_FAMILIES = 6
LEAST_PROBLEMS = 200
LEAST_SPEED = 6.0
"""Tokens per forward pass at the accuracy of the fixed schedule."""
EQUAL = 0.02
SPEED_PROBLEMS = 50
"""Of each family."""
BATCH = 64
BLOCK = 32
MEMORISED = {"chat", "describe", "example"}
"""Learned by heart: they have no held-out problems."""
CHOSEN = "double"
"""Has many right answers, and its tokens must agree with each other."""
SHORT_BLOCKS = "confidence_threshold confidence_threshold=0.9 block_length=4"
THRESHOLD = f"confidence_threshold confidence_threshold=0.9 block_length={BLOCK}"
ONE_BY_ONE = f"llada_schedule steps=96 block_length={BLOCK}"
"""One token per forward pass."""
MOST_TOKENS = 96
TRADE = (
    SHORT_BLOCKS,
    *(f"{SHORT_BLOCKS[:-1]}{length}" for length in (8, 32)),
    f"llada_schedule steps=3 block_length={BLOCK}",
)
LEAST_LOST = 0.5
"""Between the slowest and the fastest of these, where tokens must agree with each other."""


def rows(model: str, items: Sequence[Item], settings: Sequence[str], block_length: int | None = None) -> list[Row]:
    """A row per setting."""

    async def measured() -> list[Row]:
        sampling = SamplingParams(temperature=0.0, max_tokens=MOST_TOKENS)
        async with AsyncLLM(model, max_running_requests=BATCH, block_length=block_length) as llm:
            return [await run(Local(llm), items, parse(text), sampling, batch=BATCH) for text in settings]

    return asyncio.run(measured())


def computed() -> list[Item]:
    """Held-out problems of the families that are computed and have one right answer."""
    return [item for item in demo_suite() if item.family not in {*MEMORISED, CHOSEN}]


def chosen() -> list[Item]:
    """Those of the family in which a number may be chosen."""
    return [item for item in demo_suite() if item.family == CHOSEN]


def shown(row: Row) -> str:
    each = (
        f"{name} {score.accuracy:.3f} ± {score.standard_error:.3f} (n={score.count})"
        for name, score in row.families.items()
    )
    return f"{row.setting}: {', '.join(each)}; {row.tokens_per_forward:.2f} tokens/forward"


def good_enough(row: Row, least: float) -> bool:
    return all(score.count >= LEAST_PROBLEMS and score.accuracy >= least for score in row.families.values())


def accuracy() -> bool:
    """Every computed family of the demo model; the chosen numbers in short blocks."""
    [row] = rows("demo", computed(), [THRESHOLD])
    [short] = rows("demo", chosen(), [SHORT_BLOCKS])
    print(shown(row))
    print(shown(short))
    return (
        len(row.families) >= LEAST_FAMILIES and good_enough(row, LEAST_ACCURACY) and good_enough(short, LEAST_ACCURACY)
    )


def sibling() -> bool:
    """Every computed family of the block-causal sibling, at its three block lengths."""
    good = True
    for length in (8, 16, 32):
        [row] = rows("demo-block", computed(), ["low_confidence confidence_threshold=0.9"], length)
        print(f"block {length}, {shown(row)}")
        good &= good_enough(row, LEAST_OF_SIBLING)
    return good


def speed() -> bool:
    """Tokens per forward pass where the accuracy is that of one token at a time."""
    items = first_of_each([item for item in demo_suite() if item.family != CHOSEN], SPEED_PROBLEMS)
    slow, fast = rows("demo", items, [ONE_BY_ONE, THRESHOLD])
    equal = fast.accuracy >= slow.accuracy - EQUAL
    for row in (slow, fast):
        print(
            f"{row.setting}: accuracy {row.accuracy:.3f} ± {row.standard_error:.3f}, "
            f"{row.tokens_per_forward:.2f} tokens/forward"
        )
    print(f"{fast.tokens_per_forward / slow.tokens_per_forward:.1f} times as many tokens per forward pass")
    return equal and fast.tokens_per_forward >= LEAST_SPEED


def trade() -> bool:
    """Accuracy falls with the number of tokens that are written at once where tokens must agree with each other."""
    measured = rows("demo", chosen(), TRADE)
    for row in measured:
        print(f"{CHOSEN}, {row.setting}: {row.accuracy:.3f} at {row.tokens_per_forward:.2f} tokens/forward")
    falls = all(left.accuracy > right.accuracy for left, right in itertools.pairwise(measured))
    return falls and measured[-1].accuracy <= measured[0].accuracy - LEAST_LOST


CHECKS: dict[str, Callable[[], bool]] = {check.__name__: check for check in (accuracy, sibling, speed, trade)}

if __name__ == "__main__":
    sys.exit(0 if CHECKS[sys.argv[1]]() else 1)
