"""The peer that runs the whole engine: scheduling, forward, row statistics, decoding, events.

The protocol is that of answering.py.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
from answering import answer, clocked

from pydllm import LLM, DiffusionParams, SamplingParams, _core

if TYPE_CHECKING:
    from pydllm.outputs import Trace


class Peer:
    """One loaded model; the last `generated` of a request's positions are one block."""

    def load(self, path: str, dtype: str, threads: int, tokens: int) -> dict[str, object]:
        self.llm = LLM(path, dtype=dtype, threads=threads, max_model_len=tokens, max_running_requests=1)
        return {"version": f"pydllm {metadata.version('pydllm')}", "system": _core.build_info()["cpu"][dtype]}

    def parameters(self, generated: int, threshold: float, cache: str) -> dict[str, object]:
        """Threshold 0 fills the block in one forward, 1 writes one token a forward: random weights are never sure."""
        extra = DiffusionParams(
            algorithm="confidence_threshold",
            confidence_threshold=threshold,
            block_length=generated,
            cache=cache,
        )
        return {"sampling": SamplingParams(max_tokens=generated, ignore_eos=True), "diffusion": extra}

    def trace(
        self, prompt: list[int], generated: int, threshold: float, cache: str, path: str = ""
    ) -> dict[str, object]:
        """The canvas before each forward; with `path` the first one's logits of every position, in the model's rows."""
        trace: Trace = self.llm.trace(prompt, **self.parameters(generated, threshold, cache))
        if path:
            np.save(path, np.from_dlpack(trace.first_logits))
        return {"canvases": trace.canvases}

    def time(self, prompt: list[int], generated: int, threshold: float, cache: str, forwards: int) -> dict[str, float]:
        """Of one request. Raises ValueError unless it took `forwards` forward passes."""
        outputs = []

        def request() -> None:
            outputs.extend(self.llm.generate(prompt, progress=False, **self.parameters(generated, threshold, cache)))

        seconds = clocked(request)
        if outputs[0].stats.forward_passes != forwards:
            raise ValueError(f"forward passes: expected {forwards}, got {outputs[0].stats.forward_passes}")
        return seconds


if __name__ == "__main__":
    peer = Peer()
    answer({"load": peer.load, "trace": peer.trace, "time": peer.time})
