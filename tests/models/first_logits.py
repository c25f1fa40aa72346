"""The logits of a checkpoint's first forward, through the whole engine."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from devices import DEVICE

from pydllm import _core
from pydllm.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden"


class FirstLogits:
    """Runs one forward per request through an engine."""

    def __init__(
        self,
        directory: Path,
        *,
        dtype: str = "auto",
        block_length: int | None = None,
        threads: int = 1,
        tensors: Mapping[str, object] | None = None,
    ) -> None:
        """`tensors`: in place of those that the directory holds."""
        checkpoint = open_checkpoint(directory, dtype=dtype, block_length=block_length)
        self.block_length = checkpoint.block_length
        shards = checkpoint.shards if tensors is None else ()
        model = _core.load_model(checkpoint.config, shards, tensors=tensors, device=DEVICE, threads=threads)
        options = {
            "max_model_len": 256,
            "max_batched_tokens": 512,
            "max_running_requests": 8,
            "max_waiting_requests": 64,
            "page_size": 16,
            "pages": 64,
            "max_logit_rows": 64,
            "mask_token_id": checkpoint.mask_token_id,
            "debug_checks": True,
        }
        self._engine = _core.Engine(model, options, threads=threads)

    def of(self, prompts: list[list[int]], gen_length: int) -> list[np.ndarray]:
        """Logits [window, vocab] of the first denoising forward of each prompt, all in flight at once: of the whole
        canvas with full attention, of the first generated token's block with block-causal attention."""
        full = {"threshold": 0.0, "block_length": gen_length}
        ids = [
            self._engine.submit(
                prompt,
                max_tokens=gen_length,
                algorithm="low_confidence" if self.block_length else "confidence_threshold",
                params={"threshold": 0.0} if self.block_length else full,
                trace=True,
            )
            for prompt in prompts
        ]
        found: dict[int, np.ndarray] = {}
        ended: set[int] = set()
        while len(ended) < len(ids):
            assert self._engine.wait(30.0), "no event within 30 s"
            for event in self._engine.drain():
                if event.first_logits is not None:
                    found[event.id] = np.from_dlpack(event.first_logits).copy()
                if event.kind in ("finished", "failed"):
                    assert event.kind == "finished", event.message
                    ended.add(event.id)
        return [found[request] for request in ids]


def relative_error(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
