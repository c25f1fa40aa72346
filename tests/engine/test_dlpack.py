"""Tensors in both directions, with numpy and torch, both kinds of capsule."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from pydllm import LLM, SamplingParams, _core

torch.set_num_threads(1)


class Legacy:
    """A producer from before DLPack 1.0: no max_version."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __dlpack__(self, stream: object = None) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Elsewhere(Legacy):
    def __dlpack_device__(self) -> tuple[int, int]:
        return (10, 0)  # a GPU of another kind


DTYPES = ["float32", "float16", "int32", "int64", "uint8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4), (1, 7, 1)])
@pytest.mark.parametrize("producer", [lambda array: array, Legacy], ids=["versioned", "legacy"])
def test_numpy_round_trip_shares_memory(dtype: str, shape: tuple[int, ...], producer: Any) -> None:
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    tensor = _core.Tensor.from_dlpack(producer(array))
    assert (tensor.shape, tensor.dtype, tensor.device) == (shape, dtype, "cpu")
    back = np.from_dlpack(tensor)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert back.__array_interface__["data"][0] == array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64])
def test_torch_round_trip_shares_memory(dtype: torch.dtype) -> None:
    source = torch.arange(12).to(dtype).reshape(3, 4)
    tensor = _core.Tensor.from_dlpack(source)
    back = torch.from_dlpack(tensor)
    assert back.dtype == dtype
    assert torch.equal(back, source)
    source[1, 2] = 7
    assert back[1, 2] == 7


def test_the_producer_lives_as_long_as_the_last_view() -> None:
    class Array(np.ndarray):  # type: ignore[type-arg]
        pass

    array = np.arange(6, dtype=np.int64).view(Array)
    dead = weakref.ref(array)
    tensor = _core.Tensor.from_dlpack(array)
    view = np.from_dlpack(tensor)
    del array, tensor
    gc.collect()
    assert dead() is not None
    np.testing.assert_array_equal(view, np.arange(6))
    del view
    gc.collect()
    assert dead() is None


def test_unused_capsules_release_what_they_hold() -> None:
    class Array(np.ndarray):  # type: ignore[type-arg]
        pass

    array = np.zeros(4, dtype=np.float32).view(Array)
    dead = weakref.ref(array)
    tensor = _core.Tensor.from_dlpack(array)
    capsules = [tensor.__dlpack__(), tensor.__dlpack__(max_version=(1, 0))]
    assert ['"dltensor"' in repr(capsule) for capsule in capsules] == [True, False]
    assert '"dltensor_versioned"' in repr(capsules[1])
    del array, tensor
    assert dead() is not None
    del capsules
    gc.collect()
    assert dead() is None


def test_a_copy_is_a_copy() -> None:
    array = np.arange(4, dtype=np.int32)
    tensor = _core.Tensor.from_dlpack(array)
    copy = np.from_dlpack(tensor, copy=True)
    array[0] = 9
    np.testing.assert_array_equal(copy, [0, 1, 2, 3])


def test_read_only_memory_stays_read_only() -> None:
    array = np.arange(4, dtype=np.int32)
    array.flags.writeable = False
    tensor = _core.Tensor.from_dlpack(array)
    assert not np.from_dlpack(tensor).flags.writeable
    with pytest.raises(BufferError, match="read-only"):
        tensor.__dlpack__()


@pytest.mark.parametrize(
    ("producer", "message"),
    [
        (np.zeros((4, 4), np.float32).T[1:], "contiguous"),
        (np.zeros((4, 4), np.float32)[:, 1:3], "contiguous"),
        (np.zeros(4, np.float64), "float32, bfloat16"),
        (np.zeros(4, np.complex64), "float32, bfloat16"),
        (np.zeros(4, bool), "float32, bfloat16"),
        (Elsewhere(np.zeros(4, np.float32)), "CPU or CUDA tensor"),
        ([1, 2, 3], "__dlpack__"),
        (None, "__dlpack__"),
    ],
)
def test_what_cannot_be_viewed_is_refused_in_one_line(producer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _core.Tensor.from_dlpack(producer)
    assert "\n" not in str(caught.value)


def test_misaligned_data_are_refused() -> None:
    raw = np.zeros(17, np.uint8)
    array = np.frombuffer(raw[1:].data, dtype=np.float32)
    with pytest.raises(ValueError, match="aligned"):
        _core.Tensor.from_dlpack(array)


def test_a_producer_without_a_capsule_is_refused() -> None:
    class Liar(Legacy):
        def __dlpack__(self, stream: object = None) -> Any:
            return 42

    with pytest.raises(ValueError, match="no DLPack capsule"):
        _core.Tensor.from_dlpack(Liar(np.zeros(1)))


def test_export_honours_only_what_a_cpu_tensor_can() -> None:
    tensor = _core.Tensor.from_dlpack(np.zeros(2, np.float32))
    assert tensor.__dlpack_device__() == (1, 0)
    with pytest.raises(ValueError, match="stream"):
        tensor.__dlpack__(stream=1)
    with pytest.raises(BufferError, match="lives on cpu and is not moved"):
        tensor.__dlpack__(dl_device=(2, 0))
    with pytest.raises(ValueError, match="max_version"):
        tensor.__dlpack__(max_version="1.0")


def test_first_logits_outlive_their_event(tiny: LLM) -> None:
    trace = tiny.trace([1, 2, 3], sampling=SamplingParams(max_tokens=5))
    logits = torch.from_dlpack(trace.first_logits)
    del trace
    gc.collect()
    assert logits.shape == (8, 352)
    assert bool(torch.isfinite(logits).all())
