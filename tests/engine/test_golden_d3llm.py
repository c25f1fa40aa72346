"""The recordings of d3LLM's multi-block decoding through the whole engine (float32)."""

from __future__ import annotations

import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import DEVICE

from pydllm import LLM, DiffusionParams, SamplingParams, Trace

FOLDER = Path(__file__).parents[1] / "golden" / "runs" / "d3llm_llada_multiblock"
RUNS: list[dict[str, Any]] = json.loads((FOLDER / "case.json").read_text())["runs"]
PLAIN = [run for run in RUNS if not run["params"].get("early_stop")]
STOPPED = [run for run in RUNS if run["params"].get("early_stop")]


def recorded(run: dict[str, Any]) -> list[list[int]]:
    """The canvas before every forward, then the final one."""
    canvases: list[list[int]] = np.load(FOLDER / "data.npz")[f"r{run['id']}_traj"][:, 0].tolist()
    return canvases


def traced(llm: LLM, run: dict[str, Any], *, ignore_eos: bool) -> Trace:
    params = run["params"]
    diffusion = DiffusionParams(
        algorithm="multi_block_entropy",
        block_length=params["block_size"],
        entropy_threshold=params["threshold"],
        extra={name: params[name] for name in ("block_add_threshold", "decoded_token_threshold")},
    )
    sampling = SamplingParams(max_tokens=params["max_new_tokens"], temperature=0, ignore_eos=ignore_eos)
    prompt = run["prompt_ids"]
    return llm.trace(prompt[0] if isinstance(prompt[0], list) else prompt, sampling=sampling, diffusion=diffusion)


def test_the_recordings_are_complete() -> None:
    assert (len(PLAIN), len(STOPPED)) == (4, 4)


@pytest.mark.parametrize("run", PLAIN, ids=lambda run: run["id"])
def test_every_canvas_is_the_original(tiny: LLM, run: dict[str, Any]) -> None:
    trace = traced(tiny, run, ignore_eos=True)
    assert trace.canvases == recorded(run)
    assert trace.forward_passes == run["nfe"]


def with_eos(checkpoint: Path, folder: Path, eos: int) -> Path:
    """The checkpoint with another end-of-sequence id."""
    copy = Path(shutil.copytree(checkpoint, folder / "checkpoint"))
    for name in ("config.json", "generation_config.json"):
        text = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({**text, "eos_token_id": eos}))
    return copy


def answers(canvases: list[list[int]], end: int) -> list[list[int]]:
    """Canvases up to the answer's end, without the forwards that the original spends behind it."""
    return [canvas for canvas, _ in groupby(canvas[:end] for canvas in canvases)]


@pytest.mark.parametrize("run", STOPPED, ids=lambda run: run["id"])
def test_an_end_of_sequence_ends_like_the_original(tiny_checkpoint: Path, tmp_path: Path, run: dict[str, Any]) -> None:
    eos = run["params"]["eos_token_id"]
    with LLM(with_eos(tiny_checkpoint, tmp_path, eos), device=DEVICE, debug_checks=True) as llm:
        trace = traced(llm, run, ignore_eos=False)
    canvases = recorded(run)
    begin = len(canvases[-1]) - run["params"]["max_new_tokens"]
    end = canvases[-1].index(eos, begin) + 1
    assert answers(trace.canvases, end) == answers(canvases, end)
    assert trace.output.finish_reason == "stop"
