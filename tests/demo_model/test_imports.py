"""Serving needs nothing of the training stack: an engine process that answered has imported none of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAINING_STACK = ("torch", "numpy", "safetensors", "transformers", "scipy")
ANSWER = """
import asyncio, sys
from pydllm.engine import EngineConfig
from pydllm.llm import LLM
import pydllm.server.app  # the engine process of `pydllm serve`
import pydllm_gateway.app
with LLM({model!r}) as llm:
    [output] = llm.chat([{{"role": "user", "content": "Solve: 12 + 30."}}])
print(output.text)
print(*sys.modules)
"""


@pytest.mark.parametrize("model", ["demo", "demo-block"])
def test_an_answer_imports_nothing_of_the_training_stack(model: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANSWER.format(model=model)], capture_output=True, text=True, check=True, timeout=60
    )
    text, modules = done.stdout.splitlines()
    assert text == "12 + 30 = 42"
    loaded = {name.partition(".")[0] for name in modules.split()}
    assert not loaded & set(TRAINING_STACK)
