"""Training batches: answers on canvases of many lengths, noised by masking.

What mattered (measured): the canvas is drawn independently of the answer, else its length gives the answer's away;
the masking ratio is skewed to 1, so that results are learned while nothing gives them away; digits of results weigh
more and the tail of end tokens less; every batch mixes all families.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from tasks import LESSONS, Lesson, Problem, draw
from vocabulary import END, MASK, TURN_END, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer
    from torch import Tensor

CANVASES = {16: 0.46, 24: 0.18, 32: 0.2, 48: 0.06, 64: 0.05, 96: 0.03, 128: 0.02}
"""Canvas length -> share, among those that the answer fits in."""
RESULT_WEIGHT = 3.0
TAIL_WEIGHT = 0.1
HEAVY_TAIL = 2
"""End tokens after the answer that weigh like the answer itself."""
RATIO_POWER = 0.4
"""Masking ratio = uniform ** this: 0.71 on average."""
ALL_MASKED = 0.1
"""Share of rows with everything masked."""
SEMI_AUTOREGRESSIVE = 0.15
"""Share of rows seen as decoding by blocks of SEMI_BLOCK sees them: final before, masked after."""
SEMI_BLOCK = 16
BLOCK_LENGTHS = (8, 16, 32)
"""Of the block-causal sibling: drawn for every row."""
CONVERSATION = 0.15
"""Share of rows that come after one or two earlier turns."""
MOST_TURNS = 2
PROMPT_STEP = 40
"""Prompts of similar length share a batch, so that little of it is padding; nearly all single questions are shorter."""
LONG = ("story",)
"""Families that are no earlier turn: the context would be mostly theirs."""


@dataclass(frozen=True)
class Batch:
    """ids, targets int64 and weights float32 [rows, length]; visible bool [rows, 1, 1, length]."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    prompt: Tensor
    """Prompt lengths [rows]."""
    answer: Tensor
    """Answer lengths, the end of the turn included [rows]."""
    canvas: Tensor
    """Canvas lengths [rows]."""
    block: Tensor | None = None
    """Block lengths [rows] of block-causal attention; None: full attention."""

    def to(self, device: str) -> Batch:
        """The batch on another device."""
        moved = {name: value if value is None else value.to(device) for name, value in vars(self).items()}
        return Batch(**moved)

    @property
    def inside(self) -> Tensor:
        """Positions that exist: prompt and canvas."""
        position = torch.arange(self.ids.shape[1], device=self.ids.device)[None]
        return position < (self.prompt + self.canvas)[:, None]

    @property
    def visible(self) -> Tensor:
        """Keys that may be attended to [rows, 1, 1 or length, length]."""
        inside = self.inside[:, None, None]
        return inside if self.block is None else inside & block_causal(self.block, self.ids.shape[1])


def block_causal(block: Tensor, length: int) -> Tensor:
    """Keys of the query's block and of earlier ones; blocks begin at position 0 [rows, 1, length, length]."""
    at = torch.arange(length, device=block.device)[None] // block[:, None]
    return (at[:, None] <= at[:, :, None])[:, None]


_Bucket = tuple[int, int]
"""Canvas length and prompt length // PROMPT_STEP."""
_Parts = tuple[list[int], list[int], list[float]]


@dataclass(frozen=True)
class _Row:
    prompt: list[int]
    answer: list[int]
    weights: list[float]


