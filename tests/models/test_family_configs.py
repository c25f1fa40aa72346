"""config.json of every family: what is understood, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from first_logits import GOLDEN
from test_families_transformers import CASES, Case

from pydllm.checkpoint.config import has_control_tokens, model_config, read_config, refuse_unknown, stored_dtype
from pydllm.errors import CheckpointError

LLADA2: dict[str, Any] = json.loads((GOLDEN / "checkpoints" / "llada2-tiny" / "config.json").read_text())
BY_NAME = {case.architecture: case for case in CASES}


def parsed(directory: Path, config: dict[str, Any], *, block_length: int | None = None) -> dict[str, Any]:
    """`...` removes a field."""
    kept = {name: value for name, value in config.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(kept))
    fields = read_config(directory)
    values = model_config(fields, block_length=block_length)
    stored_dtype(fields)
    ids = ["bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"]
    for name in (*ids, "delete_token_id", "split_token_id") if has_control_tokens(fields) else ids:
        fields.get(name)
    refuse_unknown(fields)
    return values


def refusal(directory: Path, config: dict[str, Any], **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        parsed(directory, config, **options)
    return str(caught.value)


def test_llada2_fields(tmp_path: Path) -> None:
    values = parsed(tmp_path, LLADA2)
    assert values["rotary_dim"] == 8
    assert values["qk_norm"] is True
    assert values["moe"] == {
        "num_experts": 16,
        "experts_per_token": 4,
        "expert_intermediate_size": 24,
        "shared_intermediate_size": 24,
        "dense_layers": 1,
        "router_score": "sigmoid",
        "router_bias": True,
        "router_normalize": True,
        "router_scale": 2.5,
        "expert_groups": 4,
        "expert_groups_kept": 2,
    }


def test_llada2_with_a_capacity_routes_blocks_and_not_groups(tmp_path: Path) -> None:
    values = parsed(tmp_path, {**LLADA2, "expert_capacity": 6, "block_size": 16})
    assert values["block_length"] == 16
    assert values["moe"]["expert_capacity"] == 6
    assert "expert_groups" not in values["moe"]


def test_the_block_of_a_block_routing_model_cannot_be_changed(tmp_path: Path) -> None:
    message = refusal(tmp_path, {**LLADA2, "expert_capacity": 6, "block_size": 16}, block_length=8)
    assert message == "block_length: expected block_size 16 of config.json, which has an expert_capacity, got 8"


@pytest.mark.parametrize(("stored", "given", "expected"), [(..., None, 32), (8, None, 8), (8, 4, 4), (..., 4, 4)])
def test_llada2_block_length(tmp_path: Path, stored: Any, given: int | None, expected: int) -> None:
    assert parsed(tmp_path, {**LLADA2, "block_size": stored}, block_length=given)["block_length"] == expected


@pytest.mark.parametrize("case", [case for case in CASES if case.block_length], ids=lambda case: case.architecture)
def test_a_block_length_is_never_guessed(tmp_path: Path, case: Case) -> None:
    message = f"block_length: expected {case.block_field} in config.json or the option block_length; got neither"
    assert refusal(tmp_path, case.config()) == message
    stored = case.config(**{case.block_field: 8})
    assert parsed(tmp_path, stored)["block_length"] == 8
    assert parsed(tmp_path, stored, block_length=4)["block_length"] == 4


@pytest.mark.parametrize("case", [case for case in CASES if not case.block_length], ids=lambda case: case.architecture)
def test_full_attention_has_no_block(tmp_path: Path, case: Case) -> None:
    assert parsed(tmp_path, case.config(), block_length=4)["block_length"] == 0


@pytest.mark.parametrize(
    ("name", "shift", "bias", "norm"),
    [
        ("DreamModel", True, True, False),
        ("LLaDAMoEModelLM", False, False, True),
        ("RND1", True, False, True),
        ("SDARForCausalLM", False, False, True),
        ("SDARMoeForCausalLM", False, False, True),
        ("SeedStableDiffcoderForCausalLM", False, False, False),
        ("Fast_dLLM_QwenForCausalLM", True, True, False),
    ],
)
def test_what_the_architecture_says(tmp_path: Path, name: str, shift: bool, bias: bool, norm: bool) -> None:
    values = parsed(tmp_path, BY_NAME[name].config(), block_length=4)
    assert (values["logit_shift"], values["attention_bias"], values["qk_norm"]) == (shift, bias, norm)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("DreamModel", {"rope_theta": ...}, "rope_theta: expected a number > 0, the field is missing"),
        ("DreamModel", {"num_key_value_heads": 4}, "num_key_value_heads: expected a divisor of num_attention_heads 6"),
        ("DreamModel", {"num_attention_heads": 7}, "num_key_value_heads: expected a divisor of num_attention_heads 7"),
        ("DreamModel", {"hidden_size": 62}, "num_attention_heads: expected a divisor of hidden_size 62"),
        ("DreamModel", {"rope_scaling": {"type": "yarn"}}, "rope_scaling: expected null"),
        ("DreamModel", {"use_sliding_window": True}, "use_sliding_window: expected false"),
        ("DreamModel", {"hidden_act": "gelu"}, "hidden_act: expected silu"),
        ("DreamModel", {"model_type": "qwen2"}, "model_type: expected Dream"),
        ("DreamModel", {"head_dim": 10}, "head_dim: expected no such field"),
        ("SDARForCausalLM", {"head_dim": ...}, "head_dim: expected an integer"),
        ("SDARForCausalLM", {"attention_bias": True}, "attention_bias: expected false"),
        ("SDARForCausalLM", {"block_size": 0}, "block_size: expected an integer"),
        ("SDARMoeForCausalLM", {"norm_topk_prob": ...}, "norm_topk_prob: expected true or false"),
        ("SDARMoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step: expected 1, got 2"),
        ("SDARMoeForCausalLM", {"mlp_only_layers": [0]}, "mlp_only_layers: expected [], got [0]"),
        ("SDARMoeForCausalLM", {"num_experts_per_tok": 12}, "num_experts_per_tok: expected an integer in [1, 11]"),
        ("RND1", {"is_causal": True}, "is_causal: expected false"),
        ("LLaDAMoEModelLM", {"qk_layernorm": ...}, "qk_layernorm: expected true, the field is missing"),
        ("LLaDAMoEModelLM", {"norm_topk_prob": True}, "norm_topk_prob: expected false"),
        ("LLaDAMoEModelLM", {"moe_layer_freq": [0, 1]}, "moe_layer_freq: expected 1 or a list of 2 ones"),
        ("LLaDAMoEModelLM", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size: expected null"),
        ("SeedStableDiffcoderForCausalLM", {"mlp_bias": True}, "mlp_bias: expected false"),
    ],
)
def test_a_field_is_refused_by_name(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    assert refusal(tmp_path, BY_NAME[name].config(**changes), block_length=4).startswith(f"config.json: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bias": ...}, "use_bias: expected false, the field is missing"),
        ({"score_function": "softmax"}, "score_function: expected sigmoid"),
        ({"rotary_dim": 6}, "rotary_dim: expected 8, head_dim times partial_rotary_factor"),
        ({"rotary_dim": ..., "partial_rotary_factor": ...}, "partial_rotary_factor: expected a number"),
        ({"partial_rotary_factor": 0.3}, "partial_rotary_factor: expected an even share of head_dim 16"),
        ({"num_experts_per_tok": 1}, "num_experts_per_tok: expected an integer in [2, 16]"),
        ({"topk_group": 5}, "topk_group: expected an integer in [1, 4]"),
        ({"first_k_dense_replace": 4}, "first_k_dense_replace: expected an integer in [0, 3]"),
        ({"routed_scaling_factor": None}, "routed_scaling_factor: expected a number > 0"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers: expected no such field"),
    ],
)
def test_a_llada2_field_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert refusal(tmp_path, {**LLADA2, **changes}).startswith(f"config.json: {message}")


LLADA: dict[str, Any] = json.loads((GOLDEN / "checkpoints" / "llada-tiny" / "config.json").read_text())
EVERY_FAMILY = {
    **{case.architecture: case.config() for case in CASES},
    "LLaDAModelLM": LLADA,
    "LLaDA2MoeModelLM": LLADA2,
}


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_rope_parameters_say_what_rope_theta_said(tmp_path: Path, name: str) -> None:
    config = EVERY_FAMILY[name]
    theta = float(config["rope_theta"])
    expected = parsed(tmp_path, config, block_length=4)
    assert expected["rope_theta"] == theta
    for stored in ({"rope_theta": theta, "rope_type": "default"}, {"rope_theta": theta}):
        assert parsed(tmp_path, {**config, "rope_theta": ..., "rope_parameters": stored}, block_length=4) == expected
        assert parsed(tmp_path, {**config, "rope_parameters": stored}, block_length=4) == expected
    for empty in (None, {}, {"rope_type": "default"}):
        assert parsed(tmp_path, {**config, "rope_parameters": empty}, block_length=4) == expected


@pytest.mark.parametrize("name", EVERY_FAMILY)
@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"rope_theta": 7.0}, "rope_theta: expected 7 as in rope_parameters.rope_theta, got "),
        ({"rope_type": "yarn", "factor": 4.0}, 'rope_parameters.rope_type: expected default, got "yarn"'),
        ({"rope_type": "default", "factor": 4.0}, "rope_parameters.factor: expected no such field"),
        ({"rope_theta": 0}, "rope_parameters.rope_theta: expected a number > 0, got 0"),
        ({"rope_theta": "1e6"}, 'rope_parameters.rope_theta: expected a number > 0, got "1e6"'),
        ({"full_attention": {"rope_theta": 7.0}}, "rope_parameters.full_attention: expected no such field"),
        ([1], "rope_parameters: expected an object or null, got [1]"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor: expected "),
    ],
)
def test_rope_parameters_are_refused_by_name(tmp_path: Path, name: str, stored: Any, message: str) -> None:
    refused = refusal(tmp_path, {**EVERY_FAMILY[name], "rope_parameters": stored}, block_length=4)
    assert refused.startswith("config.json: ")
    assert message in refused


def test_the_rotating_share_of_llada2_may_be_in_rope_parameters(tmp_path: Path) -> None:
    stored = {"rope_theta": LLADA2["rope_theta"], "partial_rotary_factor": LLADA2["partial_rotary_factor"]}
    config = {**LLADA2, "rope_theta": ..., "partial_rotary_factor": ..., "rope_parameters": stored}
    assert parsed(tmp_path, config) == parsed(tmp_path, LLADA2)
