"""The device that the recordings and the numerical tests run on: "cpu", or what PYDLLM_TEST_DEVICE names."""

import os

DEVICE = os.environ.get("PYDLLM_TEST_DEVICE", "cpu")


def op_devices() -> list[str]:
    """Where the tests of single ops run: everywhere that this build can, or only on what PYDLLM_TEST_DEVICE names."""
    from pydllm import _core

    if "PYDLLM_TEST_DEVICE" in os.environ:
        return [DEVICE]
    return ["cpu", *(f"cuda:{index}" for index in range(len(_core.build_info()["cuda"]["devices"])))]
