"""LLaDA in float64, with a cache and masks of its own: the network of reference loops."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Cache = list[tuple[Array, Array]]
"""Keys and values [positions, heads, head size] of each layer."""


class Network:
    """LLaDA in float64."""

    def __init__(self, checkpoint: Path) -> None:
        self.c: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
        self.w = {
            name.removeprefix("model.transformer.").removesuffix(".weight"): values.astype(np.float64)
            for name, values in load_file(checkpoint / "model.safetensors").items()
        }

    def forward(self, tokens: list[int], cache: Cache, sees: Mask | None = None) -> tuple[Array, Cache]:
        """Logits of the tokens behind what is cached, and the keys and values of all positions.

        sees [tokens behind what is cached, all tokens]: which keys a query sees; None: all.
        """
        begin = len(cache[0][0]) if cache else 0
        x = self.w["wte"][tokens[begin:]]
        grown: Cache = []
        for layer in range(self.c["n_layers"]):
            at = f"blocks.{layer}."
            normed = self.norm(x, at + "attn_norm")
            q, k, v = (self.heads(normed @ self.w[at + name].T) for name in ("q_proj", "k_proj", "v_proj"))
            q, k = self.rotated(q, begin), self.rotated(k, begin)
            if cache:
                k, v = np.concatenate([cache[layer][0], k]), np.concatenate([cache[layer][1], v])
            grown.append((k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
            if sees is not None:
                scores = np.where(sees, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(x.shape) @ self.w[at + "attn_out"].T
            normed = self.norm(x, at + "ff_norm")
            gate = normed @ self.w[at + "ff_proj"].T
            x = x + (gate / (1 + np.exp(-gate)) * (normed @ self.w[at + "up_proj"].T)) @ self.w[at + "ff_out"].T
        return self.norm(x, "ln_f") @ self.w["ff_out"].T, grown

    def heads(self, x: Array) -> Array:
        return x.reshape(len(x), self.c["n_heads"], -1)

    def norm(self, x: Array, name: str) -> Array:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name]

    def rotated(self, heads: Array, begin: int) -> Array:
        half = heads.shape[-1] // 2
        angles = np.arange(begin, begin + len(heads))[:, None] * self.c["rope_theta"] ** (-np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = np.split(heads, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
