"""The recordings of the original implementations, token for token through the whole engine (float32)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from golden_cases import GoldenCase, golden_cases

if TYPE_CHECKING:
    from pydllm import LLM, Trace

LLADA = golden_cases("llada_generate")
FAST_DLLM = golden_cases("fastdllm_llada_none")
CASES = LLADA + FAST_DLLM
LOGIT_TOLERANCE = 2e-3


def traced(llm: LLM, case: GoldenCase) -> Trace:
    return llm.trace(case.prompt, sampling=case.sampling, diffusion=case.diffusion)


def test_the_recordings_are_complete() -> None:
    assert len({case.name.rsplit("-", 1)[0] for case in LLADA}) == 8
    assert len({case.name.rsplit("-", 1)[0] for case in FAST_DLLM}) == 6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_canvas_is_the_original(tiny: LLM, case: GoldenCase) -> None:
    trace = traced(tiny, case)
    assert trace.canvases == case.canvases
    assert trace.forward_passes == case.forwards
    assert trace.output.token_ids == case.canvases[-1][len(case.prompt) :]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_first_logits_are_the_original(tiny: LLM, case: GoldenCase) -> None:
    trace = traced(tiny, case)
    assert trace.first_logits is not None
    logits = np.from_dlpack(trace.first_logits)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, case.first_logits, rtol=0, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("repetition", range(2))
def test_all_at_once_in_one_batch(tiny: LLM, repetition: int) -> None:
    before = tiny.engine.stats()
    with ThreadPoolExecutor(len(CASES)) as threads:
        traces = list(threads.map(lambda case: traced(tiny, case), CASES))
    after = tiny.engine.stats()
    for case, trace in zip(CASES, traces, strict=True):
        assert trace.canvases == case.canvases, case.name
    # They did share forwards, else this test would say nothing.
    assert after.steps - before.steps < (after.request_forwards - before.request_forwards) / 2
