"""The body of POST /generate as Diffulex's clients send it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import WrapValidator

from pydllm_gateway.schemas.common import Body, DllmOptions, Float, UInt32
from pydllm_gateway.schemas.unions import prompt


class DiffulexRequest(Body):
    """All of Diffulex's fields, and pydllm's `dllm`."""

    prompt: Annotated[str | list[UInt32], WrapValidator(prompt)]
    max_tokens: UInt32 | None = None
    temperature: Float | None = None
    max_nfe: UInt32 | None = None
    """Most forward passes; what is final by then is the answer."""
    max_repetition_run: UInt32 | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_mode: Literal["block_append", "denoise"] | None = None
    """Unset is Diffulex's default, denoise."""
    user: str | None = None
    dllm: DllmOptions | None = None
