"""Exact-match accuracy on held-out problems, decoded in torch: confidence threshold; blocks if block-causal.

Only a gauge during training; what ships is judged by `pydllm eval` on the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from batches import block_causal
from tasks import ASKED, held_out_set
from vocabulary import MASK, TURN_END, rendered

if TYPE_CHECKING:
    from network import Network
    from tasks import Problem
    from tokenizers import Tokenizer

THRESHOLD = 0.9
CANVAS = 32
STORY_CANVAS = 96
_ROWS = 40


def judge(
    network: Network, tokenizer: Tokenizer, *, count: int, device: str, block_length: int = 0
) -> dict[str, float]:
    """Family -> share of right answers, and "tokens_per_forward" over all of them."""
    out: dict[str, float] = {}
    tokens = forwards = 0
    for family in ASKED:
        canvas = STORY_CANVAS if family == "story" else CANVAS
        problems = held_out_set(family, count)
        right = 0
        for begin in range(0, len(problems), _ROWS):
            chosen = problems[begin : begin + _ROWS]
            texts, used, passes = answers(
                network, tokenizer, chosen, canvas=canvas, device=device, block_length=block_length
            )
            right += sum(problem.right(text) for problem, text in zip(chosen, texts, strict=True))
            tokens, forwards = tokens + used, forwards + passes
        out[family] = right / len(problems)
    return {**out, "tokens_per_forward": round(tokens / forwards, 2)}


@torch.inference_mode()
def answers(
    network: Network, tokenizer: Tokenizer, problems: list[Problem], *, canvas: int, device: str, block_length: int = 0
) -> tuple[list[str], int, int]:
    """Texts, tokens up to and including the end of the turn, and forward passes counted per problem.

    `block_length` 0: full attention, the canvas is one block. Else block-causal attention, block after block.
    """
    mask, turn_end = (tokenizer.token_to_id(text) for text in (MASK, TURN_END))
    prompts = [tokenizer.encode(rendered(problem.prompt)).ids for problem in problems]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
    limits = lengths + canvas
    ends = (lengths // block_length + 1) * block_length if block_length else limits
    width = int(limits.max()) + block_length
    ids = torch.full((len(prompts), width), mask, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
    position = torch.arange(width, device=device)[None]
    passes = 0
    while True:
        answered = ((ids == turn_end) & (position >= lengths)).any(1, keepdim=True)
        masked = (ids == mask) & (position < ends)
        waiting = ~masked.any(1, keepdim=True) & ~answered & (ends < limits)
        if bool(waiting.any()):
            ends = torch.where(waiting, ends + block_length, ends)
            continue
        if not bool(masked.any()):
            break
        passes += int(masked.any(1).sum())
        visible = (position < ends)[:, None, None]
        if block_length:
            visible = visible & block_causal(torch.full_like(lengths[:, 0], block_length), width)
        logits = network(ids, visible).float()
        logits[..., mask] = float("-inf")
        confidence, best = logits.softmax(-1).max(-1)
        confidence = torch.where(masked, confidence, -1.0)
        surest = confidence == confidence.max(1, keepdim=True).values
        ids = torch.where(masked & (surest | (confidence >= THRESHOLD)), best, ids)
    outputs = [ids[row, len(prompt) : len(prompt) + canvas].tolist() for row, prompt in enumerate(prompts)]
    outputs = [out[: out.index(turn_end) + 1] if turn_end in out else out for out in outputs]
    texts = [tokenizer.decode([token for token in out if token != mask], skip_special_tokens=True) for out in outputs]
    return texts, sum(map(len, outputs)), passes
