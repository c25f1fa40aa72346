"""config.json with the field names of transformers' Llama, Qwen2 and Qwen3."""

from typing import Any

from pydllm.checkpoint.family import Family, Fixed, divisor, positive
from pydllm.checkpoint.strict_json import Fields

_FIXED: Fixed = {
    "hidden_act": (("silu",), "silu"),
    "rope_scaling": ((), None),
    "quantization_config": ((), None),
    "use_sliding_window": ((False,), False),
}

_HARMLESS = frozenset(
    {
        # of sliding windows, which are switched off above
        "max_window_layers",
        "sliding_window",
    }
)


def _decoder(fields: Fields) -> dict[str, Any]:
    """What all of these families say in the same words."""
    num_heads = fields.integer("num_attention_heads", minimum=1)
    return {
        "vocab_size": fields.integer("vocab_size", minimum=1),
        "hidden_size": fields.integer("hidden_size", minimum=1),
        "num_layers": fields.integer("num_hidden_layers", minimum=1),
        "num_heads": num_heads,
        "num_kv_heads": divisor(fields, "num_key_value_heads", num_heads, of=num_heads, whole="num_attention_heads"),
        "intermediate_size": fields.integer("intermediate_size", minimum=1),
        "max_positions": fields.integer("max_position_embeddings", minimum=1),
        "rope_theta": positive(fields, "rope_theta", 10000.0),
        "rms_norm_eps": positive(fields, "rms_norm_eps", 1e-6),
        "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=False),
        "linear_bias": False,
    }


def _split_head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
    """Of Qwen2: the hidden size divided among the heads."""
    if hidden_size % num_heads != 0 or hidden_size // num_heads % 2 != 0:
        fields.refuse("num_attention_heads", f"a divisor of hidden_size {hidden_size} that leaves heads of even size")
    return hidden_size // num_heads


def _dream(fields: Fields) -> dict[str, Any]:
    decoder = _decoder(fields)
    head_dim = _split_head_dim(fields, decoder["hidden_size"], decoder["num_heads"])
    return {**decoder, "head_dim": head_dim, "attention_bias": True, "logit_shift": True}


DREAM = Family(
    parse=_dream,
    fixed={**_FIXED, "model_type": (("Dream",), "Dream"), "use_mrope": ((False,), False)},
    harmless=_HARMLESS,
)
"""Dream-7B, Dream-Coder, DiffuCoder, d3LLM-Dream: Qwen2 with biases on q, k, v."""
