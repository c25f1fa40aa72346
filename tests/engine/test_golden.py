"""The recordings of the original implementations, token for token through the whole engine (float32)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from golden_cases import GoldenCase, golden_cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydllm import LLM, Trace

LLADA = golden_cases("llada_generate")
FAST_DLLM = golden_cases("fastdllm_llada_none")
FAST_DLLM_PREFIX = golden_cases("fastdllm_llada_prefix")
CASES = LLADA + FAST_DLLM + FAST_DLLM_PREFIX
LOGIT_TOLERANCE = 2e-3


class Figures:
    """What `make accept-core` prints: runs that were equal, and the largest difference of a first logit."""

    def __init__(self) -> None:
        self.equal: set[str] = set()
        self.largest = 0.0

    def count(self, cases: list[GoldenCase]) -> str:
        runs = {run_of(case): True for case in cases}
        for case in cases:
            runs[run_of(case)] &= case.name in self.equal
        return f"{sum(runs.values())}/{len(runs)}"


def run_of(case: GoldenCase) -> str:
    return case.name.rsplit("-", 1)[0]  # a batch run is one case per row


@pytest.fixture(scope="module")
def figures(record_testsuite_property: Callable[[str, object], None]) -> Iterator[Figures]:
    found = Figures()
    yield found
    folders = {
        "llada_generate": LLADA,
        "fastdllm_llada_none": FAST_DLLM,
        "fastdllm_llada_prefix": FAST_DLLM_PREFIX,
    }
    counts = ", ".join(f"{name} {found.count(cases)}" for name, cases in folders.items())
    record_testsuite_property("figure", f"{counts} token for token, first logits within {found.largest:.1e}")


def traced(llm: LLM, case: GoldenCase) -> Trace:
    return llm.trace(case.prompt, sampling=case.sampling, diffusion=case.diffusion)


def test_the_recordings_are_complete() -> None:
    assert len({run_of(case) for case in LLADA}) == 8
    assert len({run_of(case) for case in FAST_DLLM}) == 6
    assert len({run_of(case) for case in FAST_DLLM_PREFIX}) == 6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_canvas_is_the_original(tiny: LLM, case: GoldenCase, figures: Figures) -> None:
    trace = traced(tiny, case)
    assert trace.canvases == case.canvases
    assert trace.forward_passes == case.forwards
    assert trace.output.token_ids == case.canvases[-1][len(case.prompt) :]
    figures.equal.add(case.name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_first_logits_are_the_original(tiny: LLM, case: GoldenCase, figures: Figures) -> None:
    trace = traced(tiny, case)
    assert trace.first_logits is not None
    logits = np.from_dlpack(trace.first_logits)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, case.first_logits, rtol=0, atol=LOGIT_TOLERANCE)
    figures.largest = max(figures.largest, float(np.abs(logits - case.first_logits).max()))


@pytest.mark.parametrize("repetition", range(2))
def test_all_at_once_in_one_batch(tiny: LLM, repetition: int, record_property: Callable[[str, object], None]) -> None:
    before = tiny.engine.stats()
    with ThreadPoolExecutor(len(CASES)) as threads:
        traces = list(threads.map(lambda case: traced(tiny, case), CASES))
    after = tiny.engine.stats()
    for case, trace in zip(CASES, traces, strict=True):
        assert trace.canvases == case.canvases, case.name
    # They did share forwards, else this test would say nothing.
    assert after.steps - before.steps < (after.request_forwards - before.request_forwards) / 2
    shared = (after.request_forwards - before.request_forwards) / (after.steps - before.steps)
    record_property("figure", f"all {len(CASES)} at once (pass {repetition + 1}): {shared:.1f} requests per forward")
