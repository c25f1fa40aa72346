"""The peer that runs LLaDA and Dream in plain torch, with a K/V cache of whole canvases. Protocol: answering.py.

What a careful author of a torch server would write: fused attention, no autograd, output head only on the rows that are
still masked. It chooses no tokens: the canvases come from outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from answering import answer, clocked
from safetensors.torch import load_file
from torch.nn import functional

LLADA = {
    "embed": "model.transformer.wte",
    "norm": "model.transformer.ln_f",
    "head": "model.transformer.ff_out",
    "layer": "model.transformer.blocks.{}.",
    "attention_norm": "attn_norm",
    "feed_forward_norm": "ff_norm",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
DREAM = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layer": "model.layers.{}.",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Sizes:
    layers: int
    heads: int
    kv_heads: int
    epsilon: float
    rope_theta: float


def sizes_of(config: dict[str, object]) -> Sizes:
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    if config["architectures"] == ["LLaDAModelLM"]:
        names = ("n_layers", "n_heads", "n_kv_heads")
    return Sizes(*(config[name] for name in (*names, "rms_norm_eps", "rope_theta")))


class Model:
    """Weights, rotary tables and the K/V of one canvas of `tokens` positions."""

    def __init__(self, folder: Path, dtype: torch.dtype, tokens: int) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.names = LLADA if config["architectures"] == ["LLaDAModelLM"] else DREAM
        self.sizes = sizes_of(config)
        self.weights = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors").items()}
        hidden = self.weights[f"{self.names['embed']}.weight"].shape[1]
        self.head_dim = hidden // self.sizes.heads
        frequencies = self.sizes.rope_theta ** -(torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim)
        angles = torch.outer(torch.arange(tokens, dtype=torch.float64), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)
        shape = (self.sizes.layers, 2, 1, self.sizes.kv_heads, tokens, self.head_dim)
        self.cache = torch.zeros(shape, dtype=dtype)

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.sizes.epsilon)

    def heads(self, x: torch.Tensor, name: str, begin: int) -> torch.Tensor:
        """[1, heads, rows, head_dim]; q and k rotated to their positions, `begin` and the following ones."""
        y = self.linear(x, name).view(1, x.shape[0], -1, self.head_dim).transpose(1, 2)
        if name.endswith("v_proj"):
            return y
        end = begin + x.shape[0]
        first, second = y.chunk(2, dim=-1)
        return y * self.cos[begin:end] + torch.cat((-second, first), dim=-1) * self.sin[begin:end]

    def attention(self, x: torch.Tensor, layer: int, begin: int, total: int) -> torch.Tensor:
        """Of rows `begin`... over positions 0 to `total`; their K/V replace what the cache held."""
        at, end = self.names["layer"].format(layer), begin + x.shape[0]
        q, k, v = (self.heads(x, at + self.names[name], begin) for name in "qkv")
        self.cache[layer, 0, :, :, begin:end], self.cache[layer, 1, :, :, begin:end] = k, v
        groups = self.sizes.heads // self.sizes.kv_heads
        cached = self.cache[layer, :, :, :, :total]
        keys, values = cached if groups == 1 else cached.repeat_interleave(groups, dim=2)
        attended = functional.scaled_dot_product_attention(q, keys, values)
        return self.linear(attended.transpose(1, 2).reshape(x.shape[0], -1), at + self.names["o"])

    def forward(self, tokens: torch.Tensor, rows: torch.Tensor, begin: int = 0) -> torch.Tensor:
        """Logits of the positions `rows`; positions before `begin` come from the cache."""
        x = functional.embedding(tokens[begin:], self.weights[f"{self.names['embed']}.weight"])
        for layer in range(self.sizes.layers):
            at = self.names["layer"].format(layer)
            x = x + self.attention(self.norm(x, at + self.names["attention_norm"]), layer, begin, tokens.shape[0])
            y = self.norm(x, at + self.names["feed_forward_norm"])
            gated = functional.silu(self.linear(y, at + self.names["gate"])) * self.linear(y, at + self.names["up"])
            x = x + self.linear(gated, at + self.names["down"])
        return self.linear(self.norm(x[rows - begin], self.names["norm"]), self.names["head"])


class Peer:
    """One loaded model. `canvases`, `rows`: one entry a forward; the first feeds everything, the others `begin`... ."""

    def load(self, path: str, dtype: str, threads: int, tokens: int) -> dict[str, object]:
        torch.set_num_threads(threads)
        self.model = Model(Path(path), getattr(torch, dtype), tokens)
        return {"version": f"torch {torch.__version__}", "system": torch.backends.cpu.get_cpu_capability()}

    def logits(self, tokens: list[int], path: str) -> dict[str, object]:
        """Of every position."""
        every = torch.arange(len(tokens))
        np.save(path, self.model.forward(torch.tensor(tokens), every).float().numpy())
        return {}

    def forwards(self, canvases: list[list[int]], rows: list[list[int]], begin: int) -> list[torch.Tensor]:
        begins = [0] + [begin] * (len(canvases) - 1)
        steps = zip(canvases, rows, begins, strict=True)
        return [self.model.forward(torch.tensor(c), torch.tensor(r), b) for c, r, b in steps]

    def best(self, canvases: list[list[int]], rows: list[list[int]], begin: int, mask: int) -> dict[str, object]:
        """The likeliest token of each of the `rows` of every forward. Never the mask, as in pydllm."""
        found = []
        for logits in self.forwards(canvases, rows, begin):
            logits[:, mask] = -torch.inf
            found.append(logits.argmax(-1).tolist())
        return {"tokens": found}

    def time(self, canvases: list[list[int]], rows: list[list[int]], begin: int) -> dict[str, float]:
        return clocked(lambda: self.forwards(canvases, rows, begin))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    peer = Peer()
    answer({"load": peer.load, "logits": peer.logits, "best": peer.best, "time": peer.time})
