"""The golden recordings as requests of our own API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pydllm import DiffusionParams, SamplingParams

RUNS = Path(__file__).parents[1] / "golden" / "runs"


@dataclass(frozen=True)
class GoldenCase:
    """One row of one recorded run, without the padding of its batch."""

    name: str
    prompt: list[int]
    sampling: SamplingParams
    diffusion: DiffusionParams
    forwards: int
    canvases: list[list[int]]
    """Before every forward, then the final one."""
    first_logits: npt.NDArray[np.float32]
    """[canvas, vocabulary], guidance applied."""


def golden_cases(folder: str) -> list[GoldenCase]:
    """Every run of a folder; the rows of a batch one by one."""
    runs = json.loads((RUNS / folder / "case.json").read_text())["runs"]
    data = np.load(RUNS / folder / "data.npz")
    return [case for run in runs for case in _rows(folder, run, data)]


def _rows(folder: str, run: dict[str, Any], data: Any) -> list[GoldenCase]:
    batched = isinstance(run["prompt_ids"][0], list)
    prompts = run["prompt_ids"] if batched else [run["prompt_ids"]]
    return [_case(folder, run, data, row, prompt) for row, prompt in enumerate(prompts)]


def _case(folder: str, run: dict[str, Any], data: Any, row: int, prompt: list[int]) -> GoldenCase:
    params, key = run["params"], f"r{run['id']}"
    padding = data[f"{key}_final"].shape[1] - len(prompt) - params["gen_length"]
    canvases = data[f"{key}_traj"][:, row, padding:].tolist()
    assert canvases[-1] == data[f"{key}_final"][row, padding:].tolist()
    return GoldenCase(
        name=f"{folder}-{run['id']}-{row}",
        prompt=prompt,
        sampling=SamplingParams(max_tokens=params["gen_length"], ignore_eos=True, temperature=0),
        diffusion=_diffusion(params, "prefix" if folder.endswith("_prefix") else "none"),
        forwards=run["nfe"],
        canvases=canvases,
        first_logits=_first_logits(data[f"{key}_first_logits"], row, params)[padding:],
    )


def _first_logits(recorded: npt.NDArray[np.float32], row: int, params: dict[str, Any]) -> npt.NDArray[np.float32]:
    """With guidance the recording holds the conditional row and then the unconditional one."""
    scale = params.get("cfg_scale", 0)
    if not scale:
        return recorded[row]
    with_prompt, without = recorded.astype(np.float64)
    return (without + (scale + 1) * (with_prompt - without)).astype(np.float32)


def _diffusion(params: dict[str, Any], cache: str) -> DiffusionParams:
    if "threshold" in params:
        return DiffusionParams(
            algorithm="confidence_threshold",
            block_length=params["block_length"],
            confidence_threshold=params["threshold"],
            max_steps_per_block=10_000,
            cache=cache,
        )
    extra = {"steps": params["steps"], "cfg_scale": params.get("cfg_scale", 0)}
    return DiffusionParams(algorithm="llada_schedule", block_length=params["block_length"], cache=cache, extra=extra)
