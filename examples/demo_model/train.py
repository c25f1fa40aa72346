"""Trains the demo model, lesson after lesson, or its block-causal sibling from it:

    python examples/demo_model/train.py --out build/demo_model
    python examples/demo_model/train.py --out build/sibling --sibling-of build/demo_model/lesson-3

An hour and a half on two CPU cores, minutes on a GPU. Deterministic for a number of processes and a device: the
schedule counts steps, not seconds. State is saved every --save-every steps; the same command continues from it, and a
signal loses at most that much. Then: export.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from batches import BLOCK_LENGTHS, Batch, BlockSource, Source
from judge import judge
from network import Network, Shape
from optimizer import Optimizer, sum_over_processes
from sibling import starting_point
from tasks import LESSONS, SIBLING_LESSON, Lesson
from vocabulary import build

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP_STEPS = 60
HOLD = 0.1
"""Share of the steps before the learning rate begins to fall."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One lesson of a run, in a folder of its own: the saved state and average.pt."""

    out: Path
    lesson: Lesson
    number: int = 0
    parent: Path | None = None
    """The folder of the stage that this one continues."""
    block_causal: bool = False


def stages(out: Path, sibling_of: Path | None) -> list[Stage]:
    """What a run consists of."""
    if sibling_of is not None:
        return [Stage(out=out, lesson=SIBLING_LESSON, parent=sibling_of, block_causal=True)]
    folders = [out / f"lesson-{number + 1}" for number in range(len(LESSONS))]
    return [
        Stage(out=folder, lesson=lesson, number=number, parent=folders[number - 1] if number else None)
        for number, (folder, lesson) in enumerate(zip(folders, LESSONS, strict=True))
    ]


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rates: warm-up, hold, cosine to 0."""
    falling = max(0.0, (step / steps - HOLD) / (1 - HOLD))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * falling))


def loss_of(network: Network, batch: Batch) -> Tensor:
    """Weighted mean of the cross-entropy over the masked positions."""
    learned = batch.weights > 0
    logits = network(batch.ids, batch.visible, learned).float()
    each = F.cross_entropy(logits, batch.targets[learned], reduction="none")
    weights = batch.weights[learned]
    return (each * weights).sum() / weights.sum()


class Trainer:
    """One process of one stage."""

    def __init__(self, stage: Stage, arguments: argparse.Namespace, rank: int) -> None:
        torch.manual_seed(arguments.seed)
        self._stage, self._arguments, self._rank = stage, arguments, rank
        self._device = arguments.device
        self.tokenizer = build()
        self._source = self._rows(seed=arguments.seed * 1000 + stage.number * 100 + rank)
        self._batches = iter(self._source)
        self.network = self._beginning().to(self._device)
        self.optimizer = Optimizer(self.network, rank=rank, processes=arguments.processes)
        self.network.bfloat16()
        self.step = 0
        self.rows = 0

    def _rows(self, seed: int) -> Source:
        kind = BlockSource if self._stage.block_causal else Source
        return kind(self.tokenizer, tokens=self._arguments.tokens, seed=seed, lesson=self._stage.lesson)

    def _beginning(self) -> Network:
        """The same in every process."""
        parent = self._stage.parent
        if parent is None:
            return Network(Shape(vocab_size=self.tokenizer.get_vocab_size()))
        if self._stage.block_causal:
            shape, weights = starting_point(parent, next(iter(self._rows(self._arguments.seed))))
        else:
            saved = torch.load(parent / "average.pt", weights_only=True)
            shape, weights = Shape(**saved["shape"]), saved["weights"]
        network = Network(shape)
        network.load_state_dict(weights, strict=False)
        return network

    def restore(self) -> None:
        """Continues from the saved state, if there is one."""
        path = self._state_path()
        if not path.exists():
            return
        saved = torch.load(path, weights_only=False)  # our own file
        self.optimizer.restore(saved["optimizer"])
        self._source.restore(saved["source"])
        self.step, self.rows = saved["step"], saved["rows"]

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
            _replace(self._stage.out / "average.pt", {"shape": shape, "weights": self.optimizer.average})

    def one_step(self) -> float:
        """One update; the loss."""
        weights = dict(self.network.named_parameters())
        for name, weight in weights.items():
            weight.data.copy_(self.optimizer.masters[name])
            weight.grad = None
        batch = next(self._batches).to(self._device)
        loss = loss_of(self.network, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: w.grad.float() / self._arguments.processes for name, w in weights.items() if w.grad is not None
        }
        sum_over_processes(gradients)
        lesson = self._stage.lesson
        self.optimizer.step(gradients, number=self.step, scale=lesson.rate * schedule(self.step, lesson.horizon))
        self.step += 1
        self.rows += len(batch.ids)
        return float(loss.detach())

    def judged(self) -> list[dict[str, float]]:
        """Accuracy of the averaged weights: once, or for every block length."""
        network = self.averaged()
        return [
            {
                "step": self.step,
                "block_length": length,
                **judge(network, self.tokenizer, count=40, device=self._device, block_length=length),
            }
            for length in (BLOCK_LENGTHS if self._stage.block_causal else (0,))
        ]

    def averaged(self) -> Network:
        """The network with the averaged weights."""
        network = Network(self.network.shape).to(self._device)
        network.load_state_dict(self.optimizer.average, strict=False)
        return network.bfloat16().eval()

    def _state_path(self) -> Path:
        return self._stage.out / f"state-{self._rank}.pt"


def _replace(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def _run(rank: int, arguments: argparse.Namespace, meeting: str) -> None:
    torch.set_num_threads(1)
    if arguments.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=arguments.processes)
    for stage in stages(arguments.out, arguments.sibling_of):
        _learn(stage, arguments, rank)
    if arguments.processes > 1:
        dist.destroy_process_group()


def _learn(stage: Stage, arguments: argparse.Namespace, rank: int) -> None:
    stage.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(stage, arguments, rank)
    trainer.restore()
    began, first, losses = time.monotonic(), trainer.step, []
    while trainer.step < stage.lesson.steps:
        losses.append(trainer.one_step())
        last = trainer.step == stage.lesson.steps
        if rank == 0 and (trainer.step % 50 == 0 or last):
            _report(trainer, losses[-50:], (time.monotonic() - began) / (trainer.step - first))
        if trainer.step % arguments.save_every == 0 or last:
            trainer.save()
        if rank == 0 and (trainer.step % arguments.judge_every == 0 or last):
            for accuracy in trainer.judged():
                print(json.dumps(accuracy), flush=True)
    if dist.is_initialized():
        dist.barrier()  # the next stage begins from what rank 0 wrote


def _report(trainer: Trainer, losses: list[float], seconds: float) -> None:
    mean = sum(losses) / len(losses)
    print(
        f"step {trainer.step}: loss {mean:.4f}, {trainer.rows} rows per process, {seconds:.3f} s per step", flush=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--out", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--sibling-of", type=Path, help="folder of a finished lesson: train its sibling")
    parser.add_argument("--tokens", type=int, default=5000 if cuda else 2500, help="of a batch, per process")
    parser.add_argument("--processes", type=int, default=1 if cuda else 2, help="one thread each; 1 on a GPU")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--judge-every", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        if arguments.processes == 1:
            _run(0, arguments, meeting)
        else:
            torch.multiprocessing.spawn(_run, (arguments, meeting), nprocs=arguments.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
