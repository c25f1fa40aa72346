"""TokenizerService: the served model's tokenizer. Never queued; long texts are handled in a thread."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and passes the context

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm_proto.v1 import tokenizer_service_pb2 as pb
from pydllm_proto.v1 import tokenizer_service_pb2_grpc as pb_grpc

from pydllm.errors import InvalidRequestError
from pydllm.server import convert
from pydllm.server.no_tokenizer import unsupported
from pydllm.server.served import Backend, Served, chat_size, off_loop

if TYPE_CHECKING:
    from pydllm.server.rpc import Context

_MAX_ID = 2**31 - 1


class TokenizerService(pb_grpc.TokenizerServiceServicer):
    """pydllm.v1.TokenizerService. Raises the errors of pydllm.errors; the guard turns them into statuses."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Token ids of a text or a conversation."""
        served = self._served(request.model, request.WhichOneof("input") or "text")
        text, rendered = await _text_of(served, request)
        special = request.add_special_tokens if request.HasField("add_special_tokens") else not rendered
        field = "chat" if rendered else "text"
        ids = await off_loop(len(text), served.tokenizer.encode, text, add_special_tokens=special, field=field)
        return pb.TokenizeResponse(
            token_ids=ids,
            tokens=[served.tokenizer.token_bytes(i) for i in ids] if request.with_tokens else (),
            rendered_text=text if rendered else "",
            max_context_length=served.max_context_length,
        )

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """The text of token ids; an id that is no token is an error."""
        served = self._served(request.model, "token_ids")
        skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
        ids = list(request.token_ids)
        text = await off_loop(len(ids), _decode, served, ids, skip)
        return pb.DetokenizeResponse(text=text)

    async def GetTokenizerInfo(
        self, request: pb.GetTokenizerInfoRequest, context: Context
    ) -> pb.GetTokenizerInfoResponse:
        """Special tokens and the chat template's source."""
        served = self._served(request.model, "tokenizer")
        special = served.tokenizer.special_tokens
        named = {name: special.get(f"{name}_token") for name in ("bos", "eos", "pad")}  # type: ignore[call-overload]
        mask_id = served.engine.facts.mask_token_id
        return pb.GetTokenizerInfoResponse(
            **{
                name: pb.SpecialToken(text=token.text, id=token.id)
                for name, token in named.items()
                if token is not None and token.id is not None
            },
            mask=pb.SpecialToken(text=served.tokenizer.token_text(mask_id) or "", id=mask_id),
            chat_template=served.chat_template.source if served.chat_template else "",
        )

    def _served(self, model: str, field: str) -> Served:
        """The model; UnsupportedError(field) when it is served without a tokenizer."""
        served = self._backend.model(model)
        if not served.has_tokenizer:
            raise unsupported(field)
        return served


async def _text_of(served: Served, request: pb.TokenizeRequest) -> tuple[str, bool]:
    """The text to tokenize, and whether it was rendered from a conversation."""
    kind = request.WhichOneof("input")
    if kind == "text":
        return request.text, False
    if kind == "chat":
        chat = convert.chat_input(request.chat)
        return await off_loop(chat_size(chat), served.render, chat), True
    raise InvalidRequestError("text", "text: one of text or chat is required")


def _decode(served: Served, ids: list[int], skip_special_tokens: bool) -> str:
    for position, token in enumerate(ids):
        if token > _MAX_ID or served.tokenizer.token_text(token) is None:
            path = f"token_ids[{position}]"
            raise InvalidRequestError(path, f"{path}: {token} is no token of this vocabulary")
    return served.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
