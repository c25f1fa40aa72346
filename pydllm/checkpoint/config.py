"""config.json to the fields of core/models/config.h.

Every field of the file is used, checked for the only value this engine supports, or on the list of fields
that cannot change what the model computes; anything else is refused by name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydllm.checkpoint.strict_json import Fields, read_object, refuse_field
from pydllm.errors import CheckpointError

CONFIG_FILE = "config.json"
CONFIG_LIMIT = 1 << 20
"""Bytes; real ones have about a thousand."""

_MAX_INT = 2**31 - 1

# The only values we support, with what absence means in the original configuration class (`...`: absence is
# refused because its default there is another value).
_LLADA_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
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

# They do not change the function the weights define at inference.
_LLADA_IGNORED = frozenset(
    {
        # training and initialisation
        "attention_dropout",
        "embedding_dropout",
        "init_cutoff_factor",
        "init_device",
        "init_fn",
        "init_std",
        "precision",
        "residual_dropout",
        "train_max_sequence_length",
        # how the original computes the same thing; rotation is always in float32 here
        "_attn_implementation_autoset",
        "attn_implementation",
        "flash_attention",
        "rope_full_precision",
        "use_cache",
        # of features that are switched off above
        "alibi_bias_max",
        "attention_layer_norm_with_affine",
        # bookkeeping of transformers; auto_map names Python code and is never executed
        "_commit_hash",
        "_name_or_path",
        "auto_map",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "transformers_version",
        # the original reads weight_tying instead
        "tie_word_embeddings",
    }
)

_DTYPES = ("float32", "bfloat16", "float16")


def read_config(directory: Path) -> Fields:
    """The fields of config.json. Raises CheckpointError."""
    return Fields(read_object(directory / CONFIG_FILE, limit=CONFIG_LIMIT), file=CONFIG_FILE)


def architecture_of(fields: Fields) -> str:
    """architectures[0]; exactly one is expected."""
    names = fields.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        fields.refuse("architectures", "a list of one name")
    return names[0]


def model_config(fields: Fields) -> dict[str, Any]:
    """The fields of core/models/config.h except dtype. Raises CheckpointError naming field and value."""
    architecture = architecture_of(fields)
    parse = _PARSERS.get(architecture)
    if parse is None:
        fields.refuse("architectures", " or ".join(f'["{name}"]' for name in _PARSERS))
    return {"architecture": architecture, **parse(fields)}


def stored_dtype(fields: Fields) -> str | None:
    """torch_dtype, or dtype as newer files call it; None when config.json does not say."""
    found = None
    for name in ("torch_dtype", "dtype"):
        value = fields.get(name)
        if value is None:
            continue
        plain = value.removeprefix("torch.") if isinstance(value, str) else value
        if plain not in _DTYPES:
            fields.refuse(name, "float32, bfloat16 or float16")
        if found is not None and plain != found:
            fields.refuse(name, f"{found} as in torch_dtype")
        found = plain
    return found


def refuse_unknown(fields: Fields) -> None:
    """After everything was read: no field may be left that nobody knows."""
    unknown = [name for name in fields.unread() if name not in _LLADA_IGNORED]
    if unknown:
        refuse_field(fields.file, unknown[0], "no such field (its meaning is unknown)", fields.get(unknown[0]))


def _check_fixed(fields: Fields) -> None:
    for name, (allowed, default) in _LLADA_FIXED.items():
        value = fields.get(name)
        if value is None and default is not ...:
            continue
        if not any(type(value) is type(one) and value == one for one in allowed):
            fields.refuse(name, " or ".join(_json_word(one) for one in allowed) or "null")


def _json_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _llada(fields: Fields) -> dict[str, Any]:
    _check_fixed(fields)
    hidden_size = fields.integer("d_model", minimum=1)
    num_heads = fields.integer("n_heads", minimum=1)
    if hidden_size % num_heads != 0 or hidden_size // num_heads % 2 != 0:
        fields.refuse("n_heads", f"a divisor of d_model {hidden_size} that leaves heads of even size")
    include_bias = fields.boolean("include_bias", default=False)
    _check_norm_bias(fields, include_bias)
    rope_theta = fields.optional_number("rope_theta", minimum=0.0, above=True)
    epsilon = fields.optional_number("rms_norm_eps", minimum=0.0, above=True)
    return {
        "vocab_size": _embedding_rows(fields),
        "hidden_size": hidden_size,
        "num_layers": fields.integer("n_layers", minimum=1),
        "num_heads": num_heads,
        "num_kv_heads": _kv_heads(fields, num_heads),
        "head_dim": hidden_size // num_heads,
        "intermediate_size": _intermediate_size(fields, hidden_size),
        "max_positions": fields.integer("max_sequence_length", minimum=1),
        "rope_theta": 10000.0 if rope_theta is None else rope_theta,
        "rms_norm_eps": 1e-5 if epsilon is None else epsilon,
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


_PARSERS: dict[str, Callable[[Fields], dict[str, Any]]] = {"LLaDAModelLM": _llada}
