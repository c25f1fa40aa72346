"""The options of an engine, checked once at the edge."""

from __future__ import annotations

import dataclasses
import numbers
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydllm.errors import InvalidRequestError
from pydllm.params import MAX_INT32, ParamScalar, param_scalars, shown, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPES = ("auto", "float32", "bfloat16", "float16")
MATMULS = ("auto", "cublaslt", "builtin")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Limits and choices of one engine. Wrong values raise InvalidRequestError or UnsupportedError naming the
    option."""

    device: str = "auto"
    """ "cpu", "cuda" (the first device) or "cuda:N"; "auto" is "cpu" until the kernels have been proven on a GPU."""
    dtype: str = "auto"
    """Compute and storage type of the weights: "auto" (the checkpoint's), "float32", "bfloat16" or
    "float16"."""
    matmul: str = "auto"
    """Who multiplies bfloat16 matrices on a CUDA device: "cublaslt" (NVIDIA's library, found at the start), "builtin"
    (this build's kernels) or "auto": the first where it is found."""
    max_model_len: int | None = None
    """Prompt plus max_tokens; the model's own limit when unset."""
    max_batched_tokens: int = 4096
    """Tokens of one forward; a single larger request runs alone."""
    max_running_requests: int = 64
    max_waiting_requests: int = 1024
    page_size: int = 32
    """Positions per K/V page."""
    kv_cache_tokens: int | None = None
    """Positions of K/V in all. Unset: enough for max_running_requests full contexts within mem_fraction."""
    mem_fraction: float = 0.5
    """Share of the device's memory that is free after loading the weights that the K/V pages may take, (0, 1]."""
    max_logit_rows: int = 256
    """Rows of logits in memory at once."""
    threads: int = 0
    """0: one per usable core."""
    mask_token_id: int | None = None
    """Overrides the checkpoint's."""
    algorithm: str = ""
    """Default decoding algorithm; empty: the architecture's."""
    block_length: int | None = None
    """Tokens denoised together. Block-causal models: the model's block, over config.json's block_size. Full attention:
    the default of requests; unset: the checkpoint's generation_config, then the algorithm's."""
    algorithm_params: Mapping[str, ParamScalar] = field(default_factory=dict)
    """Defaults for parameters of the default algorithm, by name or alias, for requests that run it and leave them
    unset. Checked against the algorithm's table when the model is found."""
    allow_unused_tensors: bool = False
    """Load a checkpoint that has tensors the model does not use."""
    debug_checks: bool = False
    """Integrity check after every step; freed pages are poisoned with NaN."""

    def __post_init__(self) -> None:
        _check_device(self.device)
        if self.dtype not in DTYPES:
            raise InvalidRequestError("dtype", f"dtype: expected one of {', '.join(DTYPES)}, got {shown(self.dtype)}")
        if self.matmul not in MATMULS:
            message = f"matmul: expected one of {', '.join(MATMULS)}, got {shown(self.matmul)}"
            raise InvalidRequestError("matmul", message)
        for name, low in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(name, value, low, MAX_INT32))
        _check_fraction(self.mem_fraction)
        if not isinstance(self.algorithm, str):
            raise InvalidRequestError("algorithm", f"algorithm: expected a string, got {shown(self.algorithm)}")
        object.__setattr__(self, "algorithm_params", param_scalars("algorithm_params", self.algorithm_params))
        for name in ("allow_unused_tensors", "debug_checks"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequestError(name, f"{name}: expected true or false, got {shown(getattr(self, name))}")

    @classmethod
    def from_options(cls, **options: object) -> EngineConfig:
        """Like the constructor, but an unknown option is an InvalidRequestError that lists the known ones."""
        known = [option.name for option in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise InvalidRequestError(name, f"{name}: no such engine option; expected one of {', '.join(known)}")
        return cls(**options)  # type: ignore[arg-type]


_INTEGERS = {
    "max_model_len": 2,
    "max_batched_tokens": 1,
    "max_running_requests": 1,
    "max_waiting_requests": 1,
    "page_size": 1,
    "kv_cache_tokens": 1,
    "max_logit_rows": 1,
    "threads": 0,
    "mask_token_id": 0,
    "block_length": 1,
}


_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,4})?")


def _check_device(device: object) -> None:
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise InvalidRequestError("device", f"device: expected auto, cpu, cuda or cuda:N, got {shown(device)}")


def _check_fraction(value: object) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < float(value) <= 1:  # type: ignore[arg-type]
        raise InvalidRequestError("mem_fraction", f"mem_fraction: expected a number in (0, 1], got {shown(value)}")