class Source:
    """An endless, reproducible stream of noised batches; `state` and `restore` make training resumable."""

    def __init__(self, tokenizer: Tokenizer, *, tokens: int, seed: int, lesson: Lesson = LESSONS[-1]) -> None:
        self._tokenizer = tokenizer
        self._lesson = lesson
        self._tokens = tokens
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._waiting: dict[_Bucket, list[_Row]] = {}
        self._end, self._mask, self._turn_end = (_id(tokenizer, text) for text in (END, MASK, TURN_END))
        self._equals = _id(tokenizer, "Ġ=Ġ")
        self._digits = {_id(tokenizer, str(digit)) for digit in range(10)}

    def state(self) -> dict[str, object]:
        """Everything the next batch depends on."""
        return {
            "random": self._random.getstate(),
            "generator": self._generator.get_state(),
            "waiting": {
                bucket: [(r.prompt, r.answer, r.weights) for r in rows] for bucket, rows in self._waiting.items()
            },
        }

    def restore(self, state: dict[str, object]) -> None:
        """Continues where `state` was taken."""
        self._random.setstate(state["random"])  # type: ignore[arg-type]
        self._generator.set_state(state["generator"])  # type: ignore[arg-type]
        waiting: dict[_Bucket, list[_Parts]] = state["waiting"]  # type: ignore[assignment]
        self._waiting = {bucket: [_Row(*row) for row in rows] for bucket, rows in waiting.items()}

    def __iter__(self) -> Iterator[Batch]:
        while True:
            row = self._row(draw(self._random, self._lesson))
            canvas = self._canvas(len(row.answer))
            bucket = (canvas, len(row.prompt) // PROMPT_STEP)
            rows = self._waiting.setdefault(bucket, [])
            rows.append(row)
            if len(rows) * (max(len(r.prompt) for r in rows) + canvas) >= self._tokens:
                self._waiting[bucket] = []
                yield self._noised(self._clean(rows, canvas))

    def _canvas(self, answer: int) -> int:
        """Independent of the answer but for the need to hold it."""
        fitting = [canvas for canvas in CANVASES if canvas >= answer]
        return self._random.choices(fitting, [CANVASES[canvas] for canvas in fitting])[0]

    def _row(self, problem: Problem) -> _Row:
        answer = [*self._tokenizer.encode(problem.answer).ids, self._turn_end]
        prompt = self._tokenizer.encode(rendered(problem.prompt, self._earlier(problem))).ids
        return _Row(prompt, answer, self._weights(problem.family, answer))

    def _earlier(self, problem: Problem) -> list[tuple[str, str]]:
        if problem.family in LONG or self._random.random() >= CONVERSATION:
            return []
        turns = [draw(self._random, self._lesson) for _ in range(self._random.randint(1, MOST_TURNS))]
        return [(turn.prompt, turn.answer) for turn in turns if turn.family not in LONG]

    def _weights(self, family: str, answer: list[int]) -> list[float]:
        """Digits that are a result: after the equals sign, and all of them where there is none."""
        weights = []
        result = family in ("sort", "compare")
        for token in answer:
            if token == self._equals:
                result = True
            elif token not in self._digits:
                result = family in ("sort", "compare")
            weights.append(RESULT_WEIGHT if result and token in self._digits else 1.0)
        return weights

    def _clean(self, rows: list[_Row], canvas: int) -> Batch:
        length = max(len(row.prompt) for row in rows) + canvas
        ids, weights = [], []
        for row in rows:
            rest = length - len(row.prompt) - len(row.answer)
            ids.append(row.prompt + row.answer + [self._end] * rest)
            tail = ([1.0] * HEAVY_TAIL + [TAIL_WEIGHT] * rest)[:rest]
            weights.append([0.0] * len(row.prompt) + row.weights + tail)
        prompt = torch.tensor([len(row.prompt) for row in rows])
        answer = torch.tensor([len(row.answer) for row in rows])
        targets = torch.tensor(ids)
        return Batch(targets, targets, torch.tensor(weights), prompt, answer, torch.full_like(prompt, canvas))

    def _noised(self, batch: Batch) -> Batch:
        position = torch.arange(batch.ids.shape[1])[None]
        prompt, canvas = batch.prompt[:, None], batch.canvas[:, None]
        answer = (position >= prompt) & batch.inside
        hidden = self._uniform(*batch.ids.shape) < self._ratios(len(batch.ids))
        begin = prompt + SEMI_BLOCK * (self._uniform(len(prompt), 1) * (canvas / SEMI_BLOCK).ceil()).long()
        block = (position >= begin) & (position < begin + SEMI_BLOCK) & batch.inside
        by_block = (block & hidden) | ((position >= begin + SEMI_BLOCK) & batch.inside)
        semi = self._uniform(len(prompt), 1) < SEMI_AUTOREGRESSIVE
        masked = torch.where(semi, by_block, hidden & answer)
        learned = torch.where(semi, by_block & block, hidden & answer)
        return self._hidden(batch, masked, learned)

    def _hidden(self, batch: Batch, masked: Tensor, learned: Tensor) -> Batch:
        ids = torch.where(masked, self._mask, batch.ids)
        return replace(batch, ids=ids, weights=torch.where(learned, batch.weights, 0.0))

    def _ratios(self, rows: int) -> Tensor:
        """One masking ratio per row, stratified over the batch."""
        strata = torch.randperm(rows, generator=self._generator)
        ratio = ((strata + self._uniform(rows)) / rows) ** RATIO_POWER
        ratio = torch.where(self._uniform(rows) < ALL_MASKED, 1.0, ratio)
        return ratio.clamp(0.05, 1.0)[:, None]

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator)


class BlockSource(Source):
    """Rows as block-causal decoding sees them: final before a block, noise inside it, nothing behind it."""

    def _canvas(self, answer: int) -> int:
        longest = max(BLOCK_LENGTHS)
        return min(canvas for canvas in CANVASES if canvas % longest == 0 and canvas >= answer + longest)

    def _noised(self, batch: Batch) -> Batch:
        rows, length = batch.ids.shape
        block = torch.tensor([self._random.choice(BLOCK_LENGTHS) for _ in range(rows)])
        first = batch.prompt // block
        blocks = (batch.prompt + batch.answer - 1) // block - first + 1
        begin = (first + (self._uniform(rows) * blocks).long()) * block
        position = torch.arange(length)[None]
        denoised = (position >= torch.maximum(begin, batch.prompt)[:, None]) & (position < (begin + block)[:, None])
        masked = denoised & (self._uniform(rows, length) < self._ratios(rows))
        return replace(self._hidden(batch, masked, masked), canvas=begin + block - batch.prompt, block=block)


def _id(tokenizer: Tokenizer, text: str) -> int:
    found: int | None = tokenizer.token_to_id(text)
    if found is None:
        raise KeyError(text)
    return found
