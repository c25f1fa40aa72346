"""In float32 on the CPU an output does not depend on its neighbours, the pages it lies in or the process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pydllm import LLM, DiffusionParams, SamplingParams, Trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROMPT = [77, 64, 127, 107, 302, 303, 327, 127, 102, 220, 158, 222]
KINDS = {
    "greedy": SamplingParams(temperature=0, max_tokens=40, ignore_eos=True),
    "seeded": SamplingParams(temperature=0.8, top_p=0.9, top_k=50, seed=1234, max_tokens=40, ignore_eos=True),
}
DIFFUSION = DiffusionParams(algorithm="confidence_threshold", confidence_threshold=0.05, block_length=16)

RESTARTED = """
import json, sys
import numpy as np
from pydllm import LLM, DiffusionParams, SamplingParams
prompt, sampling, diffusion = json.loads(sys.argv[2])
with LLM(sys.argv[1], threads=1) as llm:
    trace = llm.trace(prompt, sampling=SamplingParams(**sampling), diffusion=DiffusionParams(**diffusion))
print(json.dumps([trace.canvases, np.from_dlpack(trace.first_logits).tobytes().hex()]))
"""


def traced(llm: LLM, sampling: SamplingParams, prompt: list[int] = PROMPT) -> Trace:
    return llm.trace(prompt, sampling=sampling, diffusion=DIFFUSION)


def bits(trace: Trace) -> str:
    return np.from_dlpack(trace.first_logits).tobytes().hex()


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_with_fifteen_random_neighbours(
    tiny: LLM, kind: str, record_property: Callable[[str, object], None]
) -> None:
    alone = traced(tiny, KINDS[kind])
    dice = random.Random(7)

    def neighbour(index: int) -> None:
        prompt = [dice.randrange(300) for _ in range(dice.randrange(1, 90))]
        sampling = SamplingParams(temperature=1, seed=index, max_tokens=dice.randrange(1, 90))
        tiny.generate(prompt, sampling=sampling, progress=False)

    before = tiny.engine.stats()
    with ThreadPoolExecutor(16) as threads:
        others = [threads.submit(neighbour, index) for index in range(15)]
        together = [threads.submit(traced, tiny, KINDS[kind]) for _ in range(3)]
        for future in others:
            future.result()
    after = tiny.engine.stats()
    assert after.steps - before.steps < after.request_forwards - before.request_forwards
    for future in together:
        assert future.result().canvases == alone.canvases
        assert bits(future.result()) == bits(alone)
    shared = (after.request_forwards - before.request_forwards) / (after.steps - before.steps)
    record_property("figure", f"{kind}: same ids and logit bits among {shared:.1f} requests per forward")


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_after_a_restart_with_another_number_of_threads(
    tiny: LLM, tiny_checkpoint: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    here = traced(tiny, KINDS[kind])
    sampling = {name: value for name, value in vars(KINDS[kind]).items() if value not in (None, ())}
    arguments = json.dumps([PROMPT, sampling, {n: v for n, v in vars(DIFFUSION).items() if v}])
    command = [sys.executable, "-c", RESTARTED, str(tiny_checkpoint), arguments]
    there = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert there == [here.canvases, bits(here)]
    record_property("figure", f"{kind}: the same in a new process with one thread")


def test_another_seed_gives_another_output(tiny: LLM) -> None:
    outputs = {
        tuple(traced(tiny, SamplingParams(temperature=1, seed=seed, max_tokens=40)).output.token_ids)
        for seed in range(4)
    }
    assert len(outputs) == 4
