"""GetModelInfo of every kind of model: each field is what the engine does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from pydllm_proto.v1 import generation_service_pb2 as generation
from pydllm_proto.v1 import model_service_pb2 as models
from pydllm_proto.v1 import types_pb2
from serving import Client, running

from pydllm.engine import EngineConfig
from pydllm.server.loading import load_served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHECKPOINTS = Path(__file__).parents[1] / "golden" / "checkpoints"


@contextlib.asynccontextmanager
async def serving(model: str, **options: Any) -> AsyncIterator[Client]:
    served = load_served(model, EngineConfig(threads=1, **options))
    try:
        async for client in running(served):
            yield client
    finally:
        await served.engine.close()


async def info_of(client: Client) -> models.GetModelInfoResponse:
    response: models.GetModelInfoResponse = await client.models.GetModelInfo(models.GetModelInfoRequest())
    return response


def facts(info: models.GetModelInfoResponse) -> tuple[Any, ...]:
    diffusion = info.diffusion
    lengths = (diffusion.default_block_length, list(diffusion.block_lengths))
    return (info.architecture, diffusion.algorithms[0], diffusion.attention_pattern, diffusion.supports_edits, *lengths)


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("llada-tiny", {}, ("LLaDAModelLM", "confidence_threshold", "bidirectional", False, 32, [])),
        ("llada-tiny", {"block_length": 8}, ("LLaDAModelLM", "confidence_threshold", "bidirectional", False, 8, [])),
        (
            "llada-tiny",
            {"algorithm_params": {"block_length": 4}},
            ("LLaDAModelLM", "confidence_threshold", "bidirectional", False, 4, []),
        ),
        ("dream-tiny", {}, ("DreamModel", "dream", "bidirectional", False, 0, [])),
        ("llada2-tiny", {}, ("LLaDA2MoeModelLM", "levenshtein", "block_causal", True, 32, [32])),
        (
            "llada2-tiny",
            {"block_length": 8, "algorithm": "low_confidence"},
            ("LLaDA2MoeModelLM", "low_confidence", "block_causal", True, 8, [8]),
        ),
    ],
)
async def test_facts_are_those_of_the_family_and_its_options(
    model: str, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    async with serving(str(CHECKPOINTS / model), **options) as client:
        info = await info_of(client)
    assert facts(info) == expected
    assert not info.diffusion.supports_constraints
    most = 2048 if expected[2] == "block_causal" else 256
    assert json.loads(info.default_sampling_json)["max_tokens"] == most


async def test_the_parameters_listed_are_those_that_a_request_may_set() -> None:
    async with serving(str(CHECKPOINTS / "llada2-tiny"), block_length=8, algorithm="near_max") as client:
        diffusion = (await info_of(client)).diffusion
        listed = {one.name for one in diffusion.params if one.algorithm == "near_max"}
        assert listed == {"confidence_threshold", "max_steps_per_block"}
        assert diffusion.default_block_length == 8
        for name, params in (
            ("cache", types_pb2.DiffusionParams(cache="dual")),
            ("remasking", types_pb2.DiffusionParams(extra={"remasking": "random"})),
        ):
            request = generation.GenerateRequest(prompt_token_ids=types_pb2.TokenIds(ids=[1]), diffusion=params)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.generation.Generate(request)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert f"{name}: algorithm near_max has it for models with full attention only" in caught.value.details()


async def test_a_request_may_say_the_block_lengths_that_are_accepted() -> None:
    async with serving("demo-block") as client:
        diffusion = (await info_of(client)).diffusion
        [length] = diffusion.block_lengths
        for algorithm in diffusion.algorithms:
            params = types_pb2.DiffusionParams(algorithm=algorithm, block_length=length)
            sampling = types_pb2.SamplingParams(max_tokens=4)
            request = generation.GenerateRequest(prompt="1", sampling=sampling, diffusion=params)
            assert (await client.generation.Generate(request)).candidates
    assert {one.algorithm for one in diffusion.params} <= set(diffusion.algorithms)
