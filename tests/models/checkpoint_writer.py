"""Writes small checkpoint directories for tests, with the safetensors library as the independent writer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LLADA_8B: dict[str, Any] = {
    "_name_or_path": "somewhere",
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
    "torch_dtype": "bfloat16",
}
"""The fields and values of the published 8B models."""

TINY: dict[str, Any] = {
    **LLADA_8B,
    "d_model": 4,
    "n_heads": 2,
    "n_kv_heads": 1,
    "n_layers": 1,
    "mlp_hidden_size": 6,
    "vocab_size": 7,
    "embedding_size": 8,
    "max_sequence_length": 32,
    "mask_token_id": 6,
    "eos_token_id": 5,
    "pad_token_id": 5,
    "torch_dtype": "float32",
}


def tiny_tensors(dtype: type = np.float32) -> dict[str, np.ndarray]:
    """The tensors of TINY."""
    shapes = {
        "wte.weight": (8, 4),
        "ff_out.weight": (8, 4),
        "ln_f.weight": (4,),
        "blocks.0.attn_norm.weight": (4,),
        "blocks.0.ff_norm.weight": (4,),
        "blocks.0.q_proj.weight": (4, 4),
        "blocks.0.k_proj.weight": (2, 4),
        "blocks.0.v_proj.weight": (2, 4),
        "blocks.0.attn_out.weight": (4, 4),
        "blocks.0.ff_proj.weight": (6, 4),
        "blocks.0.up_proj.weight": (6, 4),
        "blocks.0.ff_out.weight": (4, 6),
    }
    random = np.random.default_rng(0)
    return {f"model.transformer.{name}": random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def write_config(directory: Path, config: dict[str, Any], **changes: Any) -> None:
    """config.json with changes; `...` removes a field."""
    merged = {**config, **changes}
    write_json(directory / "config.json", {name: value for name, value in merged.items() if value is not ...})


def write_tiny(directory: Path, **changes: Any) -> Path:
    """A loadable checkpoint of one file."""
    write_config(directory, TINY, **changes)
    save_file(tiny_tensors(), directory / "model.safetensors")
    return directory


def write_sharded(directory: Path, *, index: bool, shards: int = 3) -> dict[str, str]:
    """The same in several shards; returns the weight map, which is written only when `index`."""
    write_config(directory, TINY)
    weight_map: dict[str, str] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for i, (name, values) in enumerate(tiny_tensors().items()):
        shard = f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors"
        weight_map[name] = shard
        parts.setdefault(shard, {})[name] = values
    for shard, tensors in parts.items():
        save_file(tensors, directory / shard)
    if index:
        write_json(
            directory / "model.safetensors.index.json",
            {"metadata": {"total_size": 1}, "weight_map": weight_map},
        )
    return weight_map
