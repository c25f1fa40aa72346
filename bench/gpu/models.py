"""Random models in the shapes of published ones, made on the device, under the names of their checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gpu.clock import Ceilings

LLADA = {
    "embed": "model.transformer.wte.weight",
    "norm": "model.transformer.ln_f.weight",
    "head": "model.transformer.ff_out.weight",
    "layer": "model.transformer.blocks.{}.",
    "attention_norm": "attn_norm.weight",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out.weight",
    "feed_forward_norm": "ff_norm.weight",
    "gate": "ff_proj.weight",
    "up": "up_proj.weight",
    "down": "ff_out.weight",
}
DREAM = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layer": "model.layers.{}.",
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj.weight",
    "feed_forward_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and which family's layout it has."""

    name: str
    names: dict[str, str]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    epsilon: float
    theta: float

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def is_dream(self) -> bool:
        """Biases on q, k and v; row i - 1 is about position i."""
        return self.names is DREAM

    def core_config(self, *, layers: int, dtype: str, positions: int) -> dict[str, Any]:
        """The fields of core/models/config.h."""
        return {
            "architecture": "DreamModel" if self.is_dream else "LLaDAModelLM",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_layers": layers,
            "num_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.feed_forward,
            "max_positions": positions,
            "rope_theta": self.theta,
            "rms_norm_eps": self.epsilon,
            "tie_word_embeddings": False,
            "attention_bias": self.is_dream,
            "linear_bias": False,
            "logit_shift": self.is_dream,
            "qk_norm": False,
            "rotary_dim": 0,
            "block_length": 0,
            "moe": {},
            "dtype": dtype,
        }

    def floor(self, ceilings: Ceilings, *, batch: int, rows: int, context: int, head_rows: int) -> float:
        """Seconds of a forward of `rows` positions a request that attend to `context`, in bfloat16: for each product
        and for attention the larger of its bytes over bandwidth and its operations over the rate, added up. Weights and
        K/V of the context are read once, activations are free."""
        tokens, q, k = batch * rows, self.hidden, self.kv_heads * self.head_dim
        products = [(q, q + 2 * k), (q, q), (q, 2 * self.feed_forward), (self.feed_forward, q)]
        seconds = sum(ceilings.floor(2.0 * n * m, 2.0 * tokens * n * m) for n, m in products)
        moved = 2.0 * 2 * k * batch * context
        seconds += ceilings.floor(moved, 4.0 * tokens * context * q)
        head = float(self.hidden) * self.vocabulary
        return seconds * self.layers + ceilings.floor(2 * head, 2 * batch * head_rows * head)


SHAPES = {
    "llada-8b": Shape("LLaDA-8B", LLADA, 4096, 32, 32, 32, 12288, 126464, 1e-5, 500000.0),
    "dream-7b": Shape("Dream-7B", DREAM, 3584, 28, 28, 4, 18944, 152064, 1e-6, 1000000.0),
}
TINY_SHAPES = {
    "llada-8b": Shape("tiny LLaDA", LLADA, 64, 2, 4, 4, 96, 320, 1e-5, 500000.0),
    "dream-7b": Shape("tiny Dream", DREAM, 64, 2, 4, 2, 112, 352, 1e-6, 1000000.0),
}


@dataclass
class LayerWeights:
    """q | k | v and gate | up are one matrix each: a checkpoint's parts are rows of them."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    o: torch.Tensor
    feed_forward_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class RandomModel:
    """The weights, large enough that every layer matters in the logits."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
        self.shape = shape
        self._place: dict[str, Any] = {"device": device, "dtype": dtype}
        torch.manual_seed(0)
        self.embed = self._matrix(shape.vocabulary, shape.hidden)
        self.layers = [self._layer() for _ in range(shape.layers)]
        self.norm = self._norm()
        self.head = self._matrix(shape.vocabulary, shape.hidden)

    def _matrix(self, outputs: int, inputs: int) -> torch.Tensor:
        return torch.empty(outputs, inputs, **self._place).normal_(0, inputs**-0.5)

    def _norm(self) -> torch.Tensor:
        return torch.empty(self.shape.hidden, **self._place).normal_(1, 0.1)

    def _layer(self) -> LayerWeights:
        shape = self.shape
        widths = shape.hidden + 2 * shape.kv_heads * shape.head_dim
        return LayerWeights(
            attention_norm=self._norm(),
            qkv=self._matrix(widths, shape.hidden),
            qkv_bias=torch.empty(widths, **self._place).normal_(0, 0.2) if shape.is_dream else None,
            o=self._matrix(shape.hidden, shape.hidden),
            feed_forward_norm=self._norm(),
            gate_up=self._matrix(2 * shape.feed_forward, shape.hidden),
            down=self._matrix(shape.hidden, shape.feed_forward),
        )

    def tensors(self, layers: int) -> dict[str, torch.Tensor]:
        """What a checkpoint of the first `layers` layers would hold."""
        names = self.shape.names
        found = {names["embed"]: self.embed, names["norm"]: self.norm, names["head"]: self.head}
        for index, layer in enumerate(self.layers[:layers]):
            at = names["layer"].format(index)
            for part in ("attention_norm", "o", "feed_forward_norm", "down"):
                found[at + names[part]] = getattr(layer, part)
            for part, weight in zip(("gate", "up"), layer.gate_up.chunk(2), strict=True):
                found[at + names[part]] = weight
            kv = self.shape.kv_heads * self.shape.head_dim
            for part, weight in zip("qkv", layer.qkv.split([self.shape.hidden, kv, kv]), strict=True):
                found[f"{at}{names[part]}.weight"] = weight
            if layer.qkv_bias is not None:
                for part, bias in zip("qkv", layer.qkv_bias.split([self.shape.hidden, kv, kv]), strict=True):
                    found[f"{at}{names[part]}.bias"] = bias
        return found
