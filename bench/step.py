"""Milliseconds of one forward pass of the whole engine beside a plain torch forward of the same model, in one run.

A LLaDA layout of 134 M parameters with random weights, 256 prompt and 64 generated positions, a fixed schedule, one
request. The two take turns; the ratio is the median of the turns' ratios. pydllm's time is everything between two
forwards (scheduling, attention over pages, row statistics, decoding, events); torch's is the forward alone, with its
output head on as many rows as pydllm's schedule needs on average. Usage: python bench/step.py [--output bench/results]
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from pydllm import LLM, DiffusionParams, SamplingParams

ROOT = Path(__file__).resolve().parents[1]
HIDDEN, LAYERS, HEADS, FEED_FORWARD, VOCAB = 768, 12, 12, 2048, 32000
PROMPT, GENERATED, BLOCK, STEPS = 256, 64, 32, 12
# Masks left before each of the 6 steps of a block, averaged: the rows pydllm's output head runs for.
HEAD_ROWS = round(statistics.mean([32, 26, 20, 15, 10, 5]))
PREFIX = "model.transformer."
Weights = dict[str, torch.Tensor]


def random_weights() -> Weights:
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.02).to(torch.bfloat16)

    weights = {f"{PREFIX}wte.weight": matrix(VOCAB, HIDDEN), f"{PREFIX}ff_out.weight": matrix(VOCAB, HIDDEN)}
    weights[f"{PREFIX}ln_f.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    for layer in range(LAYERS):
        at = f"{PREFIX}blocks.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            weights[f"{at}{name}.weight"] = matrix(HIDDEN, HIDDEN)
        for name in ("ff_proj", "up_proj"):
            weights[f"{at}{name}.weight"] = matrix(FEED_FORWARD, HIDDEN)
        weights[f"{at}ff_out.weight"] = matrix(HIDDEN, FEED_FORWARD)
        for name in ("attn_norm", "ff_norm"):
            weights[f"{at}{name}.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    return weights


def write_checkpoint(folder: Path, weights: Weights) -> None:
    """The demo model's directory with other sizes and weights."""
    demo = ROOT / "pydllm/demo_model"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copy(demo / name, folder)
    config = json.loads((demo / "config.json").read_text())
    config |= {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": HEADS}
    config |= {"mlp_hidden_size": FEED_FORWARD, "vocab_size": VOCAB, "embedding_size": VOCAB}
    (folder / "config.json").write_text(json.dumps(config | {"max_sequence_length": 1024}))
    save_file(weights, folder / "model.safetensors")


def torch_forward(weights: Weights, ids: torch.Tensor) -> torch.Tensor:
    """Every layer over all positions, the output head on HEAD_ROWS of them. No rotary embedding: a gift to torch."""
    dtype = weights[f"{PREFIX}wte.weight"].dtype

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, (HIDDEN,), weights[name], 1e-5)

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, weights[name]).view(1, -1, HEADS, HIDDEN // HEADS).transpose(1, 2)

    x = weights[f"{PREFIX}wte.weight"][ids].to(dtype)
    for layer in range(LAYERS):
        at = f"{PREFIX}blocks.{layer}."
        y = norm(x, f"{at}attn_norm.weight")
        q, k, v = (heads(y, f"{at}{name}.weight") for name in ("q_proj", "k_proj", "v_proj"))
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, HIDDEN)
        x = x + functional.linear(attended, weights[f"{at}attn_out.weight"])
        y = norm(x, f"{at}ff_norm.weight")
        gate = functional.silu(functional.linear(y, weights[f"{at}ff_proj.weight"]))
        up = functional.linear(y, weights[f"{at}up_proj.weight"])
        x = x + functional.linear(gate * up, weights[f"{at}ff_out.weight"])
    return functional.linear(norm(x[-HEAD_ROWS:], f"{PREFIX}ln_f.weight"), weights[f"{PREFIX}ff_out.weight"])


def our_milliseconds(llm: LLM) -> float:
    sampling = SamplingParams(max_tokens=GENERATED, ignore_eos=True)
    diffusion = DiffusionParams(algorithm="llada_schedule", block_length=BLOCK, extra={"steps": STEPS})
    start = time.perf_counter()
    [output] = llm.generate(list(range(10, 10 + PROMPT)), sampling=sampling, diffusion=diffusion, progress=False)
    seconds = time.perf_counter() - start
    assert output.stats.forward_passes == STEPS
    return seconds / STEPS * 1e3


def torch_milliseconds(weights: Weights, ids: torch.Tensor) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        torch_forward(weights, ids)
    return (time.perf_counter() - start) / STEPS * 1e3


def measure(folder: Path, weights: Weights, dtype: str, threads: int, rounds: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    ids = torch.arange(PROMPT + GENERATED)
    ours, theirs = [], []
    with LLM(folder, dtype=dtype, threads=threads) as llm, torch.inference_mode():
        for _ in range(rounds + 1):
            ours.append(our_milliseconds(llm))
            theirs.append(torch_milliseconds(cast, ids))
    ours, theirs = ours[1:], theirs[1:]  # the first turn warms up
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return {
        "dtype": dtype,
        "threads": threads,
        "pydllm_ms": round(statistics.median(ours), 1),
        "torch_ms": round(statistics.median(theirs), 1),
        "torch_over_pydllm": round(ratio, 2),
    }


def table(rows: list[dict[str, object]]) -> str:
    head = ["dtype", "threads", "pydllm ms", "torch ms", "torch / pydllm"]
    lines = [head, ["---"] * len(head), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, help="writes step-<date>.json and .md here")
    parser.add_argument("--date", default=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    arguments = parser.parse_args()
    weights = random_weights()
    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(Path(name), weights)
        rows = [
            measure(Path(name), weights, dtype, threads, arguments.rounds)
            for dtype in ("float32", "bfloat16")
            for threads in arguments.threads
        ]
    print(table(rows))
    if arguments.output:
        note = (
            f"# One forward pass of 320 positions, 134 M parameters\n\n* command: python bench/step.py\n"
            f"* date: {arguments.date}\n* cpu: {cpu()}\n* versions: torch {torch.__version__}\n"
            f"* rounds: {arguments.rounds} turns each, medians\n\n{table(rows)}\n"
        )
        (arguments.output / f"step-{arguments.date}.md").write_text(note)
        (arguments.output / f"step-{arguments.date}.json").write_text(json.dumps(rows, indent=1) + "\n")


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
