"""The block-causal sibling: starts from the trained full-attention model, in the layout of SDAR (Qwen3's names).

SDAR normalises queries and keys per head, LLaDA does not: each new norm starts with the root mean square that its
input has in the trained model, so that attention begins about as sharp as it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from network import Network, Shape

if TYPE_CHECKING:
    from pathlib import Path

    from batches import Batch
    from torch import Tensor

_TOP = {
    "model.transformer.wte": "model.embed_tokens",
    "model.transformer.ln_f": "model.norm",
    "model.transformer.ff_out": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
"""LLaDA's name of a module -> Qwen3's."""


def sdar_name(name: str) -> str:
    """The name of a tensor in an SDAR checkpoint."""
    module = name.removesuffix(".weight")
    if module in _TOP:
        return _TOP[module] + ".weight"
    index, _, inner = module.removeprefix("model.transformer.blocks.").partition(".")
    return f"model.layers.{index}.{_LAYER[inner]}.weight"


def starting_point(parent: Path, batch: Batch) -> tuple[Shape, dict[str, Tensor]]:
    """Shape and weights to continue from: those of `parent` (an --out of train.py) and norms measured on `batch`."""
    saved: dict[str, Any] = torch.load(parent / "average.pt", weights_only=True)
    shape = Shape(**saved["shape"])
    network = Network(shape)
    network.load_state_dict(saved["weights"], strict=False)
    norms = _measured(network, batch)
    return replace(shape, qk_norm=True), {**saved["weights"], **norms}


@torch.inference_mode()
def _measured(network: Network, batch: Batch) -> dict[str, Tensor]:
    norms: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            norms[name] = output[batch.inside].square().mean().sqrt().expand(network.shape.head_dim).clone()

        return hook

    for index, block in enumerate(network.model.transformer.blocks):
        for part in ("q", "k"):
            projection = getattr(block, f"{part}_proj")
            projection.register_forward_hook(record(f"model.transformer.blocks.{index}.{part}_norm.weight"))
    network(batch.ids, batch.visible)
    return norms
