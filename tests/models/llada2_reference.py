"""LLaDA2.x in float64 numpy, written from its description: the only class of it is remote code."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def best(values: Array, count: int) -> list[int]:
    """The largest first, the lower index of equals."""
    return [int(i) for i in np.argsort(-values, kind="stable")[:count]]


class LLaDA2Reference:
    def __init__(self, config: dict[str, Any], tensors: dict[str, npt.NDArray[np.float32]]) -> None:
        self.c = config
        self.w = {name: values.astype(np.float64) for name, values in tensors.items()}

    def logits(self, tokens: list[int], block_length: int) -> Array:
        """[tokens, vocabulary]"""
        x = self.w["model.word_embeddings.weight"][tokens]
        for layer in range(self.c["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            x = x + self.attention(at + "attention.", self.norm(x, at + "input_layernorm"), block_length)
            normed = self.norm(x, at + "post_attention_layernorm")
            dense = layer < self.c["first_k_dense_replace"]
            x = x + (self.gated(at + "mlp.", normed) if dense else self.mixture(at + "mlp.", normed, block_length))
        return self.linear(self.norm(x, "model.norm"), "lm_head")

    def linear(self, x: Array, name: str) -> Array:
        return x @ self.w[name + ".weight"].T

    def norm(self, x: Array, name: str) -> Array:
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.c["rms_norm_eps"]) * self.w[name + ".weight"]

    def gated(self, at: str, x: Array) -> Array:
        inner = silu(self.linear(x, at + "gate_proj")) * self.linear(x, at + "up_proj")
        return self.linear(inner, at + "down_proj")

    def rotated(self, heads: Array) -> Array:
        """The first rotary_dim dimensions of [tokens, heads, head_dim]."""
        half = self.c["rotary_dim"] // 2
        angles = np.arange(len(heads))[:, None] * self.c["rope_theta"] ** (-np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b, rest = np.split(heads, [half, 2 * half], axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def attention(self, at: str, x: Array, block_length: int) -> Array:
        heads, kv_heads, dim = (self.c[n] for n in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        qkv = self.linear(x, at + "query_key_value").reshape(len(x), heads + 2 * kv_heads, dim)
        q, k, v = np.split(qkv, [heads, heads + kv_heads], axis=1)
        q = self.rotated(self.norm(q, at + "query_layernorm"))
        k = self.rotated(self.norm(k, at + "key_layernorm"))
        k, v = (np.repeat(one, heads // kv_heads, axis=1) for one in (k, v))
        block = np.arange(len(x)) // block_length
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim)
        scores = np.where(block[None, None, :] <= block[None, :, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return self.linear(np.einsum("hqk,khd->qhd", weights, v).reshape(len(x), heads * dim), at + "dense")

    def mixture(self, at: str, x: Array, block_length: int) -> Array:
        scores = 1 / (1 + np.exp(-self.linear(x, at + "gate")))
        choice = scores + self.w[at + "gate.expert_bias"]
        if self.c.get("expert_capacity"):
            allowed = self.allowed_in_blocks(choice, block_length)
        else:
            allowed = np.stack([self.allowed_in_groups(row) for row in choice])
        choice = np.where(allowed, choice, -np.inf)
        out = self.gated(at + "shared_experts.", x)
        for t in range(len(x)):
            chosen = best(choice[t], self.c["num_experts_per_tok"])
            factor = self.c["routed_scaling_factor"] / scores[t, chosen].sum()
            for e in chosen:
                out[t] += factor * scores[t, e] * self.gated(f"{at}experts.{e}.", x[t])
        return out

    def allowed_in_groups(self, choice: Array) -> npt.NDArray[np.bool_]:
        groups = choice.reshape(self.c["n_group"], -1)
        kept = best(np.sort(groups, axis=1)[:, -2:].sum(axis=1), self.c["topk_group"])
        return np.repeat(np.isin(np.arange(len(groups)), kept), groups.shape[1])

    def allowed_in_blocks(self, choice: Array, block_length: int) -> npt.NDArray[np.bool_]:
        allowed = np.zeros(choice.shape, dtype=bool)
        for begin in range(0, len(choice), block_length):
            rows = slice(begin, begin + block_length)
            allowed[rows, best(choice[rows].max(axis=0), self.c["expert_capacity"])] = True
        return allowed
