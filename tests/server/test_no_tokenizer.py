"""--skip-tokenizer: token ids in and out; every field that needs text is refused by name."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import model_service_pb2, types_pb2
from pydllm_proto.v1 import tokenizer_service_pb2 as tokenizer_pb
from serving import DEMO, Client, refused, running

from pydllm.engine import EngineConfig
from pydllm.errors import CheckpointError
from pydllm.server.loading import load_served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pydllm.server.served import Served

Code = grpc.StatusCode
CHAT = types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content="Solve: 12 + 30.")])


@pytest.fixture(scope="session")
def bare_served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The demo model from a directory that has no tokenizer at all."""
    directory = tmp_path_factory.mktemp("bare")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(DEMO / name, directory)
    return load_served(str(directory), EngineConfig(threads=1), served_model_name="bare", skip_tokenizer=True)


@pytest.fixture
async def bare(bare_served: Served) -> AsyncIterator[Client]:
    async for client in running(bare_served):
        yield client


def ids_request(ids: list[int], **fields: Any) -> pb.GenerateRequest:
    sampling = types_pb2.SamplingParams(max_tokens=16)
    return pb.GenerateRequest(prompt_token_ids=types_pb2.TokenIds(ids=ids), sampling=sampling, **fields)


async def test_ids_get_the_ids_that_a_server_with_a_tokenizer_gives(bare: Client, demo: Client) -> None:
    rendered = await demo.tokenizer.Tokenize(tokenizer_pb.TokenizeRequest(chat=CHAT))
    ids = list(rendered.token_ids)
    asked = ids_request(ids, output=types_pb2.OutputOptions(token_ids=True))
    expected = (await demo.generation.Generate(asked)).candidates[0]
    candidate = (await bare.generation.Generate(ids_request(ids))).candidates[0]
    assert list(candidate.token_ids) == list(expected.token_ids) != []
    assert (candidate.text, candidate.finish_reason) == ("", expected.finish_reason)
    stream = bare.generation.StreamGenerate(pb.StreamGenerateRequest(request=ids_request(ids)))
    blocks = [message.block_appended async for message in stream if message.HasField("block_appended")]
    assert [token for block in blocks for token in block.token_ids] == list(expected.token_ids)
    assert {block.text for block in blocks} == {""}


REFUSED = {
    "prompt": pb.GenerateRequest(prompt="x"),
    "chat": pb.GenerateRequest(chat=CHAT),
    "sampling.stop": pb.GenerateRequest(
        prompt_token_ids=types_pb2.TokenIds(ids=[1]), sampling=types_pb2.SamplingParams(stop=["x"])
    ),
    "sampling.include_stop": pb.GenerateRequest(
        prompt_token_ids=types_pb2.TokenIds(ids=[1]), sampling=types_pb2.SamplingParams(include_stop=True)
    ),
    "output.echo": ids_request([1], output=types_pb2.OutputOptions(echo=True)),
    "output.skip_special_tokens": ids_request([1], output=types_pb2.OutputOptions(skip_special_tokens=False)),
}


@pytest.mark.parametrize(("field", "request_"), REFUSED.items(), ids=REFUSED.keys())
async def test_what_needs_text_is_refused_by_name(field: str, request_: pb.GenerateRequest, bare: Client) -> None:
    failure = await refused(bare.generation.Generate(request_))
    assert (failure.code, failure.fields) == (Code.UNIMPLEMENTED, [field])
    assert failure.message == f"{field}: this server runs without a tokenizer; it takes and gives token ids only"


async def test_snapshots_have_ids_but_no_text(bare: Client) -> None:
    options = pb.StreamOptions(mode=pb.STREAM_MODE_SNAPSHOTS, snapshot_text=True)
    request = ids_request([40, 41])
    call = bare.generation.StreamGenerate(pb.StreamGenerateRequest(request=request, options=options))
    assert (await refused(call)).fields == ["options.snapshot_text"]
    options = pb.StreamOptions(mode=pb.STREAM_MODE_SNAPSHOTS, min_interval={})
    call = bare.generation.StreamGenerate(pb.StreamGenerateRequest(request=request, options=options))
    shown = [message.block_snapshot async for message in call if message.HasField("block_snapshot")]
    assert all(snapshot.token_ids and not snapshot.text for snapshot in shown)


async def test_the_tokenizer_service_is_refused(bare: Client) -> None:
    for call in (
        bare.tokenizer.Tokenize(tokenizer_pb.TokenizeRequest(text="x")),
        bare.tokenizer.Tokenize(tokenizer_pb.TokenizeRequest(chat=CHAT)),
        bare.tokenizer.Detokenize(tokenizer_pb.DetokenizeRequest(token_ids=[1])),
        bare.tokenizer.GetTokenizerInfo(tokenizer_pb.GetTokenizerInfoRequest()),
    ):
        failure = await refused(call)
        assert failure.code is Code.UNIMPLEMENTED
        assert "runs without a tokenizer" in failure.message


async def test_the_model_says_that_it_has_no_template(bare: Client) -> None:
    info = await bare.models.GetModelInfo(model_service_pb2.GetModelInfoRequest())
    assert (info.summary.name, info.has_chat_template) == ("bare", False)


def test_without_the_option_a_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_served(str(tmp_path), EngineConfig(threads=1))
