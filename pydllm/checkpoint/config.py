"""config.json to the fields of core/models/config.h.

Every field of the file is used, checked for the only value this engine supports, or on the list of fields
that cannot change what the model computes; anything else is refused by name.
"""

from pathlib import Path
from typing import Any

from pydllm.checkpoint import family
from pydllm.checkpoint.family import Family
from pydllm.checkpoint.llada import LLADA
from pydllm.checkpoint.llada2 import LLADA2
from pydllm.checkpoint.llada_moe import LLADA_MOE
from pydllm.checkpoint.qwen import DREAM, FAST_DLLM_V2, RND1, SDAR, SDAR_MOE, STABLE_DIFFCODER
from pydllm.checkpoint.strict_json import Fields, read_object

CONFIG_FILE = "config.json"
CONFIG_LIMIT = 1 << 20
"""Bytes; real ones have about a thousand."""

_DTYPES = ("float32", "bfloat16", "float16")


def read_config(directory: Path) -> Fields:
    """The fields of config.json. Raises CheckpointError."""
    return Fields(read_object(directory / CONFIG_FILE, limit=CONFIG_LIMIT), file=CONFIG_FILE)


def architecture_of(fields: Fields) -> str:
    """architectures[0], exactly one is expected; one name for the several of Stable-DiffCoder's classes."""
    names = fields.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        fields.refuse("architectures", "a list of one name")
    return _STABLE_DIFFCODER if "StableDiffcoder" in names[0] else names[0]


def model_config(fields: Fields, *, block_length: int | None = None) -> dict[str, Any]:
    """The fields of core/models/config.h except dtype; `block_length` is a block-causal model's, over the file's.
    Raises CheckpointError naming field and value."""
    architecture = architecture_of(fields)
    return {"architecture": architecture, **_family(fields).read(fields, block_length=block_length)}


def has_control_tokens(fields: Fields) -> bool:
    """Whether models of this family may edit by control tokens."""
    return _family(fields).control_tokens


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
    family.refuse_unknown(fields, _family(fields))


def _family(fields: Fields) -> Family:
    found = _FAMILIES.get(architecture_of(fields))
    if found is None:
        fields.refuse("architectures", " or ".join(f'["{name}"]' for name in _FAMILIES))
    return found


_STABLE_DIFFCODER = "StableDiffcoderForCausalLM"

_FAMILIES = {
    "LLaDAModelLM": LLADA,
    "LLaDAMoEModelLM": LLADA_MOE,
    "DreamModel": DREAM,
    "RND1": RND1,
    "RND1LM": RND1,
    "LLaDA2MoeModelLM": LLADA2,
    "SDARForCausalLM": SDAR,
    "SDARMoeForCausalLM": SDAR_MOE,
    _STABLE_DIFFCODER: STABLE_DIFFCODER,
    "Fast_dLLM_QwenForCausalLM": FAST_DLLM_V2,
}
