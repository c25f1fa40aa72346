"""What a call leaves behind."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2
from serving import refused

if TYPE_CHECKING:
    from serving import Client


def requests_alive() -> list[pb.GenerateRequest | pb.StreamGenerateRequest]:
    kinds = (pb.GenerateRequest, pb.StreamGenerateRequest)
    return [one for one in gc.get_objects() if type(one) in kinds]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refused_request_is_forgotten_without_the_garbage_collector(scripted: Client, streamed: bool) -> None:
    """Refused requests may be as large as messages may be, and full collections are rare."""
    request = pb.GenerateRequest(prompt="x", sampling=types_pb2.SamplingParams(stop=["x"] * 17))
    call = scripted.generation.StreamGenerate if streamed else scripted.generation.Generate
    gc.collect()
    before = {id(one) for one in requests_alive()}
    gc.disable()
    try:
        for _ in range(3):
            await refused(call(pb.StreamGenerateRequest(request=request) if streamed else request))
        kept = [one for one in requests_alive() if id(one) not in before]
    finally:
        gc.enable()
    assert len(kept) <= 1  # the last one may still be on its way out
