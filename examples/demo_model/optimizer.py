"""Muon for the matrices of the blocks, Adam for everything else, fp32 masters and an average of the weights.

Muon: Jordan et al. 2024 (momentum whose update is orthogonalised by a Newton-Schulz iteration). On these tasks it was
by far the largest single gain over Adam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch import Tensor, nn

MUON_RATE, ADAM_RATE = 0.010, 2e-3
MOMENTUM, DECAY = 0.95, 0.02
BETA1, BETA2, EPSILON = 0.9, 0.98, 1e-9
LONGEST_AVERAGE = 0.998
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalised(gradient: Tensor) -> Tensor:
    """Roughly U V^T of the gradient's singular value decomposition, in bf16."""
    a, b, c = _NEWTON_SCHULZ
    x = gradient.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).float()


def sum_over_processes(tensors: dict[str, Tensor]) -> None:
    """Adds up the tensors of all processes, in place, in one message."""
    if not dist.is_initialized():
        return
    joined = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    dist.all_reduce(joined)
    for tensor, part in zip(tensors.values(), joined.split([t.numel() for t in tensors.values()]), strict=True):
        tensor.copy_(part.view_as(tensor))


class Optimizer:
    """Updates fp32 masters from gradients given by name; the orthogonalisation is shared among the processes."""

    def __init__(self, network: nn.Module, *, rank: int = 0, processes: int = 1) -> None:
        self._rank, self._processes = rank, processes
        self.masters = {name: weight.detach().float().clone() for name, weight in network.named_parameters()}
        self.average = {name: weight.clone() for name, weight in self.masters.items()}
        self._muon = [name for name, weight in self.masters.items() if weight.ndim == 2 and ".blocks." in name]
        self._first = {name: torch.zeros_like(weight) for name, weight in self.masters.items()}
        self._second = {name: torch.zeros_like(self.masters[name]) for name in self.masters if name not in self._muon}

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All that `restore` needs."""
        return {"masters": self.masters, "average": self.average, "first": self._first, "second": self._second}

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Continues where `state` was taken."""
        for own, saved in zip(self.state().values(), state.values(), strict=True):
            for name, value in saved.items():
                own[name].copy_(value)

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], *, number: int, scale: float) -> None:
        """`number` counts from 0; `scale` is the schedule's factor of both learning rates."""
        for name in self._second:
            self._adam(name, gradients[name], number, ADAM_RATE * scale)
        for name, update in self._muon_updates(gradients).items():
            master, rate = self.masters[name], MUON_RATE * scale
            tall = max(1.0, master.shape[0] / master.shape[1]) ** 0.5
            master.mul_(1 - rate * DECAY).sub_(update, alpha=rate * tall)
        keep = min(LONGEST_AVERAGE, 1 - 1 / (number / 10 + 1))
        for name, master in self.masters.items():
            self.average[name].lerp_(master, 1 - keep)

    def _adam(self, name: str, gradient: Tensor, number: int, rate: float) -> None:
        first, second = self._first[name], self._second[name]
        first.lerp_(gradient, 1 - BETA1)
        second.lerp_(gradient * gradient, 1 - BETA2)
        mean = first / (1 - BETA1 ** (number + 1))
        deviation = (second / (1 - BETA2 ** (number + 1))).sqrt()
        self.masters[name].sub_(mean / (deviation + EPSILON), alpha=rate)

    def _muon_updates(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        updates = {}
        for i, name in enumerate(self._muon):
            momentum = self._first[name]
            momentum.lerp_(gradients[name], 1 - MOMENTUM)
            mine = i % self._processes == self._rank
            ahead = gradients[name].lerp(momentum, MOMENTUM)
            updates[name] = orthogonalised(ahead) if mine else torch.zeros_like(momentum)
        sum_over_processes(updates)
        return updates
