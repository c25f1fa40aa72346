"""multi_block_entropy's delayed cache against d3LLM's loop written out in float64: a network and a cache of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from float64_llada import Array, Cache, Network

from pydllm import LLM, DiffusionParams, SamplingParams

MASK = 332
RUNS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "runs" / "d3llm_llada_multiblock" / "case.json").read_text()
)["runs"]
SETTINGS = [(run, delay, interval) for run in RUNS[::2] for delay, interval in ((1, 10000), (2, 10000), (2, 3))]


class Loop:
    """d3LLM's multi-block loop for LLaDA with its K/V cache, the kept positions counted once."""

    def __init__(self, network: Network, run: dict[str, Any], delay: int, interval: int) -> None:
        self.network, self.delay, self.interval = network, delay, interval
        self.p: dict[str, Any] = run["params"]
        prompt = run["prompt_ids"]
        self.prompt: list[int] = prompt[0] if isinstance(prompt[0], list) else prompt
        self.x = [*self.prompt, *[MASK] * self.p["max_new_tokens"]]
        size, begin = self.p["block_size"], len(self.prompt)
        self.blocks = [(0, begin), *((at, at + size) for at in range(begin, len(self.x), size))]
        self.created = 2
        self.completed: dict[int, int] = {0: 0}
        self.kept = 0
        self.cache: Cache = []

    def masks(self, block: int) -> list[int]:
        return [at for at in range(*self.blocks[block]) if self.is_mask(at)]

    def is_mask(self, at: int) -> bool:
        return at >= len(self.prompt) and self.x[at] == MASK

    def run(self) -> list[list[int]]:
        canvases, forward = [list(self.x)], 0
        while any(self.masks(block) for block in range(len(self.blocks))):
            forward += 1
            last = self.blocks[self.created - 1]
            done = 1 - len(self.masks(self.created - 1)) / (last[1] - last[0])
            if self.created < len(self.blocks) and done >= self.p["block_add_threshold"]:
                self.created += 1
            begin, logits = self.logits(forward)
            self.write(begin, logits)
            canvases.append(list(self.x))
        return canvases

    def logits(self, forward: int) -> tuple[int, Array]:
        """Of the positions from the first result on."""
        due, waiting = self.due(forward)
        if due > self.kept:
            begin, kept = self.kept, due
        else:
            renew = bool(self.cache) and (waiting or forward % self.interval == 0)
            begin, kept = 0 if renew or not self.cache else self.kept, self.kept
        logits, grown = self.network.forward(self.x, self.cache if begin else [])
        self.kept = kept
        self.cache = [(k[:kept], v[:kept]) for k, v in grown] if kept else []
        return begin, logits

    def due(self, forward: int) -> tuple[int, bool]:
        """The end of what is kept after this forward; whether a complete block waits for its delay."""
        end = self.kept
        for block, (begin, stop) in enumerate(self.blocks):
            if begin < end or stop <= self.kept:
                continue
            if self.masks(block):
                return end, False
            if forward - self.completed.setdefault(block, forward) < self.delay:
                return end, True
            end = stop
        return end, False

    def write(self, begin: int, logits: Array) -> None:
        peak = logits - logits.max(axis=-1, keepdims=True)
        p = np.exp(peak) / np.exp(peak).sum(axis=-1, keepdims=True)
        p[:, MASK], entropy = -1, -np.sum(p * np.log(p + 1e-300), axis=-1)
        eligible = [at for block in range(self.created) for at in self.masks(block)]
        ranked = sorted(eligible, key=lambda at: (entropy[at - begin], at))
        chosen = {ranked[0], *(at for at in eligible if entropy[at - begin] <= self.p["threshold"])}
        first = next(self.masks(block) for block in range(self.created) if self.masks(block))
        if chosen.isdisjoint(first):
            chosen.add(min(first, key=lambda at: entropy[at - begin]))
        for at in chosen:
            self.x[at] = int(p[at - begin].argmax())


@pytest.mark.parametrize(("run", "delay", "interval"), SETTINGS, ids=lambda value: str(value)[:4])
def test_every_canvas_is_that_of_the_loop_in_float64(
    tiny: LLM, tiny_checkpoint: Path, run: dict[str, Any], delay: int, interval: int
) -> None:
    params = run["params"]
    loop = Loop(Network(tiny_checkpoint), run, delay, interval)
    trace = tiny.trace(
        loop.prompt,
        sampling=SamplingParams(max_tokens=params["max_new_tokens"], temperature=0, ignore_eos=True),
        diffusion=DiffusionParams(
            algorithm="multi_block_entropy",
            block_length=params["block_size"],
            entropy_threshold=params["threshold"],
            cache="delayed",
            cache_refresh_interval=interval,
            extra={
                "block_add_threshold": params["block_add_threshold"],
                "decoded_token_threshold": params["decoded_token_threshold"],
                "cache_delay_iter": delay,
            },
        ),
    )
    assert trace.canvases == loop.run()


def test_the_loop_without_a_cache_is_the_recording(tiny_checkpoint: Path) -> None:
    """A delay that never ends: what this reference itself is worth."""
    folder = Path(__file__).parents[1] / "golden" / "runs" / "d3llm_llada_multiblock"
    recorded = np.load(folder / "data.npz")
    for run in RUNS[::2]:
        canvases = Loop(Network(tiny_checkpoint), run, 10000, 10000).run()
        assert canvases == recorded[f"r{run['id']}_traj"][:, 0].tolist()


def test_the_cache_is_an_approximation_that_can_show(tiny_checkpoint: Path) -> None:
    network = Network(tiny_checkpoint)
    assert any(Loop(network, run, 1, 10000).run() != Loop(network, run, 10000, 10000).run() for run in RUNS[::2])
