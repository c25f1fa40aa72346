"""The networks of the tiny checkpoints in torch, in any dtype as their authors' modules compute it: products, attention
and activations in that dtype, norms and the router in float32. They are the measure of what a smaller type costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path

LLADA = {
    "embed": "model.transformer.wte",
    "norm": "model.transformer.ln_f",
    "head": "model.transformer.ff_out",
    "layer": "model.transformer.blocks.{}.",
    "attention_norm": "attn_norm",
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": "attn_out",
    "feed_forward_norm": "ff_norm",
    "gated": ("ff_proj", "up_proj", "ff_out"),
}
DREAM = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layer": "model.layers.{}.",
    "attention_norm": "input_layernorm",
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "gated": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
LLADA2 = {
    "embed": "model.word_embeddings",
    "norm": "model.norm",
    "head": "lm_head",
    "layer": "model.layers.{}.",
    "attention_norm": "input_layernorm",
    "qkv": ("attention.query_key_value",),
    "o": "attention.dense",
    "feed_forward_norm": "post_attention_layernorm",
    "gated": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
NAMES = {"LLaDAModelLM": LLADA, "DreamModel": DREAM, "LLaDA2MoeModelLM": LLADA2}


class TorchNetwork:
    """One checkpoint in one dtype."""

    def __init__(self, directory: Path, dtype: torch.dtype, *, block_length: int = 0) -> None:
        self.c: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.names: dict[str, Any] = NAMES[self.c["architectures"][0]]
        self.exact = load_file(directory / "model.safetensors")
        self.w = {name: value.to(dtype) for name, value in self.exact.items()}
        self.block_length = block_length

    def size(self, *names: str) -> int:
        return int(next(self.c[name] for name in names if name in self.c))

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """float32 [tokens, vocabulary]"""
        x = self.w[self.names["embed"] + ".weight"][tokens]
        for layer in range(self.size("n_layers", "num_hidden_layers")):
            at = self.names["layer"].format(layer)
            x = x + self.attention(at, self.norm(x, at + self.names["attention_norm"]))
            y = self.norm(x, at + self.names["feed_forward_norm"])
            is_mixture = layer >= self.c.get("first_k_dense_replace", 10**6)
            x = x + (self.mixture(at, y) if is_mixture else self.gated(y, *(at + name for name in self.names["gated"])))
        return self.linear(self.norm(x, self.names["norm"]), self.names["head"]).float()

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.c["rms_norm_eps"])
        return self.w[f"{name}.weight"] * wide.to(x.dtype)

    def gated(self, x: torch.Tensor, gate: str, up: str, down: str) -> torch.Tensor:
        return self.linear(functional.silu(self.linear(x, gate)) * self.linear(x, up), down)

    def rotated(self, heads: torch.Tensor) -> torch.Tensor:
        """Of [heads, tokens, head_dim]; the leading dimensions where not all of them rotate."""
        rotary = self.c.get("rotary_dim", heads.shape[-1])
        frequencies = self.c["rope_theta"] ** -(torch.arange(0, rotary, 2, dtype=torch.float64) / rotary)
        angles = torch.outer(torch.arange(heads.shape[1], dtype=torch.float64), frequencies)
        cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
        first, second, rest = heads.split([rotary // 2, rotary // 2, heads.shape[-1] - rotary], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)

    def attention(self, at: str, x: torch.Tensor) -> torch.Tensor:
        heads = self.size("n_heads", "num_attention_heads")
        kv_heads = self.size("n_kv_heads", "num_key_value_heads")
        joined = torch.cat([self.linear(x, at + name) for name in self.names["qkv"]], dim=-1)
        apart = joined.view(len(x), heads + 2 * kv_heads, -1).transpose(0, 1)
        q, k, v = apart.split([heads, kv_heads, kv_heads])
        if f"{at}attention.query_layernorm.weight" in self.w:
            q, k = self.norm(q, at + "attention.query_layernorm"), self.norm(k, at + "attention.key_layernorm")
        q, k = self.rotated(q), self.rotated(k)
        k, v = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (k, v))
        block = torch.arange(len(x)) // (self.block_length or len(x))
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=block[None, :] <= block[:, None])
        return self.linear(attended.transpose(0, 1).reshape(len(x), -1), at + self.names["o"])

    def mixture(self, at: str, x: torch.Tensor) -> torch.Tensor:
        scores = functional.linear(x.float(), self.exact[at + "mlp.gate.weight"]).sigmoid()
        choice = scores + self.exact[at + "mlp.gate.expert_bias"]
        groups = choice.view(len(x), self.c["n_group"], -1)
        kept = groups.topk(2, dim=-1).values.sum(-1).topk(self.c["topk_group"], dim=-1).indices
        barred = torch.ones_like(groups, dtype=torch.bool)
        barred.scatter_(1, kept[..., None].expand(-1, -1, groups.shape[-1]), value=False)
        choice = choice.masked_fill(barred.view_as(choice), -torch.inf)
        chosen = choice.topk(self.c["num_experts_per_tok"], dim=-1).indices
        shares = scores.gather(1, chosen)
        shares = self.c["routed_scaling_factor"] * shares / shares.sum(-1, keepdim=True)
        parts = ("gate_proj", "up_proj", "down_proj")
        out = self.gated(x, *(f"{at}mlp.shared_experts.{part}" for part in parts))
        for token in range(len(x)):
            for expert, share in zip(chosen[token].tolist(), shares[token], strict=True):
                own = self.gated(x[token : token + 1], *(f"{at}mlp.experts.{expert}.{part}" for part in parts))
                out[token] += (share * own[0].float()).to(out.dtype)
        return out
