"""TokenizerService and ModelService with the demo model."""

from __future__ import annotations

import json

import grpc
import pytest
import tokenizers
from demo_facts import VOCABULARY
from pydllm_proto.v1 import model_service_pb2 as models
from pydllm_proto.v1 import tokenizer_service_pb2 as pb
from pydllm_proto.v1 import types_pb2
from serving import DEMO, Client, refused

TEXTS = ["", "12 + 30", "Größe: ½ € – 東京 👍", "<|eot_id|>x", "a" * 10_000]


@pytest.fixture(scope="module")
def reference() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [None, True, False])
async def test_tokenize_gives_the_ids_of_tokenizers(
    text: str, special: bool | None, demo: Client, reference: tokenizers.Tokenizer
) -> None:
    out = await demo.tokenizer.Tokenize(pb.TokenizeRequest(text=text, add_special_tokens=special))
    assert list(out.token_ids) == reference.encode(text, add_special_tokens=special is not False).ids
    assert out.max_context_length == 256
    assert not out.tokens
    assert not out.rendered_text


async def test_token_bytes_add_up_to_the_text(demo: Client) -> None:
    request = pb.TokenizeRequest(text=TEXTS[2], add_special_tokens=False, with_tokens=True)
    out = await demo.tokenizer.Tokenize(request)
    assert b"".join(out.tokens).decode() == TEXTS[2]


async def test_chat_is_rendered_and_gets_no_further_special_tokens(
    demo: Client, reference: tokenizers.Tokenizer
) -> None:
    chat = types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content=" hi ")])
    out = await demo.tokenizer.Tokenize(pb.TokenizeRequest(chat=chat))
    expected = (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert out.rendered_text == expected
    assert list(out.token_ids) == reference.encode(expected, add_special_tokens=False).ids


async def test_tokenize_needs_an_input(demo: Client) -> None:
    failure = await refused(demo.tokenizer.Tokenize(pb.TokenizeRequest()))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["text"])


@pytest.mark.parametrize("skip", [None, True, False])
async def test_detokenize_drops_special_tokens_unless_told_otherwise(skip: bool | None, demo: Client) -> None:
    ids = [2, 22, 23, 5]
    out = await demo.tokenizer.Detokenize(pb.DetokenizeRequest(token_ids=ids, skip_special_tokens=skip))
    assert out.text == ("<|startoftext|>12<|eot_id|>" if skip is False else "12")


@pytest.mark.parametrize("bad", [VOCABULARY, 2**31, 2**32 - 1])
async def test_detokenize_names_the_id_that_is_no_token(bad: int, demo: Client) -> None:
    failure = await refused(demo.tokenizer.Detokenize(pb.DetokenizeRequest(token_ids=[22, bad])))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["token_ids[1]"])


async def test_tokenizer_info_names_the_special_tokens(demo: Client) -> None:
    info = await demo.tokenizer.GetTokenizerInfo(pb.GetTokenizerInfoRequest(model="demo"))
    config = json.loads((DEMO / "tokenizer_config.json").read_text())
    for name in ("bos", "eos", "pad", "mask"):
        assert getattr(info, name).text == config[f"{name}_token"]
    assert (info.bos.id, info.eos.id, info.mask.id) == (2, 0, 1)
    assert info.chat_template == config["chat_template"]


async def test_model_info_tells_the_facts_and_no_path(demo: Client) -> None:
    listed = (await demo.models.ListModels(models.ListModelsRequest())).models
    info = await demo.models.GetModelInfo(models.GetModelInfoRequest())
    assert [summary.name for summary in listed] == ["demo"]
    assert info.summary == listed[0]
    assert info.architecture == "LLaDAModelLM"
    assert info.vocab_size == VOCABULARY
    assert info.parameter_count == 2_127_936
    assert info.dtype == "bfloat16"
    assert list(info.eos_token_ids) == [0, 5]
    assert info.diffusion.algorithms[0] == "confidence_threshold"
    assert {"confidence_threshold", "llada_schedule", "multi_block_entropy"} <= set(info.diffusion.algorithms)
    assert "rnd1_entropy" not in info.diffusion.algorithms
    assert info.diffusion.default_block_length == 32
    assert info.diffusion.mask_token_id == 1
    assert info.diffusion.attention_pattern == "bidirectional"
    assert not info.diffusion.supports_edits
    params = {(one.algorithm, one.name): one.default_value for one in info.diffusion.params}
    assert {algorithm for algorithm, _ in params} == set(info.diffusion.algorithms)
    assert params["confidence_threshold", "confidence_threshold"] == "0.9"
    assert params["multi_block_entropy", "entropy_threshold"] == "0.5"
    assert params["llada_schedule", "steps"] == "max_tokens"
    assert info.has_chat_template
    assert list(info.diffusion.block_lengths) == []
    assert json.loads(info.default_sampling_json) == {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 96,
    }
    assert "/" not in info.source
