"""Writes a trained network as a Hugging Face directory: python examples/demo_model/export.py build/demo_model TARGET

LLaDA's layout, or SDAR's for the block-causal sibling. The model card is card.py's work.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from batches import BLOCK_LENGTHS
from network import Shape
from safetensors.torch import save_file
from sibling import sdar_name
from vocabulary import BEGIN, CHAT_TEMPLATE, END, MASK, TURN_END, build

CONTEXT = 256
DEFAULT_ANSWER = 96
"""max_new_tokens: the longest stories have 65."""


def llada_config(shape: Shape, ids: dict[str, int]) -> dict[str, Any]:
    """config.json under LLaDA's names."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": shape.d_model,
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_heads,
        "mlp_hidden_size": shape.mlp_hidden_size,
        "mlp_ratio": 4,
        "vocab_size": shape.vocab_size,
        "embedding_size": shape.vocab_size,
        "max_sequence_length": shape.max_sequence_length,
        "rope": True,
        "rope_theta": shape.rope_theta,
        "rope_full_precision": True,
        "rms_norm_eps": shape.rms_norm_eps,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "attention_layer_norm": False,
        "alibi": False,
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "weight_tying": False,
        "scale_logits": False,
        "input_emb_norm": False,
        "flash_attention": False,
        "use_cache": False,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "multi_query_attention": None,
        "init_device": "cpu",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "precision": "bf16",
        "mask_token_id": ids[MASK],
        "eos_token_id": ids[END],
        "pad_token_id": ids[END],
        "torch_dtype": "bfloat16",
    }


def sdar_config(shape: Shape, ids: dict[str, int]) -> dict[str, Any]:
    """config.json under SDAR's names (Qwen3's, with a block size)."""
    return {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.mlp_hidden_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_sequence_length,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": shape.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "block_size": max(BLOCK_LENGTHS) // 2,
        "mask_token_id": ids[MASK],
        "bos_token_id": ids[BEGIN],
        "eos_token_id": ids[END],
        "pad_token_id": ids[END],
        "torch_dtype": "bfloat16",
    }


def special_tokens() -> dict[str, str]:
    """Under Hugging Face's names."""
    return {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "mask_token": MASK}


def export(trained: Path, target: Path) -> None:
    """Writes every file of the directory but the card."""
    saved = torch.load(trained / "average.pt", weights_only=True)
    tokenizer = build()
    ids = {text: tokenizer.token_to_id(text) for text in (BEGIN, END, MASK, TURN_END)}
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    shape = Shape(**saved["shape"])
    name_of = sdar_name if shape.qk_norm else str
    weights = {
        name_of(name): weight.to("cpu", torch.bfloat16).contiguous() for name, weight in saved["weights"].items()
    }
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "model.safetensors").chmod(0o644)
    _write(target / "config.json", (sdar_config if shape.qk_norm else llada_config)(shape, ids))
    _write(target / "special_tokens_map.json", special_tokens())
    _write(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special_tokens(),
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT,
        },
    )
    _write(
        target / "generation_config.json",
        {
            "eos_token_id": [ids[END], ids[TURN_END]],
            "pad_token_id": ids[END],
            "mask_token_id": ids[MASK],
            "max_new_tokens": DEFAULT_ANSWER,
            "block_length": max(BLOCK_LENGTHS) // 2 if shape.qk_norm else max(BLOCK_LENGTHS),
        },
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trained", type=Path, help="--out of train.py")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    export(arguments.trained, arguments.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
