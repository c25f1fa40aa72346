"""d2f against D2F's loop written out in float64: a sequence that grows, all of it computed anew in every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from float64_llada import Array, Network

from pydllm import LLM, Canvas, DiffusionParams, Hole, SamplingParams
from pydllm.errors import UnsupportedError

MASK = 332
RUNS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "runs" / "d3llm_llada_multiblock" / "case.json").read_text()
)["runs"]


class Setting(NamedTuple):
    """Parameters under the original's names."""

    max_new_tokens: int
    block_size: int
    skip_threshold: float
    block_add_threshold: float
    decoded_token_threshold: float
    sampling_strategy: Literal["default", "margin_confidence", "neg_entropy"] = "default"


SETTINGS = [
    Setting(32, 8, 0.9, 0.1, 0.95),
    Setting(32, 8, 0.8, 0.5, 0.5, "margin_confidence"),
    Setting(29, 8, 0.95, 0.0, 0.25, "neg_entropy"),
    Setting(24, 4, 0.99, 1.0, 1.0),
    Setting(20, 32, 0.7, 0.7, 0.95),
]


class Loop:
    """D2F's generation of one answer; a block is (begin, end)."""

    def __init__(self, network: Network, prompt: list[int], setting: Setting) -> None:
        self.network, self.s = network, setting
        self.prompt = prompt
        self.x = list(prompt)
        self.blocks = [(0, len(prompt))]
        self.most_open = 0

    def masks(self, block: int) -> list[int]:
        return [at for at in range(*self.blocks[block]) if at >= len(self.prompt) and self.x[at] == MASK]

    def progress(self, block: int) -> float:
        begin, end = self.blocks[block]
        return 1 - len(self.masks(block)) / (end - begin)

    def run(self) -> list[list[int]]:
        """The whole canvas before each forward, and the last one."""
        end, canvases = len(self.prompt) + self.s.max_new_tokens, []
        while True:
            if len(self.x) < end and self.progress(len(self.blocks) - 1) >= self.s.block_add_threshold:
                begin = len(self.x)
                self.x += [MASK] * min(self.s.block_size, end - begin)
                self.blocks.append((begin, len(self.x)))
            canvases.append(self.x + [MASK] * (end - len(self.x)))
            opened = [block for block in range(len(self.blocks)) if self.masks(block)]
            if not opened:
                return canvases
            self.most_open = max(self.most_open, len(opened))
            complete = [self.progress(block - 1) >= self.s.decoded_token_threshold for block in range(len(self.blocks))]
            probabilities = self.probabilities()
            for block in opened:
                self.denoise(self.masks(block), complete[block], probabilities)

    def probabilities(self) -> Array:
        """The prompt sees itself, a block itself and everything before it."""
        of = np.repeat(np.arange(len(self.blocks)), [end - begin for begin, end in self.blocks])
        logits, _ = self.network.forward(self.x, [], of[:, None] >= of[None, :])
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)

    def denoise(self, masks: list[int], complete: bool, probabilities: Array) -> None:
        rows = {at: probabilities[at] for at in masks}
        tokens = {at: int(np.argmax(np.where(np.arange(len(p)) == MASK, -1, p))) for at, p in rows.items()}
        confidence = {at: float(p[tokens[at]]) for at, p in rows.items()}
        chosen = [at for at in masks if confidence[at] > self.s.skip_threshold]
        if not chosen and complete:
            rank = {at: self.rank(p, confidence[at]) for at, p in rows.items()}
            chosen = [max(masks, key=lambda at: rank[at])]
        for at in chosen:
            self.x[at] = tokens[at]

    def rank(self, p: Array, confidence: float) -> float:
        if self.s.sampling_strategy == "margin_confidence":
            second, first = np.sort(p)[-2:]
            return float(first - second)
        return float(np.sum(p * np.log(p))) if self.s.sampling_strategy == "neg_entropy" else confidence


def params_of(setting: Setting) -> DiffusionParams:
    return DiffusionParams(
        algorithm="d2f",
        block_length=setting.block_size,
        confidence_threshold=setting.skip_threshold,
        extra={
            "block_add_threshold": setting.block_add_threshold,
            "decoded_token_threshold": setting.decoded_token_threshold,
            "sampling_strategy": setting.sampling_strategy,
        },
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting[2]}-{setting[3]}-{setting[4]}")
@pytest.mark.parametrize("prompt", [RUNS[0]["prompt_ids"], RUNS[4]["prompt_ids"]], ids=("short", "longer"))
def test_every_canvas_is_that_of_the_loop_in_float64(
    tiny: LLM, tiny_checkpoint: Path, prompt: list[int] | list[list[int]], setting: Setting
) -> None:
    ids = [int(token) for token in np.ravel(prompt)]
    loop = Loop(Network(tiny_checkpoint), ids, setting)
    sampling = SamplingParams(max_tokens=setting.max_new_tokens, temperature=0, ignore_eos=True)
    trace = tiny.trace(ids, sampling=sampling, diffusion=params_of(setting))
    assert trace.canvases == loop.run()


def test_the_settings_have_several_blocks_open_at_once(tiny_checkpoint: Path) -> None:
    loop = Loop(Network(tiny_checkpoint), [int(token) for token in np.ravel(RUNS[0]["prompt_ids"])], SETTINGS[2])
    loop.run()
    assert loop.most_open > 1


def test_text_behind_a_hole_is_refused_by_name(tiny: LLM) -> None:
    with pytest.raises(UnsupportedError, match="canvas: algorithm d2f does not see fixed text behind a hole"):
        tiny.generate(Canvas(["a", Hole(2), "b"]), diffusion=DiffusionParams(algorithm="d2f"))
