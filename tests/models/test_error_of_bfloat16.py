"""The first logits of the recordings: bfloat16 loses no more here than in torch, float32 nothing to speak of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from first_logits import GOLDEN, FirstLogits, relative_error
from torch_networks import TorchNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

SHARE_OF_TORCH = 1.25
FLOAT32 = 1e-4


class Case(NamedTuple):
    """One recorded forward of a whole canvas."""

    prompt: list[int]
    masks: int
    logits: np.ndarray
    block_length: int = 0


def full_attention(run_folder: str, count: str, cases: int) -> list[Case]:
    """Rows of the first runs; left padding is dropped."""
    folder = GOLDEN / "runs" / run_folder
    data, out = np.load(folder / "data.npz"), []
    for run in json.loads((folder / "case.json").read_text())["runs"]:
        ids, masks = run["prompt_ids"], run["params"][count]
        for row, prompt in enumerate(ids if isinstance(ids[0], list) else [ids]):
            out.append(Case(prompt, masks, data[f"r{run['id']}_first_logits"][row][-len(prompt) - masks :]))
    return out[:cases]


def block_causal() -> list[Case]:
    """Runs whose first block is denoised, prompt included, rather than part of the prompt."""
    folder = GOLDEN / "runs" / "sgl_lowconf_llada2"
    data, out = np.load(folder / "data.npz"), []
    for run in json.loads((folder / "case.json").read_text())["runs"]:
        length, prompt = run["params"]["block_size"], run["prompt_ids"]
        if not run["blocks"][0]["prefill"] and len(prompt) < length:
            out.append(Case(prompt, length - len(prompt), data[f"r{run['id']}_first_logits"], length))
    return out


torch.set_num_threads(1)
FAMILIES = {
    "llada-tiny": full_attention("llada_generate", "gen_length", 6),
    "dream-tiny": full_attention("dream_generate", "max_new_tokens", 6),
    "llada2-tiny": block_causal(),
}


def ours(name: str, case: Case, dtype: str) -> float:
    reader = FirstLogits(GOLDEN / "checkpoints" / name, dtype=dtype, block_length=case.block_length or None)
    (logits,) = reader.of([case.prompt], case.block_length or case.masks)
    return relative_error(logits, case.logits)


def torchs(name: str, case: Case, dtype: torch.dtype) -> float:
    directory = GOLDEN / "checkpoints" / name
    network = TorchNetwork(directory, dtype, block_length=case.block_length)
    mask = network.c["mask_token_id"]
    logits = network.logits(case.prompt + [mask] * case.masks).numpy()
    return relative_error(logits, case.logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_torch_in_float32_is_the_original(name: str) -> None:
    assert FAMILIES[name]
    for case in FAMILIES[name]:
        assert torchs(name, case, torch.float32) < FLOAT32


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_as_near_as_torchs(name: str, record_property: Callable[[str, object], None]) -> None:
    shares, worst = [], 0.0
    for case in FAMILIES[name]:
        own, theirs = ours(name, case, "bfloat16"), torchs(name, case, torch.bfloat16)
        shares.append(own / theirs)
        worst = max(worst, own)
    record_property("figure", f"{name}: bfloat16 error at most {worst:.4f}, {max(shares):.2f} of torch's")
    assert 0 < max(shares) <= SHARE_OF_TORCH


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_is_the_original(name: str) -> None:
    assert max(ours(name, case, "float32") for case in FAMILIES[name]) <= FLOAT32
