"""Writes a checkpoint of LLaDA, Dream or LLaDA-MoE as a GGUF file for llama.cpp: weights without a vocabulary.

The names are those of llama.cpp's sources (src/llama-arch.cpp); needs numpy, and the gguf package for the file itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TYPES = ("F32", "BF16", "F16")
ENDS = {
    "model.transformer.wte.weight": "token_embd.weight",
    "model.transformer.ln_f.weight": "output_norm.weight",
    "model.transformer.ff_out.weight": "output.weight",
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYERS = ("model.transformer.blocks.", "model.layers.")
PARTS = {
    "attn_norm": "attn_norm",
    "ff_norm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ff_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "ff_out": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}


@dataclass(frozen=True)
class Facts:
    """What llama.cpp has to be told of a config.json."""

    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    context: int
    vocabulary: int
    epsilon: float
    rope_theta: float
    experts: int = 0
    experts_used: int = 0


def facts_of(config: dict[str, Any]) -> Facts:
    """Raises ValueError for an architecture that this file does not know."""
    architecture = config["architectures"][0]
    if architecture == "LLaDAModelLM":
        names = ("n_layers", "d_model", "mlp_hidden_size", "n_heads", "n_kv_heads", "max_sequence_length")
        table = config["embedding_size"]
        return Facts("llada", *(config[name] for name in names), table, config["rms_norm_eps"], config["rope_theta"])
    if architecture not in ("DreamModel", "LLaDAMoEModelLM"):
        raise ValueError(f"architectures: expected LLaDAModelLM, LLaDAMoEModelLM or DreamModel, got {architecture}")
    dense = architecture == "DreamModel"
    names = ("num_hidden_layers", "hidden_size", "intermediate_size" if dense else "expert_intermediate_size")
    names += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "vocab_size")
    values = (*(config[name] for name in names), config["rms_norm_eps"], config["rope_theta"])
    if dense:
        return Facts("dream", *values)
    return Facts("llada-moe", *values, experts=config["num_experts"], experts_used=config["num_experts_per_tok"])


def pairs_interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * head_dim, ...] in the order of llama.cpp's llada, which rotates rows 2i and 2i + 1 of a head.

    The checkpoint's model rotates i and i + head_dim / 2. `heads` are those of this weight: K has its own number.
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def read_safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor in float32. By hand, since numpy has no bfloat16."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = file.tell()
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            file.seek(begin + entry["data_offsets"][0])
            data = file.read(entry["data_offsets"][1] - entry["data_offsets"][0])
            yield name, as_float32(data, entry["dtype"]).reshape(entry["shape"])


def as_float32(data: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype not in ("F32", "F16"):
        raise ValueError(f"dtype: expected F32, F16 or BF16, got {dtype}")
    return np.frombuffer(data, np.float32 if dtype == "F32" else np.float16).astype(np.float32)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor. Raises ValueError where there is none."""
    if name in ENDS:
        return ENDS[name]
    for prefix in LAYERS:
        layer, _, rest = name.removeprefix(prefix).partition(".")
        part, _, kind = rest.rpartition(".")
        if name.startswith(prefix) and part in PARTS:
            return f"blk.{layer}.{PARTS[part]}.{kind}"
    raise ValueError(f"tensor: expected one of LLaDA, Dream or LLaDA-MoE, got {name}")


def stacked_experts(tensors: Iterator[tuple[str, np.ndarray]], experts: int) -> Iterator[tuple[str, np.ndarray]]:
    """The same with the matrices `...experts.<e>.up_proj.weight` of a layer as one [experts, outputs, inputs]."""
    waiting: dict[str, dict[int, np.ndarray]] = {}
    for name, value in tensors:
        before, found, after = name.partition(".experts.")
        if not found:
            yield name, value
            continue
        index, _, part = after.partition(".")
        stack = waiting.setdefault(f"{before}.experts.{part}", {})
        stack[int(index)] = value
        if len(stack) == experts:
            yield f"{before}.experts.{part}", np.stack([stack[e] for e in range(experts)])
            del waiting[f"{before}.experts.{part}"]
    if waiting:
        raise ValueError(f"experts: expected {experts} of each, some are missing of {', '.join(sorted(waiting))}")


def llama_tensors(folder: Path, facts: Facts) -> Iterator[tuple[str, np.ndarray]]:
    """(llama.cpp's name, float32 values) of every tensor of model.safetensors."""
    for name, value in stacked_experts(read_safetensors(folder / "model.safetensors"), facts.experts):
        target = gguf_name(name)
        if facts.architecture == "llada" and ".attn_q." in target:
            value = pairs_interleaved(value, facts.heads)
        elif facts.architecture == "llada" and ".attn_k." in target:
            value = pairs_interleaved(value, facts.kv_heads)
        yield target, value


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """`kind`: the type of matrices, one of TYPES; vectors and the router stay float32, as llama.cpp wants them."""
    import gguf

    facts = facts_of(json.loads((folder / "config.json").read_text()))
    writer = gguf.GGUFWriter(path, facts.architecture)
    write_facts(writer, facts)
    target = gguf.GGMLQuantizationType[kind]
    for name, value in llama_tensors(folder, facts):
        exact = value.ndim == 1 or "ffn_gate_inp" in name
        stored = gguf.GGMLQuantizationType.F32 if exact else target
        writer.add_tensor(name, gguf.quants.quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_facts(writer: Any, facts: Facts) -> None:
    writer.add_block_count(facts.layers)
    writer.add_embedding_length(facts.hidden)
    writer.add_head_count(facts.heads)
    writer.add_head_count_kv(facts.kv_heads)
    writer.add_context_length(facts.context)
    writer.add_vocab_size(facts.vocabulary)
    writer.add_layer_norm_rms_eps(facts.epsilon)
    writer.add_rope_freq_base(facts.rope_theta)
    writer.add_rope_dimension_count(facts.hidden // facts.heads)
    writer.add_causal_attention(False)
    writer.add_feed_forward_length(facts.feed_forward)
    if facts.experts:
        writer.add_expert_count(facts.experts)
        writer.add_expert_used_count(facts.experts_used)
        writer.add_expert_feed_forward_length(facts.feed_forward)
    writer.add_tokenizer_model("none")
