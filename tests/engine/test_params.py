"""What may stand in SamplingParams and DiffusionParams, and what the errors say."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydllm import DiffusionParams, SamplingParams
from pydllm.errors import InvalidRequestError

NO_NUMBERS = [True, "1", b"1", [1], {}, 1j, float("nan"), float("inf"), -math.inf, 10**400]
NO_INTEGERS = [True, 1.0, "1", [1], float("nan"), 10**400, np.float32(1), Fraction(2)]


def refused(kind: type, field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        kind(**{field.split(".")[1]: value})
    assert caught.value.field.startswith(field)
    assert str(caught.value).startswith(field)
    assert "expected" in str(caught.value)
    assert "got" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 0.0, 100, 1e-9, np.float32(0.5), Fraction(1, 2)], [-1e-9, 100.1, *NO_NUMBERS]),
        ("top_p", [1, 1e-9, np.float16(0.5)], [0, 0.0, 1.1, -1, *NO_NUMBERS]),
        ("top_k", [0, 1, 2**31 - 1, np.int8(5)], [-1, 2**31, *NO_INTEGERS]),
        ("seed", [0, 2**64 - 1, np.uint64(2**64 - 1)], [-1, 2**64, *NO_INTEGERS]),
        ("max_tokens", [1, 2**31 - 1], [0, -1, 2**31, *NO_INTEGERS]),
        ("min_p", [0, 1, 0.05], [-0.1, 1.1, *NO_NUMBERS]),
        ("repetition_penalty", [1e-9, 1, 100], [0, -1, 100.1, *NO_NUMBERS]),
        ("presence_penalty", [-2, 0, 2.0], [-2.1, 2.1, *NO_NUMBERS]),
        ("frequency_penalty", [-2, 0, 2.0], [-2.1, 2.1, *NO_NUMBERS]),
        ("min_tokens", [0, 1, 2**31 - 1], [-1, 2**31, *NO_INTEGERS]),
        ("max_repetition_run", [0, 2, 2**31 - 1, np.int8(5)], [1, -1, 2**31, *NO_INTEGERS]),
        ("n", [1, 128], [0, 129, *NO_INTEGERS]),
        ("include_stop", [True, False], [0, 1, "yes"]),
        ("ignore_eos", [True, False], [0, 1, "yes"]),
        (
            "stop",
            [(), ["a"], "a", ("é" * 1024,), ["x"] * 16],
            ["", [""], ["a" * 1025], ["x"] * 17, [1], 5, {"a": 1}],
        ),
        (
            "stop_token_ids",
            [(), [0], list(range(64)), np.arange(3)],
            [[-1], [2**31], list(range(65)), 5, ["1"], "12"],
        ),
        (
            "logit_bias",
            [{}, {0: -100, 5: 100.0}, {np.int32(3): np.float32(0.5)}],
            [None, 5, [1], "1", {-1: 0}, {2**31: 0}, {"1": 0}, {1.0: 0}, {1: 100.5}, {1: -101}, {1: None}, {1: "x"}],
        ),
    ],
)
def test_sampling_ranges(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in [None, *good] if not field.startswith(("stop", "logit_bias")) else good:
        SamplingParams(**{field: value})
    for value in bad:
        refused(SamplingParams, f"sampling.{field}", value)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("algorithm", ["", "anything"], [None, 5, b"x"]),
        ("block_length", [1, 2**31 - 1], [0, -1, 2**31, *NO_INTEGERS]),
        ("max_steps_per_block", [1], [0, *NO_INTEGERS]),
        ("max_forward_passes", [1, 2**31 - 1], [0, -1, 2**31, *NO_INTEGERS]),
        ("confidence_threshold", [0, 0.9, 1], NO_NUMBERS),
        ("entropy_threshold", [0, 0.5], NO_NUMBERS),
        ("cache", ["none", "prefix", "anything"], [5, b"dual", True]),
        ("cache_refresh_interval", [0, 1, 2**31 - 1], [-1, 2**31, *NO_INTEGERS]),
        ("allow_edits", [True, False], [0, 1, "true"]),
        ("edit_threshold", [0, 0.5], NO_NUMBERS),
        (
            "extra",
            [{}, {"a": 1, "b": True, "c": "x", "d": 0.5}],
            [None, [1], {1: 2}, {"a": None}, {"a": [1]}],
        ),
    ],
)
def test_diffusion_types(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        DiffusionParams(**{field: value})
    for value in bad:
        refused(DiffusionParams, f"diffusion.{field}", value)


@pytest.mark.parametrize("value", [float("nan"), math.inf, 2**63, -(2**63) - 1])
def test_extra_numbers_are_finite_and_fit(value: float) -> None:
    refused(DiffusionParams, "diffusion.extra", {"steps": value})


def test_a_repetition_run_of_one_is_refused_with_the_range() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(max_repetition_run=1)
    assert str(caught.value) == "sampling.max_repetition_run: expected 0 or an integer in [2, 2147483647], got 1"


def test_values_become_plain_python() -> None:
    sampling = SamplingParams(
        temperature=np.float32(0.5), top_k=np.int64(3), stop=["a", "b"], stop_token_ids=np.arange(2)
    )
    assert type(sampling.temperature) is float
    assert type(sampling.top_k) is int
    assert sampling.stop == ("a", "b")
    assert sampling.stop_token_ids == (0, 1)
    assert SamplingParams(stop="end").stop == ("end",)


def test_extra_is_copied() -> None:
    given_extra = {"steps": 4}
    params = DiffusionParams(extra=given_extra)
    given_extra["steps"] = 5
    assert params.extra == {"steps": 4}


def test_parameters_are_frozen_and_replaceable() -> None:
    params = SamplingParams(max_tokens=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.max_tokens = 5  # type: ignore[misc]
    assert dataclasses.replace(params, seed=1) == SamplingParams(max_tokens=4, seed=1)
    with pytest.raises(InvalidRequestError):
        dataclasses.replace(params, seed=-1)


@given(st.floats())
def test_temperature_accepts_exactly_its_range(value: float) -> None:
    if 0 <= value <= 100:
        assert SamplingParams(temperature=value).temperature == value
    else:
        refused(SamplingParams, "sampling.temperature", value)


@given(st.integers(-(2**70), 2**70))
def test_seed_accepts_exactly_its_range(value: int) -> None:
    if 0 <= value < 2**64:
        assert SamplingParams(seed=value).seed == value
    else:
        refused(SamplingParams, "sampling.seed", value)
