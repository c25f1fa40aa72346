"""The peer that runs llama.cpp's library, in the environment build/clients/llama: the protocol is that of answering.py.

A forward is one llama_decode of the whole canvas. llama.cpp has no K/V cache for diffusion models and computes the
logits of every position.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
from answering import answer, clocked
from gguf_file import write_gguf

# One line a forward says that a model without a cache encodes instead: that is what is wanted.
QUIET = llama_cpp.llama_log_callback(lambda *_: None)
FLASH_ATTENTION = {"off": 0, "on": 1, "auto": -1}


class Model:
    """A loaded file and a context for canvases of up to `tokens` positions."""

    def __init__(self, path: str, threads: int, tokens: int, flash_attention: str) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_mmap = False  # memory of the process, on huge pages like that of the other peers
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            raise ValueError(f"llama.cpp cannot load {path}")
        context = llama_cpp.llama_context_default_params()
        # Attention without a mask of the past needs the whole canvas in one micro-batch.
        context.n_ctx = context.n_batch = context.n_ubatch = tokens
        context.n_threads = context.n_threads_batch = threads
        context.flash_attn_type = FLASH_ATTENTION[flash_attention]
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise ValueError(f"llama.cpp cannot make a context of {tokens} positions")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(tokens, 0, 1)

    def forward(self, tokens: list[int]) -> None:
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i] = token, i
            self.batch.n_seq_id[i], self.batch.seq_id[i][0], self.batch.logits[i] = 1, 0, 1
        code = llama_cpp.llama_decode(self.context, self.batch)
        if code:
            raise ValueError(f"llama_decode of {len(tokens)} positions returned {code}")

    def logits(self, tokens: list[int]) -> np.ndarray:
        """[tokens, vocabulary], float32."""
        self.forward(tokens)
        size = len(tokens) * self.vocabulary
        pointer = ctypes.cast(llama_cpp.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (size,)).reshape(len(tokens), self.vocabulary).copy()

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


class Peer:
    """The models of this process, by type."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}

    def convert(self, checkpoint: str, path: str, kind: str) -> dict[str, object]:
        part = Path(path + ".part")
        write_gguf(Path(checkpoint), part, kind)
        part.rename(path)
        return {"bytes": Path(path).stat().st_size}

    def load(self, path: str, kind: str, threads: int, tokens: int, flash_attention: str) -> dict[str, object]:
        if kind in self.models:
            self.models.pop(kind).close()
        self.models[kind] = Model(path, threads, tokens, flash_attention)
        return {
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "system": llama_cpp.llama_print_system_info().decode(),
        }

    def logits(self, kind: str, tokens: list[int], path: str) -> dict[str, object]:
        np.save(path, self.models[kind].logits(tokens))
        return {}

    def time(self, kind: str, tokens: list[int], forwards: int) -> dict[str, float]:
        """Of all `forwards` together; the logits lie in the library's memory afterwards."""
        return clocked(lambda: [self.models[kind].forward(tokens) for _ in range(forwards)])


def main() -> None:
    llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    peer = Peer()
    answer({"convert": peer.convert, "load": peer.load, "logits": peer.logits, "time": peer.time})


if __name__ == "__main__":
    main()
