"""config.json with the field names of transformers' Llama, Qwen2 and Qwen3."""

from typing import Any

from pydllm.checkpoint.family import Family, Fixed, positive, rope_theta
from pydllm.checkpoint.strict_json import Fields

ROTARY_DECODER: Fixed = {
    "hidden_act": (("silu",), "silu"),
    "rope_scaling": ((), None),
    "quantization_config": ((), None),
    "use_sliding_window": ((False,), False),
}
"""A gated decoder with plain rotary positions."""

_HARMLESS = frozenset(
    {
        # of sliding windows, which are switched off above
        "max_window_layers",
        "sliding_window",
    }
)


def decoder(fields: Fields, *, intermediate_size: int) -> dict[str, Any]:
    """What all of these families say in the same words."""
    num_heads = fields.integer("num_attention_heads", minimum=1)
    num_kv_heads = fields.integer("num_key_value_heads", minimum=1)
    if num_heads % num_kv_heads != 0:
        fields.refuse("num_key_value_heads", f"a divisor of num_attention_heads {num_heads}")
    return {
        "vocab_size": fields.integer("vocab_size", minimum=1),
        "hidden_size": fields.integer("hidden_size", minimum=1),
        "num_layers": fields.integer("num_hidden_layers", minimum=1),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "intermediate_size": intermediate_size,
        "max_positions": fields.integer("max_position_embeddings", minimum=1),
        "rope_theta": rope_theta(fields),
        "rms_norm_eps": positive(fields, "rms_norm_eps"),
        "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=False),
    }


def _dense_decoder(fields: Fields) -> dict[str, Any]:
    return decoder(fields, intermediate_size=fields.integer("intermediate_size", minimum=1))


def split_head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
    """Of Qwen2: the hidden size divided among the heads."""
    if hidden_size % num_heads != 0 or hidden_size // num_heads % 2 != 0:
        fields.refuse("num_attention_heads", f"a divisor of hidden_size {hidden_size} that leaves heads of even size")
    return hidden_size // num_heads


def _shifted_qwen2(fields: Fields) -> dict[str, Any]:
    values = _dense_decoder(fields)
    head_dim = split_head_dim(fields, values["hidden_size"], values["num_heads"])
    return {**values, "head_dim": head_dim, "attention_bias": True, "logit_shift": True}


def _llama(fields: Fields) -> dict[str, Any]:
    values = _dense_decoder(fields)
    given = fields.optional_integer("head_dim", minimum=1)
    head_dim = split_head_dim(fields, values["hidden_size"], values["num_heads"]) if given is None else given
    return {**values, "head_dim": head_dim}


def _qwen3(fields: Fields) -> dict[str, Any]:
    return {**_dense_decoder(fields), "head_dim": fields.integer("head_dim", minimum=1), "qk_norm": True}


def _qwen3_moe(fields: Fields) -> dict[str, Any]:
    experts = fields.integer("num_experts", minimum=1)
    moe = {
        "num_experts": experts,
        "experts_per_token": fields.integer("num_experts_per_tok", minimum=1, maximum=experts),
        "expert_intermediate_size": fields.integer("moe_intermediate_size", minimum=1),
        "router_normalize": fields.boolean("norm_topk_prob"),
    }
    return {**_qwen3(fields), "moe": moe}


def _rnd1(fields: Fields) -> dict[str, Any]:
    return {**_qwen3_moe(fields), "logit_shift": True}


_QWEN3_FIXED: Fixed = {**ROTARY_DECODER, "attention_bias": ((False,), False)}

_QWEN3_MOE_FIXED: Fixed = {
    **_QWEN3_FIXED,
    "decoder_sparse_step": ((1,), 1),
    "mlp_only_layers": (([],), []),
}

_QWEN3_MOE_HARMLESS = _HARMLESS | {"output_router_logits", "router_aux_loss_coef"}

_SDAR_TRAINING = frozenset({"debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep"})


DREAM = Family(
    parse=_shifted_qwen2,
    fixed={**ROTARY_DECODER, "model_type": (("Dream",), "Dream"), "use_mrope": ((False,), False)},
    harmless=_HARMLESS,
)
"""Dream-7B, Dream-Coder, DiffuCoder, d3LLM-Dream: Qwen2 with biases on q, k, v."""

FAST_DLLM_V2 = Family(
    parse=_shifted_qwen2,
    fixed={**ROTARY_DECODER, "model_type": (("Fast_dLLM_Qwen",), "Fast_dLLM_Qwen")},
    harmless=_HARMLESS | {"conplemenrary_mask"},
    block_causal=True,
    block_field="bd_size",
)
"""Fast-dLLM v2: the network of Dream under a block-causal mask. One of its training fields is misspelt."""

SDAR = Family(
    parse=_qwen3,
    fixed={**_QWEN3_FIXED, "model_type": (("sdar",), "sdar")},
    harmless=_HARMLESS | _SDAR_TRAINING,
    block_causal=True,
)

SDAR_MOE = Family(
    parse=_qwen3_moe,
    fixed={**_QWEN3_MOE_FIXED, "model_type": (("sdar_moe",), "sdar_moe")},
    harmless=_QWEN3_MOE_HARMLESS | _SDAR_TRAINING,
    block_causal=True,
)

RND1 = Family(
    parse=_rnd1,
    fixed={**_QWEN3_MOE_FIXED, "model_type": (("rnd1",), "rnd1"), "is_causal": ((False,), False)},
    harmless=_QWEN3_MOE_HARMLESS | {"moe_backend", "num_diffusion_steps"},
)
"""Qwen3-MoE with full attention and shifted logits; intermediate_size is stored but belongs to no tensor."""

STABLE_DIFFCODER = Family(
    parse=_llama,
    fixed={
        **ROTARY_DECODER,
        "model_type": (("llama",), "llama"),
        "attention_bias": ((False,), False),
        "mlp_bias": ((False,), False),
    },
    harmless=_HARMLESS | {"pretraining_tp"},
    block_causal=True,
)
"""Llama; config.json tells it from one by the name in `architectures` only."""
