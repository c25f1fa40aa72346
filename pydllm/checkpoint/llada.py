"""config.json of LLaDA, which names its fields as OLMo does."""

from typing import Any

from pydllm.checkpoint.family import Family, Fixed, positive, rope_theta
from pydllm.checkpoint.strict_json import Fields
from pydllm.errors import CheckpointError

_MAX_INT = 2**31 - 1

_FIXED: Fixed = {
    "rope": ((True,), ...),
    "alibi": ((False,), False),
    "layer_norm_type": (("rms",), ...),
    "layer_norm_with_affine": ((True,), True),
    "activation_type": (("silu",), ...),
    "block_type": (("llama",), ...),
    "block_group_size": ((1,), 1),
    "attention_layer_norm": ((False,), False),
    "input_emb_norm": ((False,), False),
    "scale_logits": ((False,), False),
    "multi_query_attention": ((False,), False),
    "rope_scaling": ((), None),
    "quantization_config": ((), None),
    "model_type": (("llada",), "llada"),
}

_HARMLESS = frozenset(
    {
        # training and initialisation
        "embedding_dropout",
        "init_cutoff_factor",
        "init_device",
        "init_fn",
        "init_std",
        "precision",
        "residual_dropout",
        "train_max_sequence_length",
        # how the original computes the same thing; rotation is always in float32 here
        "flash_attention",
        "rope_full_precision",
        # of features that are switched off above
        "alibi_bias_max",
        "attention_layer_norm_with_affine",
        # the original reads weight_tying instead
        "tie_word_embeddings",
    }
)


def _parse(fields: Fields) -> dict[str, Any]:
    hidden_size = fields.integer("d_model", minimum=1)
    num_heads = fields.integer("n_heads", minimum=1)
    if hidden_size % num_heads != 0 or hidden_size // num_heads % 2 != 0:
        fields.refuse("n_heads", f"a divisor of d_model {hidden_size} that leaves heads of even size")
    include_bias = fields.boolean("include_bias", default=False)
    _check_norm_bias(fields, include_bias)
    return {
        "vocab_size": _embedding_rows(fields),
        "hidden_size": hidden_size,
        "num_layers": fields.integer("n_layers", minimum=1),
        "num_heads": num_heads,
        "num_kv_heads": _kv_heads(fields, num_heads),
        "head_dim": hidden_size // num_heads,
        "intermediate_size": _intermediate_size(fields, hidden_size),
        "max_positions": fields.integer("max_sequence_length", minimum=1),
        "rope_theta": rope_theta(fields, 10000.0),
        "rms_norm_eps": positive(fields, "rms_norm_eps", 1e-5),
        "tie_word_embeddings": fields.boolean("weight_tying"),
        "attention_bias": include_bias | fields.boolean("include_qkv_bias", default=False),
        "linear_bias": include_bias,
    }


def _check_norm_bias(fields: Fields, include_bias: bool) -> None:
    if fields.boolean("bias_for_layer_norm", default=include_bias):
        fields.refuse("bias_for_layer_norm", "false (absent or null means include_bias)")


def _embedding_rows(fields: Fields) -> int:
    vocab_size = fields.integer("vocab_size", minimum=1)
    rows = fields.optional_integer("embedding_size", minimum=1)
    if rows is None:
        return vocab_size
    if rows < vocab_size:
        fields.refuse("embedding_size", f"at least vocab_size {vocab_size}")
    return rows


def _kv_heads(fields: Fields, num_heads: int) -> int:
    given = fields.optional_integer("n_kv_heads", minimum=1)
    effective = fields.optional_integer("effective_n_kv_heads", minimum=1)
    heads = given if given is not None else effective if effective is not None else num_heads
    if effective is not None and effective != heads:
        fields.refuse("effective_n_kv_heads", f"n_kv_heads {heads}")
    if num_heads % heads != 0:
        fields.refuse(
            "n_kv_heads" if given is not None else "effective_n_kv_heads", f"a divisor of n_heads {num_heads}"
        )
    if fields.get("multi_query_attention") is False and heads != num_heads:
        fields.refuse("multi_query_attention", f"null with {heads} key/value heads for {num_heads} heads")
    return heads


def _intermediate_size(fields: Fields, hidden_size: int) -> int:
    size = fields.optional_integer("mlp_hidden_size", minimum=1)
    ratio = fields.optional_integer("mlp_ratio", minimum=1)
    if size is not None:
        return size
    size = hidden_size * (4 if ratio is None else ratio)
    if size > _MAX_INT:
        raise CheckpointError(
            f"{fields.file}: mlp_ratio: expected mlp_ratio * d_model of at most {_MAX_INT}, got {size}"
        )
    return size


LLADA = Family(parse=_parse, fixed=_FIXED, harmless=_HARMLESS)
