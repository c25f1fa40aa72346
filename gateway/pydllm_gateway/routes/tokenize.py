"""POST /tokenize and /detokenize, GET /tokenizer_info: the shapes of vLLM, which lm_eval's remote tokenizer reads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from pydllm_gateway.convert.tokenize import NAMES, detokenize_request, tokenize_request
from pydllm_gateway.http import StrictRoute, engine_of, until_disconnect
from pydllm_gateway.schemas.tokenize import DetokenizeAnswer, DetokenizeBody, TokenizeAnswer, TokenizeBody

router = APIRouter(route_class=StrictRoute, tags=["tokenizer"])


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeBody) -> TokenizeAnswer:
    """Token ids of a prompt, or of a conversation as the chat template renders it."""
    answer = await until_disconnect(request, engine_of(request).tokenize(tokenize_request(body), NAMES))
    texts = [token.decode("utf-8", "replace") for token in answer.tokens]
    return TokenizeAnswer(
        count=len(answer.token_ids),
        max_model_len=answer.max_context_length,
        tokens=list(answer.token_ids),
        token_strs=texts if body.return_token_strs else None,
    )


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> DetokenizeAnswer:
    """The text of token ids."""
    answer = await until_disconnect(request, engine_of(request).detokenize(detokenize_request(body), NAMES))
    return DetokenizeAnswer(prompt=answer.text)


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request) -> dict[str, Any]:
    """Special tokens (null where there is none) and the chat template of the default model."""
    info = await until_disconnect(request, engine_of(request).tokenizer_info(""))
    names = ("bos", "eos", "pad", "mask")
    given = {name: getattr(info, name) if info.HasField(name) else None for name in names}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": token and token.text for name, token in given.items()},
        **{f"{name}_token_id": token and token.id for name, token in given.items()},
        "chat_template": info.chat_template or None,
    }
