"""A model of tensors that another library holds is the model of the file with the same tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICE
from first_logits import GOLDEN, FirstLogits
from safetensors.torch import load_file

from pydllm import _core
from pydllm.checkpoint import open_checkpoint

PROMPT = [5, 9, 70]
NAMES = ("llada-tiny", "dream-tiny", "llada2-tiny")


def stored(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "checkpoints" / name / "model.safetensors")


def on_device(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    work = _core.ops.Workplace(device=DEVICE)
    return {name: work.copy_of(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_the_file(name: str, dtype: str) -> None:
    checkpoint = GOLDEN / "checkpoints" / name
    block = 8 if name == "llada2-tiny" else None
    tensors = stored(name)
    narrow = {key: value.to(getattr(torch, dtype)) for key, value in tensors.items()}
    [expected] = FirstLogits(checkpoint, dtype=dtype, block_length=block).of([PROMPT], 5)
    for given in (tensors, on_device(tensors)):
        [logits] = FirstLogits(checkpoint, dtype=dtype, block_length=block, tensors=given).of([PROMPT], 5)
        assert np.array_equal(logits, expected)
    if name != "llada2-tiny":  # its router reads float32
        [logits] = FirstLogits(checkpoint, dtype=dtype, tensors=on_device(narrow)).of([PROMPT], 5)
        assert np.allclose(logits, expected, atol=0.05 if dtype == "bfloat16" else 0)


def load(tensors: Any, **more: Any) -> _core.Model:
    checkpoint = open_checkpoint(GOLDEN / "checkpoints" / "llada-tiny")
    return _core.load_model(checkpoint.config, tensors=tensors, device=DEVICE, threads=1, **more)


def refused(tensors: Any, kind: type[_core.CoreError], **more: Any) -> str:
    with pytest.raises(kind) as caught:
        load(tensors, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrong_set_of_tensors_is_named() -> None:
    tensors, norm = stored("llada-tiny"), "model.transformer.ln_f.weight"
    without = {name: tensor for name, tensor in tensors.items() if name != norm}
    assert (
        refused(without, _core.InvalidCheckpoint)
        == f"tensor '{norm}': missing, expected shape [64] (the config's hidden_size)"
    )
    assert "expected shape [64], got [63]" in refused({**without, norm: torch.ones(63)}, _core.InvalidCheckpoint)
    wrong = refused({**without, norm: torch.ones(64, dtype=torch.int32)}, _core.InvalidCheckpoint)
    assert wrong == f"tensor '{norm}': expected F32, BF16 or F16, got int32"
    assert "expected no other tensors, got more" in refused({**tensors, "more": torch.ones(1)}, _core.InvalidCheckpoint)
    assert load({**tensors, "more": torch.ones(1)}, allow_unused=True).info.parameter_count > 0


def test_tensors_and_shards_exclude_each_other() -> None:
    message = refused(stored("llada-tiny"), _core.InvalidRequest, shards=["model.safetensors"])
    assert message == "tensors: expected no shards beside them"
    assert refused([1], _core.InvalidRequest).startswith("tensors: expected a mapping")
