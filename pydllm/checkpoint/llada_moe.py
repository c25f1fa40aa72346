"""config.json of LLaDA-MoE."""

from typing import Any

from pydllm.checkpoint.family import Family, Fixed
from pydllm.checkpoint.qwen import ROTARY_DECODER, decoder, split_head_dim
from pydllm.checkpoint.strict_json import Fields

_FIXED: Fixed = {
    **ROTARY_DECODER,
    "model_type": (("llada", "llada_moe"), "llada"),
    "add_bias_linear": ((False,), False),
    "attention_bias": ((False,), False),
    "clip_qkv": ((), None),
    "norm_topk_prob": ((False,), False),
    "moe_router_enable_expert_bias": ((False,), False),
    "moe_router_score_function": (("softmax",), "softmax"),
    "partial_rotary_factor": ((1, 1.0), 1),
    "qk_layernorm": ((True,), ...),
    "routed_scaling_factor": ((1, 1.0), 1),
    "router_num_group": ((), None),
    "router_topk_group": ((), None),
    "shared_expert_intermediate_size": ((), None),
}

_HARMLESS = frozenset(
    {
        # of dense layers, which moe_layer_freq excludes
        "dense_intermediate_size",
        # training
        "output_router_logits",
        "router_aux_loss_coef",
    }
)


def _parse(fields: Fields) -> dict[str, Any]:
    experts = fields.integer("num_experts", minimum=1)
    width = fields.integer("expert_intermediate_size", minimum=1)
    values = decoder(fields, intermediate_size=width)
    _check_every_layer(fields, values["num_layers"])
    moe = {
        "num_experts": experts,
        "experts_per_token": fields.integer("num_experts_per_tok", minimum=1, maximum=experts),
        "expert_intermediate_size": width,
    }
    head_dim = split_head_dim(fields, values["hidden_size"], values["num_heads"])
    return {**values, "head_dim": head_dim, "qk_norm": True, "moe": moe}


def _check_every_layer(fields: Fields, layers: int) -> None:
    """moe_layer_freq: 1, or a list with a 1 for every layer."""
    frequency = fields.get("moe_layer_freq")
    if frequency not in (None, 1, [1] * layers):
        fields.refuse("moe_layer_freq", f"1 or a list of {layers} ones")


LLADA_MOE = Family(parse=_parse, fixed=_FIXED, harmless=_HARMLESS)
"""Softmax router without renormalisation, norms on the heads of q and k, Qwen's tensor names."""
