"""The network in the LLaDA layout (names as in its checkpoints), written for training on a CPU or one GPU.

Attention is a plain matrix product and softmax: at these sizes that is about three times as fast on a CPU, forward and
backward, as the fused kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes, under the names of LLaDA's config.json."""

    vocab_size: int
    d_model: int = 192
    n_layers: int = 4
    n_heads: int = 6
    mlp_hidden_size: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_sequence_length: int = 256
    qk_norm: bool = False
    """RMSNorm of every query and key head before rotation, as in SDAR (Qwen3's layout); LLaDA has none."""

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.d_model // self.n_heads


class _Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, hidden = shape.d_model, shape.mlp_hidden_size
        self.heads = shape.n_heads
        self.attn_norm, self.ff_norm = (_Norm(width, shape.rms_norm_eps) for _ in range(2))
        self.q_norm, self.k_norm = (
            _Norm(shape.head_dim, shape.rms_norm_eps) if shape.qk_norm else nn.Identity() for _ in range(2)
        )
        self.q_proj, self.k_proj, self.v_proj = (_linear(width, width) for _ in range(3))
        self.attn_out = _linear(width, width)
        self.ff_proj, self.up_proj, self.ff_out = _linear(width, hidden), _linear(width, hidden), _linear(hidden, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None) -> Tensor:
        x = x + self._attention(self.attn_norm(x), cos, sin, visible)
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))

    def _attention(self, h: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None) -> Tensor:
        rows, length, width = h.shape
        split = (rows, length, self.heads, width // self.heads)
        q, k, v = (proj(h).view(split).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = _rotated(self.q_norm(q), cos, sin), _rotated(self.k_norm(k), cos, sin)
        scores = (q @ k.transpose(-1, -2)) * split[-1] ** -0.5
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        return self.attn_out((scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width))


class Network(nn.Module):
    """ids [rows, length] -> logits of the selected positions [selected, vocab]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner = nn.Module()
        inner.wte = nn.Embedding(shape.vocab_size, shape.d_model)
        inner.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.n_layers))
        inner.ln_f = _Norm(shape.d_model, shape.rms_norm_eps)
        inner.ff_out = _linear(shape.d_model, shape.vocab_size)
        self.model = nn.Module()
        self.model.transformer = inner
        frequencies = 1 / shape.rope_theta ** (torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.outer(torch.arange(shape.max_sequence_length).float(), frequencies)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim != 2:
                continue
            deviation = 1 / math.sqrt(weight.shape[1])
            if name.endswith(("transformer.wte.weight", "transformer.ff_out.weight")):
                deviation = 0.02
            elif name.endswith(("attn_out.weight", "ff_out.weight")):
                deviation /= math.sqrt(2 * self.shape.n_layers)
            nn.init.normal_(weight, 0, deviation)

    def forward(self, ids: Tensor, visible: Tensor | None = None, selected: Tensor | None = None) -> Tensor:
        """`visible` broadcasts to [rows, heads, length, length]; `selected` is a mask over [rows, length]."""
        inner = self.model.transformer
        x = inner.wte(ids)
        cos, sin = self.cos[: ids.shape[1]].to(x.dtype), self.sin[: ids.shape[1]].to(x.dtype)
        for block in inner.blocks:
            x = block(x, cos, sin, visible)
        if selected is not None:
            x = x[selected]
        return inner.ff_out(inner.ln_f(x))
