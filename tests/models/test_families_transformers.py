"""Families against the classes of transformers in float64, under a bidirectional or block-causal mask."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from first_logits import FirstLogits, relative_error
from transformers_models import logits_of, random_model, write_checkpoint

MASK = 301
PROMPTS = [[5, 300, 17, 8], [88, 3, 3, 120, 7, 250, 41, 9, 13]]
GENERATED = 7
BLOCK = 4

COMMON: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 300,
    "eos_token_id": 300,
    "hidden_act": "silu",
    "hidden_size": 60,
    "initializer_range": 0.02,
    "mask_token_id": MASK,
    "max_position_embeddings": 256,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 300,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.46.2",
    "use_cache": True,
    "vocab_size": 303,
}
DENSE = {"intermediate_size": 83}
WINDOWS = {"max_window_layers": 28, "sliding_window": None, "use_sliding_window": False}
QWEN3 = {**WINDOWS, "attention_bias": False, "head_dim": 14}
EXPERTS = {"num_experts": 11, "num_experts_per_tok": 3}
QWEN3_MOE = {
    **QWEN3,
    **EXPERTS,
    "decoder_sparse_step": 1,
    "intermediate_size": 83,
    "mlp_only_layers": [],
    "moe_intermediate_size": 21,
    "norm_topk_prob": True,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
LLADA_MOE = {
    **EXPERTS,
    "add_bias_linear": False,
    "attention_bias": False,
    "clip_qkv": None,
    "dense_intermediate_size": 83,
    "expert_intermediate_size": 21,
    "moe_layer_freq": [1, 1],
    "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax",
    "norm_topk_prob": None,
    "num_key_value_heads": 6,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "routed_scaling_factor": 1,
    "router_num_group": None,
    "router_topk_group": None,
    "shared_expert_intermediate_size": None,
}


@dataclass(frozen=True)
class Case:
    architecture: str
    fields: dict[str, Any]
    """Of config.json, beside the common ones."""
    class_name: str
    extra: dict[str, Any] = field(default_factory=dict)
    """What the class is told that config.json says otherwise or not at all."""
    block_length: int = 0
    block_field: str = "block_size"

    def config(self, **changes: Any) -> dict[str, Any]:
        return {**COMMON, **self.fields, "architectures": [self.architecture], **changes}

    def model(self, config: dict[str, Any]) -> Any:
        """The class with the same sizes. It ignores the fields that are not its own."""
        known = {name: value for name, value in {**config, **self.extra}.items() if value is not None}
        for name in ("architectures", "model_type", "torch_dtype", "rope_theta", "use_cache", "transformers_version"):
            known.pop(name, None)
        rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
        config_class = getattr(transformers, self.class_name.replace("ForCausalLM", "Config"))
        return random_model(getattr(transformers, self.class_name), config_class(**known, rope_parameters=rope))


CASES = [
    Case("DreamModel", {**DENSE, **WINDOWS, "model_type": "Dream"}, "Qwen2ForCausalLM"),
    Case(
        "LLaDAMoEModelLM",
        {**LLADA_MOE, "model_type": "llada"},
        "Qwen3MoeForCausalLM",
        {"head_dim": 10, "moe_intermediate_size": 21, "norm_topk_prob": False},
    ),
    Case("RND1", {**QWEN3_MOE, "model_type": "rnd1", "is_causal": False, "moe_backend": "hf"}, "Qwen3MoeForCausalLM"),
    Case("SDARForCausalLM", {**DENSE, **QWEN3, "model_type": "sdar"}, "Qwen3ForCausalLM", block_length=BLOCK),
    Case("SDARMoeForCausalLM", {**QWEN3_MOE, "model_type": "sdar_moe"}, "Qwen3MoeForCausalLM", block_length=BLOCK),
    Case(
        "SeedStableDiffcoderForCausalLM",
        {**DENSE, "attention_bias": False, "mlp_bias": False, "model_type": "llama"},
        "LlamaForCausalLM",
        block_length=BLOCK,
    ),
    Case(
        "Fast_dLLM_QwenForCausalLM",
        {**DENSE, **WINDOWS, "conplemenrary_mask": True, "model_type": "Fast_dLLM_Qwen"},
        "Qwen2ForCausalLM",
        block_length=BLOCK,
        block_field="bd_size",
    ),
]


def expected_logits(model: Any, prompt: list[int], block_length: int) -> np.ndarray:
    """Of the canvas, or of the block that holds the first generated token."""
    if block_length == 0:
        return logits_of(model, prompt + [MASK] * GENERATED)
    begin = len(prompt) // block_length * block_length
    canvas = prompt + [MASK] * (begin + block_length - len(prompt))
    return logits_of(model, canvas, block_length=block_length)[begin:]


def largest_error(directory: Path, case: Case, model: Any, dtype: str) -> float:
    reader = FirstLogits(directory, dtype=dtype, block_length=case.block_length or None)
    errors = []
    for prompt, logits in zip(PROMPTS, reader.of(PROMPTS, GENERATED), strict=True):
        expected = expected_logits(model, prompt, case.block_length)
        assert logits.shape == expected.shape
        errors.append(relative_error(logits, expected))
    return max(errors)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.architecture)
def test_logits_match_transformers(tmp_path: Path, case: Case) -> None:
    config = case.config()
    model = case.model(config)
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    write_checkpoint(whole, model, config)
    write_checkpoint(sharded, model, config, shards=3)
    assert largest_error(whole, case, model, "float32") < 2e-6
    assert largest_error(sharded, case, model, "float32") < 2e-6
    assert largest_error(whole, case, model, "float16") < 1e-4
    assert largest_error(whole, case, model, "bfloat16") < (0.1 if "num_experts" in config else 0.035)


@pytest.mark.parametrize("kv_heads", [6, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_grouped_heads_and_tied_heads_match_qwen2(tmp_path: Path, kv_heads: int, tied: bool) -> None:
    case = CASES[0]
    config = case.config(num_key_value_heads=kv_heads, tie_word_embeddings=tied)
    model = case.model(config)
    write_checkpoint(tmp_path, model, config)
    assert largest_error(tmp_path, case, model, "float32") < 2e-6
