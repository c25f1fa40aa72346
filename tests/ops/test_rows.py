"""Ops that work row by row, on every device of this build, against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from on_device import NARROW, OnDevice, as_type, assert_near, normal

from pydllm import _core

ops = _core.ops
DTYPES = list(NARROW)
EPSILON = 1e-5


def formula_of_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 127, 128, 129, 1030])
def test_embedding_is_exact(device: OnDevice, dtype: str, dim: int) -> None:
    table = as_type(normal(50, dim), dtype)
    ids = torch.tensor([0, 49, 7, 7, 31], dtype=torch.int32)
    out = device.empty(5, dim)
    ops.embedding(device.work, device.put(ids), device.put(table), out)
    assert torch.equal(device.get(out), table[ids].float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 31, 255, 256, 257, 1030])
def test_rms_norm_of_rows_and_of_gathered_rows(device: OnDevice, dtype: str, dim: int) -> None:
    x, weight = normal(5, dim, scale=3), 1 + normal(dim, seed=1, scale=0.1)
    rows = torch.tensor([4, 0, 4], dtype=torch.int32)
    every, gathered = device.empty(5, dim, dtype=dtype), device.empty(3, dim, dtype=dtype)
    ops.rms_norm(device.work, device.put(x), device.put(weight), EPSILON, every)
    ops.rms_norm(device.work, device.put(x), device.put(weight), EPSILON, gathered, rows=device.put(rows))
    expected = formula_of_norm(x, weight)
    assert_near(device.get(every), expected, relative=1e-6, absolute=6e-8, dtype=dtype)
    assert torch.equal(device.get(gathered), device.get(every)[rows])


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128])
def test_rms_norm_of_heads_leaves_other_columns_alone(device: OnDevice, head_dim: int) -> None:
    first, heads = 5, 3
    x, weight = normal(4, first + heads * head_dim + 7), 1 + normal(head_dim, seed=1, scale=0.1)
    inside = device.put(x)
    ops.rms_norm_heads(device.work, inside, first, heads, device.put(weight), EPSILON)
    expected = x.double()
    end = first + heads * head_dim
    expected[:, first:end] = formula_of_norm(x[:, first:end].reshape(4, heads, head_dim), weight).reshape(4, -1)
    actual = device.get(inside)
    assert_near(actual, expected, relative=1e-6, absolute=6e-8)
    assert torch.equal(actual[:, :first], x[:, :first])
    assert torch.equal(actual[:, end:], x[:, end:])


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(16, 16), (64, 32), (128, 128), (80, 20)])
def test_rope_rotates_halves_and_leaves_the_rest_alone(device: OnDevice, head_dim: int, rotary_dim: int) -> None:
    heads, first, theta = 3, 2, 500000.0
    positions = torch.tensor([0, 1, 130, 130, 4095], dtype=torch.int32)
    x = normal(5, first + heads * head_dim + 1)
    inside = device.put(x)
    cos, sin = ops.rope_table(device.work, 4096, rotary_dim, theta)
    ops.rope(device.work, inside, first, heads, head_dim, device.put(positions), cos, sin)
    half = rotary_dim // 2
    angles = positions.double()[:, None] * theta ** (-2 * torch.arange(half, dtype=torch.float64) / rotary_dim)
    expected = x.double()
    for head in range(heads):
        at = first + head * head_dim
        low, high = x[:, at : at + half].double(), x[:, at + half : at + rotary_dim].double()
        expected[:, at : at + half] = low * angles.cos() - high * angles.sin()
        expected[:, at + half : at + rotary_dim] = high * angles.cos() + low * angles.sin()
    actual = device.get(inside)
    assert_near(actual, expected, relative=1e-6, absolute=1e-6)
    unchanged = torch.ones(x.shape[1], dtype=torch.bool)
    for head in range(heads):
        unchanged[first + head * head_dim : first + head * head_dim + rotary_dim] = False
    assert torch.equal(actual[:, unchanged], x[:, unchanged])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 255, 256, 257, 700])
def test_swiglu(device: OnDevice, dtype: str, width: int) -> None:
    gate_up = normal(3, 2 * width, scale=4)
    out = device.empty(3, width, dtype=dtype)
    ops.swiglu(device.work, device.put(gate_up), out)
    gate, up = gate_up.double().split(width, dim=1)
    assert_near(device.get(out), gate * gate.sigmoid() * up, relative=1e-6, absolute=6e-8, dtype=dtype)


def test_an_output_that_may_not_be_written_is_refused(device: OnDevice) -> None:
    table = np.zeros((1, 4), np.float32)
    table.flags.writeable = False
    frozen = _core.Tensor.from_dlpack(table)
    with pytest.raises(_core.InvalidRequest, match="out: expected a tensor that may be written to") as caught:
        ops.swiglu(device.work, device.put(normal(1, 8)), frozen)
    assert caught.value.field == "out"


def test_a_tensor_elsewhere_is_named(device: OnDevice, cpu: OnDevice) -> None:
    if device.work.device == "cpu":
        pytest.skip("every tensor of this build is on the CPU")
    with pytest.raises(_core.InternalError, match="swiglu: out is on cpu, expected cuda:"):
        ops.swiglu(device.work, device.put(normal(1, 8)), cpu.empty(1, 4))
