"""Request parameters: frozen dataclasses with the names of proto/pydllm/v1/types.proto.

`None` means unset: the checkpoint's generation_config, then the default. An explicit 0 is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when generation ends."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool | None = None
    ignore_eos: bool | None = None
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class DiffusionParams:
    """What is specific to diffusion decoding."""

    algorithm: str = ""
    block_length: int | None = None
    max_steps_per_block: int | None = None
    max_forward_passes: int | None = None
    confidence_threshold: float | None = None
    entropy_threshold: float | None = None
    extra: Mapping[str, bool | int | float | str] = field(default_factory=dict)
