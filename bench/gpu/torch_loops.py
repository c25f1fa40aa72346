"""What pydllm is compared with: two loops over the same weights in torch.

R0, eager: modules as Hugging Face's models have them (norms in float32, q, k and v apart, heads of a group repeated),
the logits of every position, the choice as in LLaDA's generate.py (softmax in float64). It has no cache.
R1, strong: merged weights, fused norm and attention, rotary tables at hand, the output head on the rows that can be
written, a one-pass choice, K/V of the other positions kept, the whole step in one CUDA graph (without a GPU: no graph).
Both write the most confident masked position of every request in a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu.models import LayerWeights, RandomModel


def rotary(model: RandomModel, positions: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, [positions, head_dim]."""
    dim = model.shape.head_dim
    frequencies = model.shape.theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies).repeat(1, 2)
    return angles.cos().to(model.embed.device, dtype), angles.sin().to(model.embed.device, dtype)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Canvases:
    """Tokens of a batch [B, positions], whose last `block` positions are masked."""

    def __init__(self, model: RandomModel, batch: int, positions: int, block: int) -> None:
        where = model.embed.device
        generator = torch.Generator().manual_seed(batch)
        self.block = block
        # Rows of logits that are about the block: those before it where the model shifts them.
        self.first_row = positions - block - (1 if model.shape.is_dream else 0)
        self.given = torch.randint(model.shape.vocabulary, (batch, positions), generator=generator).to(where)
        self.tokens = self.given.clone()
        self.masked = torch.ones(batch, block, dtype=torch.bool, device=where)

    def restart(self) -> None:
        self.tokens.copy_(self.given)
        self.masked.fill_(True)

    def write(self, best: torch.Tensor, confidence: torch.Tensor) -> None:
        """The most confident masked position of each request; [B, block] both."""
        at = confidence.masked_fill(~self.masked, -1).argmax(dim=1, keepdim=True)
        self.tokens[:, -self.block :].scatter_(1, at, best.gather(1, at))
        self.masked.scatter_(1, at, value=False)


class Eager:
    """R0."""

    def __init__(self, model: RandomModel, canvases: Canvases) -> None:
        self.model, self.canvases = model, canvases
        self.cos, self.sin = rotary(model, canvases.tokens.shape[1], model.embed.dtype)

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.model.shape.epsilon)).to(x.dtype)

    def attention(self, x: torch.Tensor, layer: LayerWeights) -> torch.Tensor:
        shape = self.model.shape
        kv = shape.kv_heads * shape.head_dim
        widths = [shape.hidden, kv, kv]
        biases = [None] * 3 if layer.qkv_bias is None else layer.qkv_bias.split(widths)
        q, k, v = (
            functional.linear(x, weight, bias).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
            for weight, bias in zip(layer.qkv.split(widths), biases, strict=True)
        )
        q, k = rotated(q, self.cos, self.sin), rotated(k, self.cos, self.sin)
        group = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        attended = functional.scaled_dot_product_attention(q, k, v)
        return functional.linear(attended.transpose(1, 2).flatten(2), layer.o)

    def logits(self) -> torch.Tensor:
        x = functional.embedding(self.canvases.tokens, self.model.embed)
        for layer in self.model.layers:
            x = x + self.attention(self.norm(x, layer.attention_norm), layer)
            y = self.norm(x, layer.feed_forward_norm)
            gate, up = (functional.linear(y, part) for part in layer.gate_up.chunk(2))
            x = x + functional.linear(functional.silu(gate) * up, layer.down)
        return functional.linear(self.norm(x, self.model.norm), self.model.head)

    def step(self) -> None:
        logits = self.logits()
        best = logits.argmax(-1)
        confidence = functional.softmax(logits.double(), dim=-1).gather(-1, best[..., None])[..., 0]
        rows = slice(self.canvases.first_row, self.canvases.first_row + self.canvases.block)
        self.canvases.write(best[:, rows], confidence[:, rows])


class Strong:
    """R1. `cached`: a step feeds the block (with shifted logits also the position before it), else everything."""

    def __init__(self, model: RandomModel, canvases: Canvases, *, cached: bool) -> None:
        self.model, self.canvases = model, canvases
        batch, positions = canvases.tokens.shape
        self.begin = canvases.first_row if cached else 0
        shape, like = model.shape, {"device": model.embed.device, "dtype": model.embed.dtype}
        self.kv = torch.zeros(shape.layers, 2, batch, shape.kv_heads, positions, shape.head_dim, **like)
        self.cos, self.sin = rotary(model, positions, model.embed.dtype)
        self.graph: torch.cuda.CUDAGraph | None = None

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self.model.shape.epsilon)

    def attention(self, x: torch.Tensor, index: int, begin: int) -> torch.Tensor:
        shape, layer = self.model.shape, self.model.layers[index]
        heads = functional.linear(x, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
        q, k, v = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        cos, sin = self.cos[begin:], self.sin[begin:]
        keys, values = self.kv[index]
        keys[:, :, begin:], values[:, :, begin:] = rotated(k, cos, sin), v
        grouped = shape.heads != shape.kv_heads
        attended = functional.scaled_dot_product_attention(rotated(q, cos, sin), keys, values, enable_gqa=grouped)
        return functional.linear(attended.transpose(1, 2).flatten(2), layer.o)

    def logits(self, begin: int, rows: slice) -> torch.Tensor:
        """Of some rows, counted from `begin`, of a forward of the positions from `begin` on."""
        x = functional.embedding(self.canvases.tokens[:, begin:], self.model.embed)
        for index, layer in enumerate(self.model.layers):
            x = x + self.attention(self.norm(x, layer.attention_norm), index, begin)
            gate, up = functional.linear(self.norm(x, layer.feed_forward_norm), layer.gate_up).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, layer.down)
        return functional.linear(self.norm(x[:, rows], self.model.norm), self.model.head)

    def _step(self) -> None:
        first = self.canvases.first_row - self.begin
        logits = self.logits(self.begin, slice(first, first + self.canvases.block)).float()
        highest, best = logits.max(dim=-1)
        self.canvases.write(best, (highest - logits.logsumexp(-1)).exp())

    def prepare(self) -> None:
        """Fills the cache and captures the step."""
        self.logits(0, slice(0, 1))
        if self.model.embed.device.type != "cuda":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()
        self.canvases.restart()

    def step(self) -> None:
        if self.graph is not None:
            self.graph.replay()
        else:
            self._step()


def steps(step: Callable[[], None], canvases: Canvases, count: int) -> list[Callable[[], None]]:
    """Calls for a clock: a canvas begins anew when its block is full."""
    state = {"taken": 0}

    def one() -> None:
        if state["taken"] % canvases.block == 0:
            canvases.restart()
        state["taken"] += 1
        step()

    return [one] * count
