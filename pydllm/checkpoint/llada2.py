"""config.json of LLaDA2.0, 2.1 and 2.2."""

from typing import Any

from pydllm.checkpoint.family import Family, Fixed, partial_rotary_factor, positive
from pydllm.checkpoint.qwen import ROTARY_DECODER, decoder
from pydllm.checkpoint.strict_json import Fields

# The defaults of the original configuration class are another model's, so that little may be left out.
_FIXED: Fixed = {
    **ROTARY_DECODER,
    "model_type": (("llada2_moe",), "llada2_moe"),
    "norm_head": ((False,), False),
    "norm_softmax": ((False,), False),
    "norm_topk_prob": ((True,), ...),
    "router_dtype": (("fp32",), "fp32"),
    "score_function": (("sigmoid",), ...),
    "use_bias": ((False,), ...),
    "use_qk_norm": ((True,), True),
    "use_qkv_bias": ((False,), ...),
    "use_rmsnorm": ((True,), True),
    "using_split_qkv_in_self_attention": ((False,), False),
}

_HARMLESS = frozenset(
    {
        # stored with a size, never used by the original
        "max_window_layers",
        "sliding_window",
        # training
        "embedding_dropout",
        "output_dropout",
        "output_router_logits",
    }
)


def _parse(fields: Fields) -> dict[str, Any]:
    values = decoder(fields, intermediate_size=fields.integer("intermediate_size", minimum=1))
    head_dim = fields.integer("head_dim", minimum=1)
    return {
        **values,
        "head_dim": head_dim,
        "qk_norm": True,
        "rotary_dim": _rotary_dim(fields, head_dim),
        "moe": {**_experts(fields, values["num_layers"]), **_router(fields)},
    }


def _rotary_dim(fields: Fields, head_dim: int) -> int:
    factor = partial_rotary_factor(fields)
    given = fields.optional_integer("rotary_dim", minimum=2, maximum=head_dim)
    if factor is None and given is None:
        fields.refuse("partial_rotary_factor", "a number > 0 and <= 1")
    if factor is None:
        return given or 0
    if factor * head_dim % 2 != 0:
        fields.refuse("partial_rotary_factor", f"an even share of head_dim {head_dim}")
    rotary_dim = int(factor * head_dim)
    if given not in (None, rotary_dim):
        fields.refuse("rotary_dim", f"{rotary_dim}, head_dim times partial_rotary_factor")
    return rotary_dim


def _experts(fields: Fields, layers: int) -> dict[str, Any]:
    experts = fields.integer("num_experts", minimum=1)
    width = fields.integer("moe_intermediate_size", minimum=1)
    return {
        "num_experts": experts,
        # With a single expert the original does not divide by the sum.
        "experts_per_token": fields.integer("num_experts_per_tok", minimum=2, maximum=experts),
        "expert_intermediate_size": width,
        "shared_intermediate_size": width * fields.integer("num_shared_experts", minimum=0, maximum=1024),
        "dense_layers": fields.integer("first_k_dense_replace", minimum=0, maximum=layers),
    }


def _router(fields: Fields) -> dict[str, Any]:
    groups = fields.integer("n_group", minimum=1)
    kept = fields.integer("topk_group", minimum=1, maximum=groups)
    capacity = fields.optional_integer("expert_capacity", minimum=1)
    return {
        "router_score": "sigmoid",
        "router_bias": fields.boolean("moe_router_enable_expert_bias"),
        "router_normalize": True,
        "router_scale": positive(fields, "routed_scaling_factor"),
        # LLaDA2.2 still stores its groups; a model with a capacity does not use them.
        **(
            {"expert_groups": groups, "expert_groups_kept": kept} if capacity is None else {"expert_capacity": capacity}
        ),
    }


LLADA2 = Family(
    parse=_parse,
    fixed=_FIXED,
    harmless=_HARMLESS,
    partial_rotation=True,
    control_tokens=True,
    block_causal=True,
    published_block_length=32,
)
