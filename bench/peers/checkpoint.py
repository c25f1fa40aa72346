"""Random checkpoints in the layouts of LLaDA and Dream, 126 M and 1.0 B parameters: `checkpoint.py FOLDER MODEL SIZE`.

Weights are bfloat16, so that every peer and every type holds the same numbers.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DEMO = Path(__file__).resolve().parents[2] / "pydllm" / "demo_model"
CONTEXT = 1024


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `heads` is also the number of its K/V heads in LLaDA."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    feed_forward: dict[str, int]
    """By model: Dream has a quarter of the K/V heads and spends what that saves here, as the published ones do."""

    def kv_heads(self, model: str) -> int:
        return self.heads if model == "llada" else self.heads // 4


SHAPES = {
    "tiny": Shape(64, 2, 4, 512, {"llada": 192, "dream": 224}),
    "126m": Shape(1024, 8, 16, 8192, {"llada": 3072, "dream": 3584}),
    "1.0b": Shape(2048, 16, 16, 32768, {"llada": 6144, "dream": 7168}),
}


def llada_config(shape: Shape) -> dict[str, Any]:
    """The demo model's with other sizes."""
    config = json.loads((DEMO / "config.json").read_text())
    sizes = {"d_model": shape.hidden, "n_layers": shape.layers, "n_heads": shape.heads, "n_kv_heads": shape.heads}
    vocabulary = {"vocab_size": shape.vocabulary, "embedding_size": shape.vocabulary}
    return {
        **config,
        **sizes,
        **vocabulary,
        "mlp_hidden_size": shape.feed_forward["llada"],
        "max_sequence_length": CONTEXT,
    }


def dream_config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward["dream"],
        "mask_token_id": json.loads((DEMO / "config.json").read_text())["mask_token_id"],
        "max_position_embeddings": CONTEXT,
        "model_type": "Dream",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads("dream"),
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocabulary,
    }


def matrix_shapes(model: str, shape: Shape) -> dict[str, tuple[int, int]]:
    """[outputs, inputs] of every matrix, by its name in the checkpoint."""
    kv_width = shape.hidden // shape.heads * shape.kv_heads(model)
    square, narrow = (shape.hidden, shape.hidden), (kv_width, shape.hidden)
    up, down = (shape.feed_forward[model], shape.hidden), (shape.hidden, shape.feed_forward[model])
    table = (shape.vocabulary, shape.hidden)
    if model == "llada":
        at, ends = "model.transformer.blocks.{}.{}.weight", {"wte": table, "ff_out": table}
        layer = {"q_proj": square, "k_proj": narrow, "v_proj": narrow, "attn_out": square}
        layer |= {"ff_proj": up, "up_proj": up, "ff_out": down}
        whole = {f"model.transformer.{name}.weight": size for name, size in ends.items()}
    else:
        at, whole = "model.layers.{}.{}.weight", {"model.embed_tokens.weight": table, "lm_head.weight": table}
        layer = {
            f"self_attn.{name}_proj": size for name, size in zip("qkvo", (square, narrow, narrow, square), strict=True)
        }
        layer |= {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
    return whole | {at.format(i, name): size for i in range(shape.layers) for name, size in layer.items()}


def vector_names(model: str, shape: Shape) -> dict[str, int]:
    """Lengths of the norms' weights."""
    at, names, last = {
        "llada": ("model.transformer.blocks.{}.{}.weight", ("attn_norm", "ff_norm"), "model.transformer.ln_f.weight"),
        "dream": ("model.layers.{}.{}.weight", ("input_layernorm", "post_attention_layernorm"), "model.norm.weight"),
    }[model]
    return {at.format(i, name): shape.hidden for i in range(shape.layers) for name in names} | {last: shape.hidden}


def random_weights(model: str, shape: Shape) -> dict[str, torch.Tensor]:
    """Large enough that every layer matters in the logits."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, size in matrix_shapes(model, shape).items():
        weights[name] = (torch.randn(size, generator=generator) / size[1] ** 0.5).to(torch.bfloat16)
        if model == "dream" and name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            bias = torch.randn(size[0], generator=generator) * 0.2
            weights[name.replace("weight", "bias")] = bias.to(torch.bfloat16)
    for name, length in vector_names(model, shape).items():
        weights[name] = (1 + torch.randn(length, generator=generator) * 0.1).to(torch.bfloat16)
    return weights


def write(folder: Path, model: str, size: str) -> None:
    """A directory that pydllm loads; the tokenizer is the demo model's and knows only the first ids."""
    shape = SHAPES[size]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(DEMO / name, folder)
    save_file(random_weights(model, shape), folder / "model.safetensors")
    config = llada_config(shape) if model == "llada" else dream_config(shape)
    # Last: who finds it finds everything.
    (folder / "config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
