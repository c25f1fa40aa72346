"""The first logits of the golden runs, recorded from the original implementation in float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from first_logits import GOLDEN, FirstLogits, relative_error
from safetensors.numpy import load_file, save_file

CHECKPOINT = GOLDEN / "checkpoints" / "llada-tiny"
TOLERANCE = 2e-3


def recorded(name: str) -> list[tuple[str, list[int], int, np.ndarray]]:
    """(case id, prompt, gen_length, logits) of every row of every run; left padding is dropped."""
    folder = GOLDEN / "runs" / name
    data = np.load(folder / "data.npz")
    out = []
    for run in json.loads((folder / "case.json").read_text())["runs"]:
        logits = data[f"r{run['id']}_first_logits"]
        prompts = run["prompt_ids"] if "batch" in run else [run["prompt_ids"]]
        for row, prompt in enumerate(prompts):
            length = len(prompt) + run["params"]["gen_length"]
            label = f"{name}-{run['id']}.{row}"
            out.append((label, prompt, run["params"]["gen_length"], logits[row][-length:]))
    return out


RUNS = recorded("llada_generate") + recorded("fastdllm_llada_none")


@pytest.fixture(scope="module")
def float32() -> FirstLogits:
    return FirstLogits(CHECKPOINT, dtype="float32")


@pytest.mark.parametrize(("label", "prompt", "gen_length", "expected"), RUNS, ids=[run[0] for run in RUNS])
def test_first_logits_match_the_original(
    float32: FirstLogits, label: str, prompt: list[int], gen_length: int, expected: np.ndarray
) -> None:
    (logits,) = float32.of([prompt], gen_length)
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < TOLERANCE


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.035), ("float16", 0.003)])
def test_smaller_types_stay_near_the_original(dtype: str, limit: float) -> None:
    reader = FirstLogits(CHECKPOINT, dtype=dtype)
    for _, prompt, gen_length, expected in RUNS[:6]:
        (logits,) = reader.of([prompt], gen_length)
        assert 0 < relative_error(logits, expected) < limit


def test_logits_are_bit_identical_alone_and_in_a_batch(float32: FirstLogits) -> None:
    prompts = [prompt for _, prompt, _, _ in RUNS]
    together = float32.of(prompts, 24)
    for prompt, batched in zip(prompts, together, strict=True):
        assert np.array_equal(float32.of([prompt], 24)[0], batched)


@pytest.mark.parametrize("index", [True, False])
def test_shards_give_the_same_model(tmp_path: Path, float32: FirstLogits, index: bool) -> None:
    weight_map = split(tmp_path, shards=4)
    if index:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    _, prompt, gen_length, _ = RUNS[2]
    (logits,) = FirstLogits(tmp_path).of([prompt], gen_length)
    assert np.array_equal(logits, float32.of([prompt], gen_length)[0])


def split(directory: Path, *, shards: int) -> dict[str, str]:
    (directory / "config.json").write_bytes((CHECKPOINT / "config.json").read_bytes())
    parts: dict[str, dict[str, Any]] = {}
    weight_map = {}
    for i, (name, values) in enumerate(sorted(load_file(CHECKPOINT / "model.safetensors").items())):
        shard = f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors"
        weight_map[name] = shard
        parts.setdefault(shard, {})[name] = values
    for shard, tensors in parts.items():
        save_file(tensors, directory / shard)
    return weight_map
