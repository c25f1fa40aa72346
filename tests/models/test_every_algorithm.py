"""Every algorithm of every family on small models: grouped heads, an odd vocabulary, shards, both dtypes; and what a
family or a checkpoint cannot do, by name."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from first_logits import GOLDEN
from safetensors.numpy import load_file, save_file
from test_families_transformers import CASES
from transformers_models import write_checkpoint

from pydllm import DiffusionParams, SamplingParams, _core
from pydllm.engine import Engine, EngineConfig, Generation, load
from pydllm.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LENGTHS = (1, 3, 4, 6)
"""Of prompts, around a block of 4."""
STORED = ("llada-tiny", "llada2-tiny")
NAMES = [case.architecture for case in CASES] + list(STORED)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By architecture, in three shards."""
    root = tmp_path_factory.mktemp("families")
    for case in CASES:
        config = case.config()
        write_checkpoint(root / case.architecture, case.model(config), config, shards=3)
    for name in STORED:
        shutil.copytree(GOLDEN / "checkpoints" / name, root / name)
        tensors = sorted(load_file(root / name / "model.safetensors").items())
        (root / name / "model.safetensors").unlink()
        for shard in range(3):
            save_file(dict(tensors[shard::3]), root / name / f"model-{shard + 1:05d}-of-00003.safetensors")
    return {name: root / name for name in NAMES}


def is_block_causal(name: str) -> bool:
    return name == "llada2-tiny" or any(case.architecture == name and case.block_length for case in CASES)


@contextlib.contextmanager
def running(directory: Path, *, blocks: bool, **options: Any) -> Iterator[Engine]:
    config = EngineConfig(block_length=4 if blocks else None, debug_checks=True, threads=1, **options)
    engine = Engine(load(directory, config))
    try:
        yield engine
    finally:
        engine.close()


def tokens_of(generation: Generation) -> list[int]:
    return [token for _, event in generation for token in event.final_tokens]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_algorithm_answers_the_same_alone_and_with_all_others(
    checkpoints: dict[str, Path], name: str, dtype: str
) -> None:
    with running(checkpoints[name], blocks=is_block_causal(name), dtype=dtype) as engine:
        facts = engine.facts
        asked = [(algorithm, length) for algorithm in facts.algorithms for length in LENGTHS]

        def start(algorithm: str, length: int) -> Generation:
            prompt = [(7 * at + length) % 290 for at in range(length)]
            sampling = SamplingParams(max_tokens=9, ignore_eos=True)
            return engine.generate(prompt, sampling=sampling, diffusion=DiffusionParams(algorithm=algorithm))

        alone = [tokens_of(start(*request)) for request in asked]
        together = [tokens_of(generation) for generation in [start(*request) for request in asked]]
    no_text = {facts.mask_token_id, *(facts.control_token_ids or ())}
    for request, one, among in zip(asked, alone, together, strict=True):
        assert len(one) == 9, request
        assert no_text.isdisjoint(one), request
        assert among == one, request


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_of_another_family_is_refused_with_those_that_work(
    checkpoints: dict[str, Path], name: str
) -> None:
    with running(checkpoints[name], blocks=is_block_causal(name)) as engine:
        for algorithm in _core.algorithms():
            if algorithm.name in engine.facts.algorithms:
                continue
            with pytest.raises(UnsupportedError) as caught:
                engine.generate([1], diffusion=DiffusionParams(algorithm=algorithm.name))
            assert caught.value.field == "diffusion.algorithm"
            assert all(known in str(caught.value) for known in engine.facts.algorithms)


@pytest.mark.parametrize("name", [case.architecture for case in CASES])
@pytest.mark.parametrize(
    ("field", "added", "tensor", "named"),
    [
        ("vocab_size", 1, "embed_tokens", "vocab_size"),
        ("num_hidden_layers", 1, "model.layers.2.", "missing"),
        ("num_key_value_heads", 1, "self_attn.k_proj", "num_kv_heads * head_dim"),
        ("intermediate_size", 2, "mlp.gate_proj", "intermediate_size"),
        ("moe_intermediate_size", 2, "mlp.experts.0.gate_proj", "moe.expert_intermediate_size"),
        ("expert_intermediate_size", 2, "mlp.experts.0.gate_proj", "moe.expert_intermediate_size"),
        ("num_experts", 1, "mlp.gate.", "moe.num_experts"),
    ],
)
def test_a_config_that_contradicts_a_tensor_names_both(
    checkpoints: dict[str, Path], tmp_path: Path, name: str, field: str, added: int, tensor: str, named: str
) -> None:
    case = next(case for case in CASES if case.architecture == name)
    config: dict[str, Any] = case.config()
    if field not in config or (field == "intermediate_size" and "num_experts" in config):
        pytest.skip("this family has no such size")
    config[field] += added
    if "moe_layer_freq" in config:
        config["moe_layer_freq"] = 1
    if config["num_attention_heads"] % config["num_key_value_heads"]:
        pytest.skip("refused for that")
    for shard in checkpoints[name].glob("*.safetensors"):
        (tmp_path / shard.name).symlink_to(shard)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, EngineConfig(block_length=case.block_length or None))
    message = str(caught.value)
    assert tensor in message
    assert named in message
    assert "\n" not in message
