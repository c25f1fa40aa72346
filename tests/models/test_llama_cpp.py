"""Logits against llama.cpp in float32: LLaDA, Dream and LLaDA-MoE (softmax router that does not renormalise, norms of
query and key heads). Another project's code, written from the originals without transformers."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import LLADA_8B, write_config
from first_logits import GOLDEN, FirstLogits, relative_error
from safetensors.numpy import save_file
from test_families_transformers import CASES, GENERATED, MASK, PROMPTS, Case
from transformers_models import write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "clients" / "llama" / "bin" / "python"
PEER = ROOT / "bench" / "peers" / "llama_peer.py"

pytestmark = pytest.mark.clients


class LlamaCpp:
    """A process of llama.cpp's peer of the benchmarks, float32 on one thread."""

    def __init__(self, folder: Path) -> None:
        if not PYTHON.exists():
            pytest.fail("build/clients/llama is missing: run `make clients` (or deselect with -m 'not clients')")
        self.folder = folder
        self.process = subprocess.Popen([PYTHON, PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str, **arguments: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({command: arguments}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer["error"]

    def logits(self, checkpoint: Path, canvases: list[list[int]]) -> list[np.ndarray]:
        """[canvas, vocabulary] of each."""
        file, array = self.folder / "model.gguf", self.folder / "logits.npy"
        self.ask("convert", checkpoint=str(checkpoint), path=str(file), kind="F32")
        longest = max(map(len, canvases))
        self.ask("load", path=str(file), kind="F32", threads=1, tokens=longest, flash_attention="off")
        found = []
        for canvas in canvases:
            self.ask("logits", kind="F32", tokens=canvas, path=str(array))
            found.append(np.load(array))
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def llama(tmp_path: Path) -> Any:
    peer = LlamaCpp(tmp_path)
    yield peer
    peer.close()


def expect_equal_logits(
    llama: LlamaCpp, checkpoint: Path, mask: int, record_property: Callable[[str, object], None]
) -> None:
    ours = FirstLogits(checkpoint, dtype="float32").of(PROMPTS, GENERATED)
    theirs = llama.logits(checkpoint, [prompt + [mask] * GENERATED for prompt in PROMPTS])
    errors = []
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        errors.append(relative_error(a, b))
        assert np.array_equal(a.argmax(-1), b.argmax(-1))
    record_property("figure", f"{checkpoint.name}: relative error {max(errors):.1e}")
    assert max(errors) < 5e-6


@pytest.mark.parametrize("case", [CASES[0], CASES[1]], ids=lambda case: case.architecture)
def test_logits_match_llama_cpp(
    tmp_path: Path, llama: LlamaCpp, case: Case, record_property: Callable[[str, object], None]
) -> None:
    config = case.config()
    folder = tmp_path / case.architecture
    write_checkpoint(folder, case.model(config), config)
    expect_equal_logits(llama, folder, MASK, record_property)


def test_logits_of_the_golden_llada_match_llama_cpp(
    llama: LlamaCpp, record_property: Callable[[str, object], None]
) -> None:
    expect_equal_logits(llama, GOLDEN / "checkpoints" / "llada-tiny", 332, record_property)


def test_logits_of_a_llada_with_grouped_heads_match_llama_cpp(
    tmp_path: Path, llama: LlamaCpp, record_property: Callable[[str, object], None]
) -> None:
    sizes = {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 83, "vocab_size": 303}
    folder = tmp_path / "llada-grouped"
    folder.mkdir()
    ids = {"embedding_size": 320, "mask_token_id": MASK, "eos_token_id": 300, "pad_token_id": 300}
    write_config(folder, LLADA_8B, **sizes, **ids, torch_dtype="float32", max_sequence_length=256)
    save_file(grouped_llada_tensors(), folder / "model.safetensors")
    expect_equal_logits(llama, folder, MASK, record_property)


def grouped_llada_tensors() -> dict[str, np.ndarray]:
    """Large enough that every layer matters."""
    layer = {"q_proj": (48, 48), "k_proj": (16, 48), "v_proj": (16, 48), "attn_out": (48, 48), "ff_proj": (83, 48)}
    layer |= {"up_proj": (83, 48), "ff_out": (48, 83), "attn_norm": (48,), "ff_norm": (48,)}
    shapes: dict[str, tuple[int, ...]] = {"wte": (320, 48), "ff_out": (320, 48), "ln_f": (48,)}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        values = random.normal(size=shape)
        scaled = values * 1.5 / shape[-1] ** 0.5 if len(shape) == 2 else 1 + 0.2 * values
        tensors[f"model.transformer.{name}.weight"] = scaled.astype(np.float32)
    return tensors
