"""`pydllm env`: what a bug report needs to know of the machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pydllm import nvidia_wheels
from pydllm._version import __version__
from pydllm.cli.console import FAILED, OK, fail

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_PACKAGES = (
    "numpy",
    "tokenizers",
    "jinja2",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "protobuf",
    "fastapi",
    "uvicorn",
    "prometheus-client",
    "huggingface-hub",
    "PyYAML",
    "rich",
)


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Prints one fact per line; exit code 1 when the extension cannot be loaded."""
    for name, value in _facts():
        print(f"{name:24} {value}")
    try:
        from pydllm import _core
    except ImportError as error:
        return fail("env", f"the extension pydllm._core cannot be loaded: {error}", FAILED)
    info = _core.build_info(wheel_folders=nvidia_wheels.library_folders())
    for name, value in (*_build(info), *cuda_lines(info["cuda"])):
        print(f"{name:24} {value}")
    return OK


def _facts() -> Iterator[tuple[str, object]]:
    yield "pydllm", __version__
    yield "python", platform.python_version()
    yield "platform", platform.platform()
    for package in _PACKAGES:
        yield package, _version(package)
    yield "cores usable", len(os.sched_getaffinity(0))
    yield from _memory()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> Iterator[tuple[str, str]]:
    """From /proc/meminfo, in GiB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            entries = dict(line.split(":", 1) for line in file)
    except OSError:
        yield "memory", "unknown"
        return
    for label, key in (("memory total", "MemTotal"), ("memory available", "MemAvailable")):
        yield label, f"{int(entries[key].split()[0]) / 2**20:.1f} GiB"


def _build(info: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in info.items():
        if key == "cpu":
            yield from ((f"cpu.{dtype}", isa) for dtype, isa in value.items())
        elif key != "cuda":
            yield key, value


def cuda_lines(cuda: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """One fact or problem per line of `_core.build_info()["cuda"]`; memory in GiB."""
    yield "cuda.built", cuda["built"]
    if cuda["built"]:
        yield "cuda.runtime", cuda["runtime"]
        yield "cuda.driver", f"for CUDA {cuda['driver']}" if cuda["driver"] else "none"
    for index, device in enumerate(cuda["devices"]):
        yield f"cuda:{index}", _device(device)
    library = cuda["cublaslt"]
    yield "cuda.cublaslt", library["error"] or f"{library['version']} ({library['place']}: {library['path']})"
    for problem in cuda["problems"]:
        yield "cuda.problem", problem


def _device(device: dict[str, Any]) -> str:
    total, free = (f"{device[key] / 2**30:.1f} GiB" for key in ("memory_bytes", "free_bytes"))
    return f"{device['name']}, compute capability {device['compute_capability']}, {total}, {free} free"
