"""Dream's own sampler, token for token through the whole engine (float32, recordings of `diffusion_generate`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from devices import DEVICE

from pydllm import LLM, DiffusionParams, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydllm import Trace

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "checkpoints" / "dream-tiny"
RECORDED = GOLDEN / "runs" / "dream_generate"
RUNS: list[dict[str, Any]] = json.loads((RECORDED / "case.json").read_text())["runs"]
MASK: int = json.loads((CHECKPOINT / "config.json").read_text())["mask_token_id"]
TIED = 12
"""Top-p keeps one token in several rows of this run: equal confidences, whose order the original leaves open."""


@pytest.fixture(scope="module")
def dream() -> Iterator[LLM]:
    with LLM(CHECKPOINT, device=DEVICE, debug_checks=True) as llm:
        yield llm


@pytest.fixture(scope="module")
def equal(record_testsuite_property: Callable[[str, object], None]) -> Iterator[set[int]]:
    found: set[int] = set()
    yield found
    record_testsuite_property("figure", f"dream_generate {len(found)}/13 token for token, run {TIED} by counts")


def rows_of(run: dict[str, Any]) -> list[tuple[list[int], list[list[int]]]]:
    """Each prompt with its canvases, without the padding of its batch."""
    trajectory = np.load(RECORDED / "data.npz")[f"r{run['id']}_traj"]
    prompts = run["prompt_ids"] if isinstance(run["prompt_ids"][0], list) else [run["prompt_ids"]]
    length = run["params"]["max_new_tokens"]
    return [
        (prompt, trajectory[:, row, trajectory.shape[2] - len(prompt) - length :].tolist())
        for row, prompt in enumerate(prompts)
    ]


def traced(llm: LLM, run: dict[str, Any], prompt: list[int]) -> Trace:
    params = run["params"]
    sampling = SamplingParams(
        max_tokens=params["max_new_tokens"],
        ignore_eos=True,
        temperature=0,
        top_k=params.get("top_k", 0),
        top_p=params.get("top_p", 1.0),
    )
    extra = {"order": params["alg"], "steps": params["steps"], "eps": params.get("eps", 1e-3)}
    return llm.trace(prompt, sampling=sampling, diffusion=DiffusionParams(algorithm="dream", extra=extra))


@pytest.mark.parametrize("run", [run for run in RUNS if run["id"] != TIED], ids=lambda run: str(run["id"]))
def test_every_canvas_is_the_original(dream: LLM, run: dict[str, Any], equal: set[int]) -> None:
    for prompt, canvases in rows_of(run):
        trace = traced(dream, run, prompt)
        assert trace.canvases == canvases
        assert trace.forward_passes == run["nfe"]
    equal.add(run["id"])


def test_a_run_with_ties_commits_as_many_tokens_per_forward(dream: LLM) -> None:
    run = next(run for run in RUNS if run["id"] == TIED)
    for prompt, canvases in rows_of(run):
        trace = traced(dream, run, prompt)
        assert [canvas.count(MASK) for canvas in trace.canvases] == [canvas.count(MASK) for canvas in canvases]
