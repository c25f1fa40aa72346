"""Tensors on the device of a test and back, random inputs, and how near a result has to be (docs/numerics.md)."""

from __future__ import annotations

from typing import Any

import torch

from pydllm import _core

NARROW = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Of a result that is rounded to this type, relative."""


class OnDevice:
    """One device and its stream."""

    def __init__(self, device: str) -> None:
        self.work = _core.ops.Workplace(device=device, threads=2)

    def put(self, tensor: torch.Tensor) -> _core.Tensor:
        return self.work.copy_of(tensor.contiguous())

    def get(self, tensor: _core.Tensor) -> torch.Tensor:
        return torch.from_dlpack(self.work.host_copy_of(tensor))

    def empty(self, *shape: int, dtype: str = "float32") -> _core.Tensor:
        return self.work.empty(shape, dtype)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def as_type(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype))


def assert_near(
    actual: torch.Tensor, expected: torch.Tensor, *, relative: float = 0.0, absolute: Any = 0.0, dtype: str = "float32"
) -> None:
    """|actual - expected| <= relative |expected| + absolute, element by element; NaN is near nothing."""
    assert actual.shape == expected.shape
    distance = (actual.double() - expected.double()).abs()
    allowed = (relative + NARROW[dtype]) * expected.double().abs() + absolute
    worst = (distance - allowed).max().item() if distance.numel() else 0.0
    assert (distance <= allowed).all(), f"beyond the bound by {worst:.3g}"
