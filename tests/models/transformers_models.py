"""Random models of the transformers library in float64, written as checkpoints of our families.

The library's classes are causal; an explicit 4-D mask makes them bidirectional or block-causal.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file


def random_model(model_class: Any, config: Any, *, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that every layer matters, exact in bfloat16 so that every storage type holds them."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"  # the others know no float64
    model = model_class(config).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm = "norm" in name
            scale = 0.2 if weight.ndim == 1 else 1.5 / weight.shape[-1] ** 0.5
            values = torch.randn(weight.shape) * scale + (1.0 if norm else 0.0)
            weight.copy_(values.bfloat16().double())
    return model


def published_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """With the names of published checkpoints: the library stacks experts and repeats a tied head."""
    out = {}
    for name, value in model.state_dict().items():
        at, _, last = name.rpartition(".experts.")
        if last == "gate_up_proj":
            for e, (gate, up) in enumerate(expert.chunk(2) for expert in value):
                out[f"{at}.experts.{e}.gate_proj.weight"], out[f"{at}.experts.{e}.up_proj.weight"] = gate, up
        elif last == "down_proj":
            out |= {f"{at}.experts.{e}.down_proj.weight": expert for e, expert in enumerate(value)}
        elif not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            out[name] = value
    return out


def write_checkpoint(directory: Path, model: torch.nn.Module, fields: dict[str, Any], *, shards: int = 1) -> None:
    """config.json and the weights in float32, tensor i in shard i modulo `shards`."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(fields))
    tensors = sorted(published_tensors(model).items())
    for shard in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: value.float().contiguous() for key, value in tensors[shard::shards]}
        save_file(part, directory / name)


def visible(length: int, block_length: int) -> torch.Tensor:
    """[length, length]: the query in row i sees the key in column j."""
    if block_length == 0:
        return torch.ones(length, length, dtype=torch.bool)
    block = torch.arange(length) // block_length
    return block[None, :] <= block[:, None]


@torch.no_grad()
def logits_of(model: torch.nn.Module, tokens: list[int], *, block_length: int = 0) -> np.ndarray:
    """[tokens, vocabulary] in float64."""
    mask = torch.zeros(len(tokens), len(tokens), dtype=torch.float64)
    mask.masked_fill_(~visible(len(tokens), block_length), torch.finfo(torch.float64).min)
    out = model(input_ids=torch.tensor([tokens]), attention_mask=mask[None, None], use_cache=False)
    return np.asarray(out.logits[0].numpy())
