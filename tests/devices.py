"""The device that the recordings and the numerical tests run on: "cpu", or what PYDLLM_TEST_DEVICE names."""

import os

DEVICE = os.environ.get("PYDLLM_TEST_DEVICE", "cpu")
