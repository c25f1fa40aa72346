"""The option `device`: what is refused, in which words, in every kind of build."""

from __future__ import annotations

import os

import pytest

from pydllm import LLM, _core
from pydllm.errors import InvalidRequestError, UnsupportedError

CUDA = _core.build_info()["cuda"]


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", 0, None])
def test_what_names_no_device_is_refused(device: object) -> None:
    with pytest.raises(InvalidRequestError, match="device: expected auto, cpu, cuda or cuda:N, got") as refused:
        LLM(device=device)  # type: ignore[arg-type]
    assert refused.value.field == "device"


def test_auto_is_the_cpu() -> None:
    with LLM(device="auto", max_model_len=64) as llm:
        assert llm.engine.loaded.info.device == "cpu"


def test_cublaslt_has_no_use_on_the_cpu() -> None:
    with pytest.raises(UnsupportedError, match=r"^matmul: cublaslt multiplies on a CUDA device, got cpu; ") as refused:
        LLM(device="cpu", matmul="cublaslt")
    assert refused.value.field == "matmul"
    for matmul in ("auto", "builtin"):
        with LLM(device="cpu", matmul=matmul, max_model_len=64) as llm:
            assert llm.engine.loaded.matmul == "builtin"


@pytest.mark.skipif(bool(CUDA["devices"]), reason="this machine has a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_without_a_device_the_message_says_why_and_what_to_do(device: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        LLM(device=device)
    assert refused.value.field == "device"
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith("device: ")
    assert "cpu" in message
    if not CUDA["built"]:
        assert "this build has no CUDA code" in message
    elif not os.path.exists("/dev/nvidiactl"):
        assert "no NVIDIA driver is installed" in message


@pytest.mark.skipif(not CUDA["devices"], reason="this machine has no CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="expected cuda:0"):
        LLM(device="cuda:99")
    with LLM(device="cuda", max_model_len=64) as llm:
        assert llm.engine.loaded.info.device == "cuda:0"
        free, total = _core.device_memory("cuda:0")
        assert 0 < free <= total
