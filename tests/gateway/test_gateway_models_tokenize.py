"""Models in OpenAI's shape; tokenization as vLLM's clients and lm_eval's remote tokenizer expect it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fake_engine import MODEL, Fail

if TYPE_CHECKING:
    import httpx
    from fake_engine import FakeEngine


async def test_models_are_listed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json() == {
        "object": "list",
        "data": [
            {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "pydllm", "max_model_len": 512}
        ],
    }


async def test_a_model_tells_its_diffusion_facts(client: httpx.AsyncClient) -> None:
    model = (await client.get(f"/v1/models/{MODEL}")).json()
    assert (model["id"], model["object"], model["max_model_len"]) == (MODEL, "model", 512)
    assert model["dllm"]["algorithms"] == ["confidence_threshold", "entropy_threshold"]
    assert model["dllm"]["default_block_length"] == 32
    assert model["dllm"]["mask_token_id"] == 2


@pytest.mark.parametrize("name", ["other", "org/other", "fake/", "a%2Fb"])
async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["param"] == "model"


async def test_a_prompt_is_tokenized(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    response = await client.post("/tokenize", json={"prompt": "hé"})
    assert response.json() == {"count": 3, "max_model_len": 512, "tokens": [114, 205, 179], "token_strs": None}
    assert not engine.requests[-1].HasField("add_special_tokens")


@pytest.mark.parametrize("value", [True, False])
async def test_special_tokens_are_asked_for_as_the_client_says(
    client: httpx.AsyncClient, engine: FakeEngine, value: bool
) -> None:
    await client.post("/tokenize", json={"prompt": "x", "add_special_tokens": value})
    assert engine.requests[-1].HasField("add_special_tokens")
    assert engine.requests[-1].add_special_tokens is value


async def test_token_texts_come_when_asked_for(client: httpx.AsyncClient) -> None:
    response = await client.post("/tokenize", json={"prompt": "hé", "return_token_strs": True})
    assert response.json()["token_strs"] == ["h", "\ufffd", "\ufffd"]


async def test_a_conversation_is_tokenized(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "add_generation_prompt": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert (await client.post("/tokenize", json=body)).json()["count"] == len("<user>hi")
    request = engine.requests[-1]
    assert [(m.role, m.content) for m in request.chat.messages] == [("user", "hi")]
    assert request.chat.HasField("add_generation_prompt")
    assert not request.chat.add_generation_prompt
    assert dict(request.chat.template_kwargs) == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "messages": []}, "prompt"),
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "x", "chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"prompt": "x", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"messages": [], "chat_template": "{{ x }}"}, "chat_template"),
        ({"messages": [], "tools": [{}]}, "tools"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"prompt": "x", "add_special_token": True}, "add_special_token"),
    ],
)
async def test_what_cannot_be_tokenized_is_named(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post("/tokenize", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["message"].startswith(param)


async def test_nulls_are_unset(client: httpx.AsyncClient) -> None:
    body = {"prompt": "x", "model": None, "messages": None, "tools": None, "add_special_tokens": None}
    assert (await client.post("/tokenize", json=body)).status_code == 200


async def test_tokens_become_text_with_special_tokens(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.post("/detokenize", json={"tokens": [114, 205, 179]})).json() == {"prompt": "hé"}
    assert engine.requests[-1].HasField("skip_special_tokens")
    assert not engine.requests[-1].skip_special_tokens


@pytest.mark.parametrize("tokens", [None, "x", [1.5], [True], [-1], [2**32], [["x"]], [10**30]])
async def test_tokens_that_are_none_are_refused(client: httpx.AsyncClient, tokens: object) -> None:
    response = await client.post("/detokenize", json={"tokens": tokens})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tokens")


async def test_an_id_outside_the_vocabulary_is_named_as_the_client_wrote_it(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    message = "token_ids[1]: 999 is no token of this vocabulary"
    engine.failures["Detokenize"] = Fail(grpc.StatusCode.INVALID_ARGUMENT, message, "INVALID_FIELD", ("token_ids[1]",))
    error = (await client.post("/detokenize", json={"tokens": [10, 999]})).json()["error"]
    assert error["param"] == "tokens[1]"
    assert error["message"] == "tokens[1]: 999 is no token of this vocabulary"


async def test_tokenizer_info_holds_what_a_remote_tokenizer_reads(client: httpx.AsyncClient) -> None:
    info = (await client.get("/tokenizer_info")).json()
    assert info == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "bos_token_id": 0,
        "eos_token": "</s>",
        "eos_token_id": 1,
        "pad_token": None,
        "pad_token_id": None,
        "mask_token": "<mask>",
        "mask_token_id": 2,
        "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
