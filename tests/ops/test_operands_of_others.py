"""Ops on memory that torch or CuPy holds, on the CPU or a GPU, without a copy in either direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from on_device import OnDevice, assert_near, normal

from pydllm import _core

ops = _core.ops


def formula(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().chunk(2, dim=1)
    return gate * gate.sigmoid() * up


def test_torch_reads_what_an_op_wrote_into_its_memory(device: OnDevice) -> None:
    name = device.work.device
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    given = normal(3, 514)
    source, target = given.to(name), torch.full((3, 257), torch.nan, device=name)
    ops.swiglu(device.work, _core.Tensor.from_dlpack(source), _core.Tensor.from_dlpack(target))
    device.work.synchronize()
    assert_near(target.cpu(), formula(given), relative=1e-6, absolute=6e-8)


def test_cupy_reads_what_an_op_wrote_into_its_memory(device: OnDevice) -> None:
    cupy: Any = pytest.importorskip("cupy", reason="CuPy is not installed")
    if device.work.device == "cpu":
        pytest.skip("CuPy has no memory on the CPU")
    if not torch.cuda.is_available():
        pytest.skip("this CUDA device is emulated, CuPy finds none")
    given = normal(3, 514)
    source, target = cupy.asarray(given.numpy()), cupy.full((3, 257), cupy.nan, dtype="float32")
    ops.swiglu(
        device.work,
        _core.Tensor.from_dlpack(source),
        _core.Tensor.from_cuda_array_interface(target, device=target.device.id),
    )
    device.work.synchronize()
    assert_near(torch.from_numpy(target.get()), formula(given), relative=1e-6, absolute=6e-8)
