"""near_max, hierarchical and credit on a block-causal model, canvas for canvas against dInfer's decoders (arXiv
2510.08666) in float64: a plain loop that runs the whole model anew in every step and keeps credit as a whole matrix."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from devices import DEVICE
from first_logits import GOLDEN
from llada2_reference import Array, LLaDA2Reference
from safetensors.numpy import load_file

from pydllm import LLM, DiffusionParams, SamplingParams

CHECKPOINT = GOLDEN / "checkpoints" / "llada2-tiny"
CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
MASK = CONFIG["mask_token_id"]
NO_TEXT = [MASK, CONFIG["delete_token_id"], CONFIG["split_token_id"]]
SLACK = 1e-5

Choice = tuple[list[int], list[float]]
"""Of masked rows: the best token that is text, and its probability."""
Decoder = Callable[[Array, list[int]], dict[int, int]]
"""From a block's logits and its masked rows to the rows that are written, with their tokens."""


def choice_of(logits: Array) -> Choice:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[:, NO_TEXT] = 0
    return [int(token) for token in p.argmax(axis=1)], [float(best) for best in p.max(axis=1)]


def near_max(logits: Array, masked: list[int], threshold: float) -> dict[int, int]:
    tokens, p = choice_of(logits[masked])
    bar = min(threshold, max(p) - SLACK)
    return {row: token for row, token, c in zip(masked, tokens, p, strict=True) if c >= bar}


def hierarchical(logits: Array, masked: list[int], low: float, threshold: float) -> dict[int, int]:
    tokens, p = choice_of(logits[masked])
    confidence = dict(zip(masked, p, strict=True))
    taken = {row for row in masked if confidence[row] > threshold} | {max(masked, key=lambda row: confidence[row])}
    segments: list[list[int]] = []
    for row in masked:
        if segments and segments[-1][-1] == row - 1:
            segments[-1].append(row)
        else:
            segments.append([row])
    for segment in segments:
        highest = max(confidence[row] for row in segment)
        taken |= {row for row in segment if confidence[row] == highest > low}
    return {row: tokens[masked.index(row)] for row in taken}


def credit_decoder(length: int, threshold: float) -> Decoder:
    credit = np.zeros((length, CONFIG["vocab_size"]))

    def decode(logits: Array, masked: list[int]) -> dict[int, int]:
        credit[:] *= 0.8
        tokens, p = choice_of(logits[masked])
        credit[masked, tokens] += np.array(p) ** 0.2
        return near_max(logits + 0.7 * np.log(credit + 1), masked, threshold)

    return decode


def decoder_of(algorithm: str, length: int) -> Decoder:
    """With fresh credit: one for each block."""
    if algorithm == "near_max":
        return lambda logits, masked: near_max(logits, masked, 0.5)
    if algorithm == "hierarchical":
        return lambda logits, masked: hierarchical(logits, masked, 0.3, 0.8)
    return credit_decoder(length, 0.6)


PARAMS = {
    "near_max": DiffusionParams(algorithm="near_max", confidence_threshold=0.5),
    "hierarchical": DiffusionParams(algorithm="hierarchical", confidence_threshold=0.8, extra={"low_threshold": 0.3}),
    "credit": DiffusionParams(algorithm="credit", confidence_threshold=0.6),
}


def canvases(
    model: LLaDA2Reference, algorithm: str, prompt: list[int], max_tokens: int, length: int, cap: int
) -> list[list[int]]:
    """Before every forward and after the last, cut at max_tokens; a block's forward number `cap` fills it."""
    end = len(prompt) + max_tokens
    canvas = prompt + [MASK] * (-(-end // length) * length - len(prompt))
    masks = [at >= len(prompt) for at in range(len(canvas))]
    seen = [canvas[:end]]
    for begin in range(len(prompt) // length * length, len(canvas), length):
        decode, step = decoder_of(algorithm, length), 0
        while any(masks[begin : min(begin + length, end)]):
            masked = [row for row in range(length) if masks[begin + row]]
            logits = model.logits(canvas[: begin + length], length)[begin:]
            written, step = decode(logits, masked), step + 1
            if step == cap:
                written = dict(zip(masked, choice_of(logits[masked])[0], strict=True))
            for row, token in written.items():
                canvas[begin + row], masks[begin + row] = token, False
            seen.append(canvas[:end])
    return seen


@pytest.fixture(scope="module")
def model() -> LLaDA2Reference:
    return LLaDA2Reference(CONFIG, load_file(CHECKPOINT / "model.safetensors"))


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[int, LLM]]:
    found = {length: LLM(CHECKPOINT, block_length=length, device=DEVICE, debug_checks=True) for length in (4, 8)}
    yield found
    for llm in found.values():
        llm.close()


@pytest.mark.parametrize("algorithm", PARAMS)
@pytest.mark.parametrize(("length", "prompt_length"), [(4, 5), (4, 6), (4, 7), (4, 8), (8, 3), (8, 10)])
def test_every_canvas_is_that_of_the_plain_loop(
    model: LLaDA2Reference, engines: dict[int, LLM], algorithm: str, length: int, prompt_length: int
) -> None:
    prompt = [(17 * at + 5 * prompt_length) % 330 for at in range(prompt_length)]
    sampling = SamplingParams(max_tokens=11, ignore_eos=True, temperature=0)
    trace = engines[length].trace(prompt, sampling=sampling, diffusion=PARAMS[algorithm])
    expected = canvases(model, algorithm, prompt, 11, length, 0)
    assert [canvas[: prompt_length + 11] for canvas in trace.canvases] == expected
    assert trace.output.token_ids == expected[-1][prompt_length:]


@pytest.mark.parametrize("algorithm", ["near_max", "hierarchical"])
def test_the_last_allowed_step_fills_the_block(model: LLaDA2Reference, engines: dict[int, LLM], algorithm: str) -> None:
    diffusion = DiffusionParams(
        algorithm=algorithm,
        confidence_threshold=PARAMS[algorithm].confidence_threshold,
        max_steps_per_block=2,
        extra=PARAMS[algorithm].extra,
    )
    sampling = SamplingParams(max_tokens=13, ignore_eos=True, temperature=0)
    trace = engines[8].trace([9, 8, 7], sampling=sampling, diffusion=diffusion)
    expected = canvases(model, algorithm, [9, 8, 7], 13, 8, 2)
    assert [canvas[:16] for canvas in trace.canvases] == expected
    assert len(expected) < len(canvases(model, algorithm, [9, 8, 7], 13, 8, 0))
