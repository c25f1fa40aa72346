"""Tensors on a CUDA device in both directions: metadata with made-up objects anywhere, values where there is a GPU."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pydllm import _core

ROOT = Path(__file__).resolve().parents[2]
FAKE_DRIVER = ROOT / "tests/core/fakes/cuda_driver.cpp"
DTYPES = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "int64": "<i8", "uint8": "|u1"}
STRIDED = np.zeros((4, 4), np.float32)[:, 1:3]


class Array:
    """A made-up CUDA array: the interface of host memory, with entries replaced."""

    def __init__(self, array: np.ndarray[Any, Any], **entries: object) -> None:
        host = array.__array_interface__
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": host["shape"],
            "typestr": host["typestr"],
            "data": host["data"],
            "strides": host["strides"],
            "version": 3,
            "stream": None,
            **entries,
        }


def imported(array: np.ndarray[Any, Any], device: int = 3, **entries: object) -> _core.Tensor:
    return _core.Tensor.from_cuda_array_interface(Array(array, **entries), device=device)


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


def inside(capsule: object, name: bytes, kind: type[Any]) -> Any:
    """What a capsule points to, read as its ABI says."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return kind.from_address(pointer(capsule, name))


# --- export ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 1, 4)])
def test_the_cuda_array_interface_round_trip_keeps_everything(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    tensor = imported(array)
    assert (tensor.shape, tensor.dtype, tensor.device) == (shape, dtype, "cuda:3")
    assert tensor.__cuda_array_interface__ == {
        "shape": shape,
        "typestr": DTYPES[dtype],
        "data": (array.ctypes.data, False),
        "strides": None,
        "stream": None,
        "version": 3,
    }


def test_a_tensor_without_elements_has_the_address_0() -> None:
    assert imported(np.zeros((0, 4), np.float32)).__cuda_array_interface__["data"] == (0, False)


def test_read_only_memory_stays_read_only() -> None:
    array = np.zeros(4, np.int32)
    array.flags.writeable = False
    tensor = imported(array)
    assert tensor.__cuda_array_interface__["data"][1] is True
    with pytest.raises(BufferError, match="read-only"):
        tensor.__dlpack__()


def test_a_cpu_tensor_has_no_cuda_array_interface() -> None:
    tensor = _core.Tensor.from_dlpack(np.zeros(3, np.float32))
    assert not hasattr(tensor, "__cuda_array_interface__")
    with pytest.raises(AttributeError, match="a tensor on cpu has no __cuda_array_interface__"):
        _ = tensor.__cuda_array_interface__


def test_dlpack_says_where_the_tensor_is() -> None:
    array = np.zeros((3, 5), np.float16)
    tensor = imported(array)
    assert tensor.__dlpack_device__() == (2, 3)
    capsule = tensor.__dlpack__(max_version=(1, 0))
    versioned = inside(capsule, b"dltensor_versioned", Versioned)
    assert (versioned.major, versioned.flags) == (1, 0)
    legacy_capsule = tensor.__dlpack__()
    for found in (versioned.tensor, inside(legacy_capsule, b"dltensor", DLTensor)):
        assert (found.data, found.byte_offset) == (array.ctypes.data, 0)
        assert (found.device_type, found.device_id) == (2, 3)
        assert (found.code, found.bits, found.lanes) == (2, 16, 1)
        assert (found.shape[: found.ndim], found.strides[: found.ndim]) == ([3, 5], [5, 1])


@pytest.mark.parametrize("stream", [None, -1, 1, 2, 0x7F0012345678])
def test_every_stream_of_the_standard_is_accepted(stream: int | None) -> None:
    assert '"dltensor"' in repr(imported(np.zeros(2, np.float32)).__dlpack__(stream=stream))


@pytest.mark.parametrize("stream", [0, -2, 2**70, True, "1", 1.0])
def test_no_other_stream_is(stream: object) -> None:
    with pytest.raises(ValueError, match="stream: expected None, -1, 1") as caught:
        imported(np.zeros(2, np.float32)).__dlpack__(stream=stream)
    assert "\n" not in str(caught.value)


def test_a_cuda_tensor_is_neither_moved_nor_copied() -> None:
    tensor = imported(np.zeros(2, np.float32))
    tensor.__dlpack__(dl_device=(2, 3), copy=False)
    for device in ((1, 0), (2, 0)):
        with pytest.raises(BufferError, match="lives on cuda:3 and is not moved"):
            tensor.__dlpack__(dl_device=device)
    with pytest.raises(BufferError, match="copy: a tensor on cuda:3"):
        tensor.__dlpack__(copy=True)


def test_bfloat16_has_dlpack_only(no_driver: None) -> None:
    class OnDevice(Producer):
        def __dlpack__(self, *, stream: object = None, **more: Any) -> Any:
            capsule = torch.zeros(3, dtype=torch.bfloat16).__dlpack__()
            inside(capsule, b"dltensor", DLTensor).device_type = 2
            return capsule

    tensor = _core.Tensor.from_dlpack(OnDevice(imported(np.zeros(1, np.float32)), (2, 0)))
    assert (tensor.dtype, tensor.device) == ("bfloat16", "cuda:0")
    assert inside(tensor.__dlpack__(), b"dltensor", DLTensor).code == 4
    assert not hasattr(tensor, "__cuda_array_interface__")
    with pytest.raises(AttributeError, match=r"a bfloat16 tensor has no __cuda_array_interface__.*use DLPack"):
        _ = tensor.__cuda_array_interface__


# --- import ---


class Producer:
    """A made-up DLPack producer of a CUDA tensor, old or new, that notes the streams it is asked for."""

    def __init__(self, tensor: _core.Tensor, device: tuple[int, int] = (2, 3), *, legacy: bool = False) -> None:
        self.tensor, self.device, self.legacy = tensor, device, legacy
        self.streams: list[object] = []

    def __dlpack__(self, *, stream: object = None, **more: Any) -> Any:
        if self.legacy and more:
            raise TypeError("unexpected keyword")
        self.streams.append(stream)
        return self.tensor.__dlpack__(stream=stream, **more)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


@pytest.mark.parametrize("legacy", [False, True])
def test_dlpack_imports_ask_for_the_default_stream(legacy: bool, no_driver: None) -> None:
    array = np.zeros((2, 3), np.int64)
    producer = Producer(imported(array), legacy=legacy)
    tensor = _core.Tensor.from_dlpack(producer)
    assert (tensor.shape, tensor.dtype, tensor.device) == ((2, 3), "int64", "cuda:3")
    assert tensor.__cuda_array_interface__["data"] == (array.ctypes.data, False)
    assert producer.streams == [1]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ((2, 1), "__dlpack_device__ says cuda:1, the capsule says cuda:3"),
        ((1, 0), "__dlpack_device__ says cpu, the capsule says cuda:3"),
        ((10, 0), "expected a CPU or CUDA tensor, got DLPack device type 10, device 0"),
        ((2, -1), "expected a CPU or CUDA tensor, got DLPack device type 2, device -1"),
    ],
)
def test_a_dlpack_device_that_is_unknown_or_untrue_is_refused(device: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.Tensor.from_dlpack(Producer(imported(np.zeros(2, np.float32)), device))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"version": 1}, "version: expected 2 or 3, got 1"),
        ({"version": 4}, "version: expected 2 or 3, got 4"),
        ({"version": "3"}, "version: expected 2 or 3, got a str"),
        ({"typestr": "<f8"}, 'typestr: expected <f4, .* got "<f8"'),
        ({"typestr": "<V2"}, "typestr: .*bfloat16 has no type here: use DLPack"),
        ({"typestr": ">f4"}, "typestr: expected <f4"),
        ({"typestr": 4}, "typestr: expected a text, got a int"),
        ({"shape": None}, "shape: expected a tuple of integers, got a NoneType"),
        ({"shape": (-1,)}, "the shape overflows"),
        ({"shape": (2**40, 2**40)}, "the shape overflows"),
        ({"strides": (16,)}, "contiguous"),
        ({"strides": (16, 4)}, "strides: expected one for each axis"),
        ({"data": 4096}, "data: expected a pair"),
        ({"data": (4097, False)}, "aligned"),
        ({"mask": object()}, "mask: expected None"),
        ({"stream": 0}, "stream: expected None, 1, 2 or the address of a stream, got 0"),
        ({"stream": -1}, "stream: expected None, 1, 2"),
        ({"stream": "a"}, "stream: expected None or an integer"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(entries: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        imported(np.zeros(3, np.float32), **entries)
    assert "\n" not in str(caught.value)


def test_missing_entries_and_foreign_objects_are_refused() -> None:
    array = Array(np.zeros(3, np.float32))
    for entry in ("version", "shape", "typestr", "data"):
        copy = Array(array.array)
        del copy.__cuda_array_interface__[entry]
        with pytest.raises(ValueError, match=f"{entry}: expected .*, got nothing"):
            _core.Tensor.from_cuda_array_interface(copy, device=0)
    for other in (None, [1, 2], np.zeros(3)):
        with pytest.raises(ValueError, match="expected an object with __cuda_array_interface__"):
            _core.Tensor.from_cuda_array_interface(other, device=0)


def test_strides_in_bytes_of_a_contiguous_array_are_those_of_none() -> None:
    array = np.zeros((2, 3), np.float32)
    assert imported(array, strides=(12, 4)).shape == (2, 3)
    assert imported(array[:, :1], strides=(999, 4), shape=(1, 1)).shape == (1, 1)  # an axis of 1 has no stride
    with pytest.raises(ValueError, match="contiguous"):
        imported(STRIDED)


def test_the_device_is_a_number_or_known_to_the_driver(no_driver: None) -> None:
    array = Array(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="device: expected the number of a CUDA device: no CUDA driver"):
        _core.Tensor.from_cuda_array_interface(array)
    for device in (-1, 2**31, 2**70, True, "0", 0.0):
        with pytest.raises(ValueError, match="device: expected None or the number"):
            _core.Tensor.from_cuda_array_interface(array, device=device)  # type: ignore[arg-type]


def test_the_producer_lives_as_long_as_the_last_view() -> None:
    array = Array(np.zeros(3, np.float32))
    dead = weakref.ref(array)
    tensor = _core.Tensor.from_cuda_array_interface(array, device=0)
    capsule = tensor.__dlpack__()
    del array, tensor
    gc.collect()
    assert dead() is not None
    del capsule
    gc.collect()
    assert dead() is None


@pytest.fixture
def no_driver() -> None:
    """Made-up device memory cannot be waited for by a real driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("this machine has a CUDA driver, which knows that these tensors are made up")


WAITING = """
import ctypes, sys
import numpy as np
driver = ctypes.CDLL(sys.argv[1])
driver.fake_cuda_calls.restype = ctypes.c_char_p
sys.path.insert(0, sys.argv[2])
from test_cuda_interchange import Producer, imported
from pydllm import _core
array = np.zeros(3, np.float32)
for entries in ({}, {"stream": 2}, {"stream": 0x7000}, {"version": 2}):
    imported(array, **entries)
    print(driver.fake_cuda_calls().decode())
_core.Tensor.from_dlpack(Producer(imported(array)))
print(driver.fake_cuda_calls().decode())
from test_cuda_interchange import Array
print(_core.Tensor.from_cuda_array_interface(Array(array)).device)
try:
    imported(array, stream=0xBAD)
except _core.InternalError as error:
    print(error)
"""


def test_imports_wait_for_the_producers_stream(tmp_path: Path, no_driver: None) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler for the made-up driver")
    library = tmp_path / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-std=c++20", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, str(FAKE_DRIVER), "-o", str(library)], check=True)
    # Its own process: the made-up driver must not be that of other tests.
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    with_core = [sys.executable, str(ROOT / "tools/with_core.py"), str(_core.__file__)]
    command = [*with_core, str(script), str(library), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "",
        "retain:103 push:103 wait:2 pop release:103",
        f"retain:103 push:103 wait:{0x7000} pop release:103",
        "retain:103 push:103 wait:1 pop release:103",
        "retain:103 push:103 wait:1 pop release:103",
        "cuda:2",
        "cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS",
    ]


# --- with a GPU ---

needs_torch_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.fixture
def cupy() -> Any:
    found = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        found.cuda.runtime.getDeviceCount()
    except found.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy finds no CUDA device: {error}")
    return found


@needs_torch_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64])
def test_torch_round_trip_shares_device_memory(dtype: torch.dtype) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # not the stream that the consumer waits for
        source = torch.arange(1 << 20, device="cuda").to(dtype).reshape(1024, 1024)
        tensor = _core.Tensor.from_dlpack(source)
    assert tensor.device == "cuda:0"
    back = torch.from_dlpack(tensor)
    assert (back.dtype, back.data_ptr()) == (dtype, source.data_ptr())
    assert torch.equal(back, source)


@needs_torch_cuda
def test_torch_takes_a_tensor_through_the_cuda_array_interface() -> None:
    source = torch.arange(12, dtype=torch.float32, device="cuda").reshape(3, 4)
    tensor = _core.Tensor.from_cuda_array_interface(source)
    assert tensor.device == "cuda:0"
    back = torch.as_tensor(tensor, device="cuda")
    assert back.data_ptr() == source.data_ptr()
    assert torch.equal(back, source)


@needs_torch_cuda
def test_bfloat16_on_a_device_goes_through_dlpack_only() -> None:
    tensor = _core.Tensor.from_dlpack(torch.zeros(3, dtype=torch.bfloat16, device="cuda"))
    with pytest.raises(AttributeError, match=r"a bfloat16 tensor has no __cuda_array_interface__.*use DLPack"):
        _ = tensor.__cuda_array_interface__


@pytest.mark.parametrize("dtype", DTYPES)
def test_cupy_round_trips_share_device_memory(cupy: Any, dtype: str) -> None:
    with cupy.cuda.Stream(non_blocking=True):
        source = cupy.arange(1 << 16).astype(dtype).reshape(256, 256)
        tensors = [_core.Tensor.from_dlpack(source), _core.Tensor.from_cuda_array_interface(source)]
    for tensor in tensors:
        for back in (cupy.from_dlpack(tensor), cupy.asarray(tensor)):
            assert back.data.ptr == source.data.ptr
            assert bool((back == source).all())
