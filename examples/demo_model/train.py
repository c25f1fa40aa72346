"""Trains the demo model: python examples/demo_model/train.py --out build/demo_model

About an hour on two CPU cores, minutes on a GPU. Deterministic for a number of processes and a device: the schedule
counts steps, not seconds. State is saved every --save-every steps; the same command continues from it, and a signal
loses at most that much. Then: export.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from batches import Batch, Source
from judge import judge
from network import Network, Shape
from optimizer import Optimizer, sum_over_processes
from vocabulary import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Visible = Callable[[Batch], Tensor]

WARM_UP_STEPS = 60
HOLD = 0.1
"""Share of the steps before the learning rate begins to fall."""


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rates: warm-up, hold, cosine to 0."""
    falling = max(0.0, (step / steps - HOLD) / (1 - HOLD))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * falling))


def loss_of(network: Network, batch: Batch, visible: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy over the masked positions."""
    learned = batch.weights > 0
    logits = network(batch.ids, visible, learned).float()
    each = F.cross_entropy(logits, batch.targets[learned], reduction="none")
    weights = batch.weights[learned]
    return (each * weights).sum() / weights.sum()


class Trainer:
    """One process of a training run."""

    def __init__(self, arguments: argparse.Namespace, rank: int) -> None:
        torch.manual_seed(arguments.seed)
        self._arguments, self._rank = arguments, rank
        self._device = arguments.device
        self.tokenizer = build()
        shape = Shape(vocab_size=self.tokenizer.get_vocab_size())
        self.network = Network(shape).to(self._device)
        self.optimizer = Optimizer(self.network, rank=rank, processes=arguments.processes)
        self.network.bfloat16()
        self._source = Source(self.tokenizer, tokens=arguments.tokens, seed=arguments.seed * 1000 + rank)
        self._batches = iter(self._source)
        self.step = 0
        self.rows = 0

    def restore(self) -> None:
        """Continues from the saved state, if there is one."""
        path = self._state_path()
        if not path.exists():
            return
        saved = torch.load(path, weights_only=False)  # our own file
        self.optimizer.restore(saved["optimizer"])
        self._source.restore(saved["source"])
        self.step, self.rows = saved["step"], saved["rows"]

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Starts from given weights instead of random ones."""
        for name, value in weights.items():
            self.optimizer.masters[name].copy_(value)
            self.optimizer.average[name].copy_(value)

    def save(self) -> None:
        """Writes the state, and the averaged weights for export.py; complete or not at all."""
        state = {
            "optimizer": self.optimizer.state(),
            "source": self._source.state(),
            "step": self.step,
            "rows": self.rows,
        }
        _replace(self._state_path(), state)
        if self._rank == 0:
            shape = asdict(self.network.shape)
            _replace(self._arguments.out / "average.pt", {"shape": shape, "weights": self.optimizer.average})

    def one_step(self, visible: Visible) -> float:
        """One update; the loss."""
        weights = dict(self.network.named_parameters())
        for name, weight in weights.items():
            weight.data.copy_(self.optimizer.masters[name])
            weight.grad = None
        batch = next(self._batches).to(self._device)
        loss = loss_of(self.network, batch, visible(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: w.grad.float() / self._arguments.processes for name, w in weights.items() if w.grad is not None
        }
        sum_over_processes(gradients)
        self.optimizer.step(gradients, number=self.step, scale=schedule(self.step, self._arguments.steps))
        self.step += 1
        self.rows += len(batch.ids)
        return float(loss.detach())

    def averaged(self) -> Network:
        """The network with the averaged weights."""
        network = Network(self.network.shape).to(self._device)
        network.load_state_dict(self.optimizer.average, strict=False)
        return network.bfloat16().eval()

    def _state_path(self) -> Path:
        return Path(self._arguments.out / f"state-{self._rank}.pt")


def _replace(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def _run(rank: int, arguments: argparse.Namespace, meeting: str) -> None:
    torch.set_num_threads(1)
    if arguments.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=arguments.processes)
    trainer = Trainer(arguments, rank)
    trainer.restore()
    began, first, losses = time.monotonic(), trainer.step, []
    while trainer.step < arguments.steps:
        losses.append(trainer.one_step(lambda batch: batch.visible))
        last = trainer.step == arguments.steps
        if rank == 0 and (trainer.step % 50 == 0 or last):
            _report(trainer, losses[-50:], (time.monotonic() - began) / (trainer.step - first))
        if trainer.step % arguments.save_every == 0 or last:
            trainer.save()
        if rank == 0 and (trainer.step % arguments.judge_every == 0 or last):
            accuracy = judge(trainer.averaged(), trainer.tokenizer, count=40, device=arguments.device)
            print(json.dumps({"step": trainer.step, **accuracy}), flush=True)
    if arguments.processes > 1:
        dist.destroy_process_group()


def _report(trainer: Trainer, losses: list[float], seconds: float) -> None:
    mean = sum(losses) / len(losses)
    print(
        f"step {trainer.step}: loss {mean:.4f}, {trainer.rows} rows per process, {seconds:.3f} s per step", flush=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--out", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--tokens", type=int, default=5000 if cuda else 2500, help="of a batch, per process")
    parser.add_argument("--processes", type=int, default=1 if cuda else 2, help="one thread each; 1 on a GPU")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--judge-every", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        if arguments.processes == 1:
            _run(0, arguments, meeting)
        else:
            torch.multiprocessing.spawn(_run, (arguments, meeting), nprocs=arguments.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
