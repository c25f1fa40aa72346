"""Exact-match accuracy on held-out problems, decoded in torch: confidence threshold, one block per canvas.

Only a gauge during training; what ships is judged by `pydllm eval` on the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tasks import FAMILIES, held_out_set
from vocabulary import END, MASK, TURN_END, rendered

if TYPE_CHECKING:
    from network import Network
    from tasks import Problem
    from tokenizers import Tokenizer

THRESHOLD = 0.9
CANVAS = 32
STORY_CANVAS = 96
_ROWS = 40


def judge(network: Network, tokenizer: Tokenizer, *, count: int, device: str) -> dict[str, float]:
    """Family -> share of right answers, and "tokens_per_forward" over all of them."""
    out: dict[str, float] = {}
    tokens = forwards = 0
    for family in FAMILIES:
        canvas = STORY_CANVAS if family == "story" else CANVAS
        problems = held_out_set(family, count)
        right = 0
        for begin in range(0, len(problems), _ROWS):
            chosen = problems[begin : begin + _ROWS]
            texts, used, passes = answers(network, tokenizer, chosen, canvas=canvas, device=device)
            right += sum(problem.right(text) for problem, text in zip(chosen, texts, strict=True))
            tokens, forwards = tokens + used, forwards + passes
        out[family] = right / len(problems)
    return {**out, "tokens_per_forward": round(tokens / forwards, 2)}


@torch.inference_mode()
def answers(
    network: Network, tokenizer: Tokenizer, problems: list[Problem], *, canvas: int, device: str
) -> tuple[list[str], int, int]:
    """Texts, tokens up to and including the end of the turn, and forward passes counted per problem."""
    end, mask, turn_end = (tokenizer.token_to_id(text) for text in (END, MASK, TURN_END))
    prompts = [tokenizer.encode(rendered(problem.prompt)).ids for problem in problems]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
    width = int(lengths.max()) + canvas
    ids = torch.full((len(prompts), width), end, device=device)
    position = torch.arange(width, device=device)[None]
    inside = position < lengths + canvas
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
    ids[inside & (position >= lengths)] = mask
    passes = 0
    while bool((masked := (ids == mask) & inside).any()):
        passes += int(masked.any(1).sum())
        logits = network(ids, inside[:, None, None]).float()
        logits[..., mask] = float("-inf")
        confidence, best = logits.softmax(-1).max(-1)
        confidence = torch.where(masked, confidence, -1.0)
        surest = confidence == confidence.max(1, keepdim=True).values
        ids = torch.where(masked & (surest | (confidence >= THRESHOLD)), best, ids)
    outputs = [ids[row, len(prompt) : len(prompt) + canvas].tolist() for row, prompt in enumerate(prompts)]
    outputs = [out[: out.index(turn_end) + 1] if turn_end in out else out for out in outputs]
    texts = [tokenizer.decode(out, skip_special_tokens=True) for out in outputs]
    return texts, sum(map(len, outputs)), passes
