"""LLaDA2 against recordings of its original model under SGLang's LowConfidence, in float32, and its stored forms."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import DEVICE
from first_logits import GOLDEN, FirstLogits, relative_error
from llada2_reference import LLaDA2Reference
from safetensors.numpy import load_file, save_file

from pydllm import LLM, DiffusionParams, SamplingParams

CHECKPOINT = GOLDEN / "checkpoints" / "llada2-tiny"
FOLDER = GOLDEN / "runs" / "sgl_lowconf_llada2"
RUNS: list[dict[str, Any]] = json.loads((FOLDER / "case.json").read_text())["runs"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, LLM]]:
    """One for each block length of the recordings, whose algorithm knows no control tokens: they are text to it, which
    ours never writes. So the checkpoint has none, as LLaDA2.0's have."""
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("plain") / "llada2-tiny"))
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    del config["delete_token_id"], config["split_token_id"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    lengths = {run["params"]["block_size"] for run in RUNS}
    found = {length: LLM(checkpoint, block_length=length, device=DEVICE, debug_checks=True) for length in lengths}
    yield found
    for llm in found.values():
        llm.close()


def asked(run: dict[str, Any]) -> tuple[SamplingParams, DiffusionParams]:
    """A context limit of the original ends the answer where its last whole block fits."""
    params = run["params"]
    room = params.get("context_len", 10**6) - len(run["prompt_ids"])
    sampling = SamplingParams(
        max_tokens=min(params["max_new_tokens"], room),
        temperature=0,
        ignore_eos=True,
        stop_token_ids=tuple(params.get("eos_ids", ())),
    )
    threshold = params["algorithm_config"].get("threshold", 0.95)
    return sampling, DiffusionParams(algorithm="low_confidence", confidence_threshold=threshold)


def test_the_recordings_are_complete() -> None:
    assert len(RUNS) == 12


@pytest.mark.parametrize("run", RUNS, ids=lambda run: str(run["id"]))
def test_every_answer_is_the_original(engines: dict[int, LLM], run: dict[str, Any]) -> None:
    sampling, diffusion = asked(run)
    trace = engines[run["params"]["block_size"]].trace(run["prompt_ids"], sampling=sampling, diffusion=diffusion)
    assert trace.output.token_ids == run["output_ids"]


def first_block() -> tuple[list[int], int, np.ndarray]:
    """The run whose first block is denoised rather than part of the prompt."""
    run = next(run for run in RUNS if not run["blocks"][0]["prefill"])
    logits = np.load(FOLDER / "data.npz")[f"r{run['id']}_first_logits"]
    return run["prompt_ids"], run["params"]["block_size"], logits


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 0.003), ("bfloat16", 0.1)])
def test_first_logits_are_near_the_original(dtype: str, limit: float) -> None:
    prompt, block, expected = first_block()
    (logits,) = FirstLogits(CHECKPOINT, dtype=dtype, block_length=block).of([prompt], block)
    assert 0 < relative_error(logits, expected) < limit


def reference(**changes: Any) -> LLaDA2Reference:
    config = json.loads((CHECKPOINT / "config.json").read_text())
    return LLaDA2Reference({**config, **changes}, load_file(CHECKPOINT / "model.safetensors"))


def test_the_reference_agrees_with_the_original() -> None:
    prompt, block, expected = first_block()
    logits = reference().logits(prompt + [335] * (block - len(prompt)), block)
    assert relative_error(logits, expected) < 1e-5


@pytest.mark.parametrize("capacity", [None, 4, 6, 16])
def test_groups_and_block_routing_match_the_reference(tmp_path: Path, capacity: int | None) -> None:
    config = json.loads((CHECKPOINT / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "expert_capacity": capacity, "block_size": 8}))
    (tmp_path / "model.safetensors").symlink_to(CHECKPOINT / "model.safetensors")
    prompts = [run["prompt_ids"] for run in RUNS[:6]]
    for prompt, logits in zip(prompts, FirstLogits(tmp_path).of(prompts, 8), strict=True):
        begin = len(prompt) // 8 * 8
        canvas = prompt + [335] * (begin + 8 - len(prompt))
        expected = reference(expert_capacity=capacity).logits(canvas, 8)[begin:]
        assert relative_error(logits, expected) < 1e-5


def stacked(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The experts of a layer in one tensor for each projection."""
    out = {name: values for name, values in tensors.items() if ".experts." not in name}
    for layer in (1, 2):
        for projection in ("gate_proj", "up_proj", "down_proj"):
            at = f"model.layers.{layer}.mlp.experts"
            out[f"{at}.{projection}"] = np.stack([tensors[f"{at}.{e}.{projection}.weight"] for e in range(16)])
    return out


def test_stacked_experts_in_shards_are_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((CHECKPOINT / "config.json").read_bytes())
    tensors = sorted(stacked(load_file(CHECKPOINT / "model.safetensors")).items())
    for shard in range(2):
        save_file(dict(tensors[shard::2]), tmp_path / f"model-{shard + 1:05d}-of-00002.safetensors")
    prompt, block, _ = first_block()
    (logits,) = FirstLogits(tmp_path, block_length=block).of([prompt], block)
    (separate,) = FirstLogits(CHECKPOINT, block_length=block).of([prompt], block)
    assert np.array_equal(logits, separate)


def test_logits_are_bit_identical_alone_and_in_a_batch() -> None:
    reader = FirstLogits(CHECKPOINT, dtype="bfloat16", block_length=8)
    prompts = [run["prompt_ids"] for run in RUNS]
    for prompt, batched in zip(prompts, reader.of(prompts, 8), strict=True):
        assert np.array_equal(reader.of([prompt], 8)[0], batched)
