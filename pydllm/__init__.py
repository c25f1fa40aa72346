"""Serving diffusion language models. Names load on first use: importing this package is light and touches no
file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydllm.canvas import Canvas, Hole
    from pydllm.llm import LLM, AsyncLLM
    from pydllm.outputs import GenerationOutput, StreamEvent, Trace
    from pydllm.params import DiffusionParams, SamplingParams

_MODULE_OF = {
    "AsyncLLM": "pydllm.llm",
    "Canvas": "pydllm.canvas",
    "DiffusionParams": "pydllm.params",
    "GenerationOutput": "pydllm.outputs",
    "Hole": "pydllm.canvas",
    "LLM": "pydllm.llm",
    "SamplingParams": "pydllm.params",
    "StreamEvent": "pydllm.outputs",
    "Trace": "pydllm.outputs",
}

__all__ = [
    "LLM",
    "AsyncLLM",
    "Canvas",
    "DiffusionParams",
    "GenerationOutput",
    "Hole",
    "SamplingParams",
    "StreamEvent",
    "Trace",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
