"""How much memory this process may still take, and how many K/V pages that is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydllm import _core
from pydllm.errors import InvalidRequestError
from pydllm.params import MAX_INT32

if TYPE_CHECKING:
    from pydllm.engine.config import EngineConfig


def available_memory(root: Path = Path("/")) -> int:
    """Bytes: the machine's available memory, less where the control group (v2 or v1) allows less."""
    limits = [_machine(root / "proc/meminfo"), *_cgroup(root / "sys/fs/cgroup")]
    return max(0, min(limits))


def used_memory(device: str) -> int:
    """Bytes that are taken: of a CUDA device by everyone, on "cpu" by this process."""
    if device != "cpu":
        free, total = _core.device_memory(device)
        return total - free
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kv_pages(config: EngineConfig, *, max_model_len: int, bytes_per_position: int, available: int) -> int:
    """Pages for max_running_requests full contexts, at most the share of memory, at least one full context.

    Raises InvalidRequestError naming kv_cache_tokens or mem_fraction when not even one context fits.
    """
    context = _pages_for(max_model_len, config.page_size)
    if config.kv_cache_tokens is not None:
        return _explicit(config.kv_cache_tokens, config.page_size, context, max_model_len)
    wanted = context * config.max_running_requests
    affordable = int(config.mem_fraction * available) // max(1, bytes_per_position * config.page_size)
    pages = min(wanted, affordable, MAX_INT32)
    if pages >= context:
        return pages
    need = context * config.page_size * bytes_per_position
    raise InvalidRequestError(
        "mem_fraction",
        f"mem_fraction: the K/V pages of one context of {max_model_len} tokens need {_mib(need)}, "
        f"{config.mem_fraction:g} of the available memory is {_mib(int(config.mem_fraction * available))}; "
        "lower max_model_len or raise mem_fraction",
    )


def _explicit(tokens: int, page_size: int, context: int, max_model_len: int) -> int:
    pages = _pages_for(tokens, page_size)
    if pages < context:
        raise InvalidRequestError(
            "kv_cache_tokens",
            f"kv_cache_tokens: expected at least one full context of {max_model_len} tokens, got {tokens}",
        )
    return pages


def _pages_for(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _machine(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable line")


def _cgroup(root: Path) -> list[int]:
    v2 = _room(root / "memory.max", root / "memory.current", root / "memory.stat", "inactive_file")
    v1 = root / "memory"
    v1_room = _room(
        v1 / "memory.limit_in_bytes", v1 / "memory.usage_in_bytes", v1 / "memory.stat", "total_inactive_file"
    )
    return v2 + v1_room


def _room(limit: Path, usage: Path, stat: Path, reclaimable: str) -> list[int]:
    """Limit minus usage, where there is a limit; file cache that the kernel drops first counts as free."""
    try:
        text = limit.read_text().strip()
        if text == "max":
            return []
        fields = dict(line.split() for line in stat.read_text().splitlines())
        return [int(text) - int(usage.read_text()) + int(fields.get(reclaimable, 0))]
    except (OSError, ValueError):
        return []
