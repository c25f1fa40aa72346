"""Answers from a running server, over gRPC."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import duration_pb2
from pydllm_proto.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
    types_pb2,
)

from pydllm.errors import PydllmError, UnsupportedError
from pydllm.outputs import BlockAppended, BlockSnapshot, DiffusionStats, Finished, FinishReason, Started
from pydllm.terminal.cells import BROKEN
from pydllm.terminal.visible import one_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pydllm.outputs import StreamEvent
    from pydllm.params import DiffusionParams, SamplingParams
    from pydllm.terminal.backend import Message
    from pydllm.terminal.cells import Key

_FACTS_SECONDS = 10.0
"""How long the server may take to say what it serves."""
_TEXTS_SECONDS = 2.0
_ANCHOR = "a"
_EMBEDDED = "pydllm:"
"""What a server says of the embedded demo model."""

_REASONS: dict[int, FinishReason] = {
    types_pb2.FINISH_REASON_STOP: "stop",
    types_pb2.FINISH_REASON_STOP_SEQUENCE: "stop_sequence",
    types_pb2.FINISH_REASON_LENGTH: "length",
    types_pb2.FINISH_REASON_STEP_LIMIT: "step_limit",
    types_pb2.FINISH_REASON_REPETITION: "repetition",
}


class ServerError(PydllmError):
    """The server refused a call or could not be reached."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where a server is and how to talk to it."""

    address: str
    """host:port"""
    tls: bool = False
    tls_ca: bytes | None = None
    """PEM certificates to trust; None: the system's."""
    api_key: str | None = dataclasses.field(default=None, repr=False)
    model: str = ""
    """A served name; "" is the server's default."""


class RemoteBackend:
    """A connection to one server. Raises ServerError when it cannot be reached."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._metadata = (("authorization", f"Bearer {target.api_key}"),) if target.api_key else ()
        self._channel = _channel(target)
        self._generation: Any = generation_service_pb2_grpc.GenerationServiceStub(self._channel)
        self._tokenizer: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(self._channel)
        try:
            info = self._facts()
            self._anchor, self._anchor_text = self._find_anchor()
        except BaseException:
            self._channel.close()
            raise
        self.label = str(info.summary.name)
        self.algorithms: tuple[str, ...] = tuple(info.diffusion.algorithms)
        self.default_params = {
            (str(one.algorithm), str(one.name)): str(one.default_value) for one in info.diffusion.params
        }
        self.attention = "block_causal" if info.diffusion.attention_pattern == "block_causal" else "full"
        self.block_length = int(info.diffusion.default_block_length)
        self.embedded = str(info.source).startswith(_EMBEDDED)
        self._has_chat_template = bool(info.has_chat_template)

    def stream(
        self, prompt: str | list[Message], sampling: SamplingParams, diffusion: DiffusionParams, *, snapshots: bool
    ) -> Generator[StreamEvent]:
        """As Backend.stream; what the server refuses is raised by the first step of the generator."""
        if not isinstance(prompt, str) and not self._has_chat_template:
            raise UnsupportedError("chat", "chat: this model has no chat template")
        return self._events(_request(self._target.model, prompt, sampling, diffusion, snapshots=snapshots))

    def texts(self, keys: Sequence[Key]) -> list[str]:
        """As Backend.texts; all calls at once."""
        calls = [self._detokenize([*self._anchor, *key]) for key in keys]
        return [self._text(call, key) for call, key in zip(calls, keys, strict=True)]

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _facts(self) -> model_service_pb2.GetModelInfoResponse:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(self._channel)
        request = model_service_pb2.GetModelInfoRequest(model=self._target.model)
        with self._failures():
            return stub.GetModelInfo(request, metadata=self._metadata, timeout=_FACTS_SECONDS)  # type: ignore[no-any-return]

    def _find_anchor(self) -> tuple[list[int], str]:
        request = tokenizer_service_pb2.TokenizeRequest(
            model=self._target.model, text=_ANCHOR, add_special_tokens=False
        )
        with self._failures():
            answer = self._tokenizer.Tokenize(request, metadata=self._metadata, timeout=_FACTS_SECONDS)
            ids = list(answer.token_ids)
            return ids, str(self._detokenize(ids).result().text)

    def _detokenize(self, ids: Sequence[int]) -> Any:
        request = tokenizer_service_pb2.DetokenizeRequest(model=self._target.model, token_ids=ids)
        return self._tokenizer.Detokenize.future(request, metadata=self._metadata, timeout=_TEXTS_SECONDS)

    def _text(self, call: Any, key: Key) -> str:
        try:
            text = str(call.result().text)
            if text.startswith(self._anchor_text):
                return text[len(self._anchor_text) :]
            return str(self._detokenize(key).result().text)
        except grpc.RpcError:
            return BROKEN

    def _events(self, request: generation_service_pb2.StreamGenerateRequest) -> Generator[StreamEvent]:
        call = self._generation.StreamGenerate(request, metadata=self._metadata)
        mask = -1
        try:
            with self._failures():
                for message in call:
                    if message.HasField("started"):
                        mask = message.started.mask_token_id
                    yield from _event(message, mask)
        finally:
            call.cancel()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise ServerError(_reason(error, self._target.address)) from None


def _channel(target: Target) -> grpc.Channel:
    if not target.tls:
        return grpc.insecure_channel(target.address)
    return grpc.secure_channel(target.address, grpc.ssl_channel_credentials(target.tls_ca))


def _reason(error: grpc.RpcError, address: str) -> str:
    """One line; what the server says, except where no server answered."""
    code, details = error.code(), one_line(error.details() or "")
    if code is grpc.StatusCode.UNAVAILABLE and not error.trailing_metadata():
        return f"{address}: no server can be reached"
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return f"{details} (--api-key or PYDLLM_API_KEY)"
    return details or code.name


def _request(
    model: str, prompt: str | list[Message], sampling: SamplingParams, diffusion: DiffusionParams, *, snapshots: bool
) -> generation_service_pb2.StreamGenerateRequest:
    pb = generation_service_pb2
    request = pb.GenerateRequest(
        model=model, sampling=_sampling(sampling), diffusion=_diffusion(diffusion), output=_OUTPUT
    )
    if isinstance(prompt, str):
        request.prompt = prompt
    else:
        request.chat.messages.extend(types_pb2.ChatMessage(**message) for message in prompt)
    mode = pb.STREAM_MODE_SNAPSHOTS if snapshots else pb.STREAM_MODE_BLOCK_APPEND
    options = pb.StreamOptions(mode=mode, min_interval=duration_pb2.Duration(nanos=10**6))
    return pb.StreamGenerateRequest(request=request, options=options)


_OUTPUT = types_pb2.OutputOptions(token_ids=True, stats=True)


def _given(params: SamplingParams | DiffusionParams) -> dict[str, Any]:
    """The fields that are set: the messages have the same names."""
    values = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    return {name: value for name, value in values.items() if value is not None and value not in ((), "")}


def _sampling(params: SamplingParams) -> types_pb2.SamplingParams:
    return types_pb2.SamplingParams(**_given(params))


def _diffusion(params: DiffusionParams) -> types_pb2.DiffusionParams:
    fields = _given(params)
    extra = fields.pop("extra", {})
    message = types_pb2.DiffusionParams(**fields)
    if extra:
        message.extra.update(extra)
    return message


def _event(message: generation_service_pb2.StreamGenerateResponse, mask: int) -> Iterator[StreamEvent]:
    """The event of a message; none for one that this client does not know."""
    kind = message.WhichOneof("event")
    if kind == "started":
        yield Started(message.candidate_index, message.started.prompt_tokens)
    elif kind == "block_snapshot":
        yield _snapshot(message.candidate_index, message.block_snapshot, mask)
    elif kind == "block_appended":
        yield _appended(message.candidate_index, message.block_appended)
    elif kind == "finished":
        yield _finished(message)


def _snapshot(index: int, block: generation_service_pb2.BlockSnapshot, mask: int) -> BlockSnapshot:
    return BlockSnapshot(
        index=index,
        block_index=block.block_index,
        step=block.step,
        token_offset=block.token_offset,
        token_ids=[None if token == mask else token for token in block.token_ids],
        confidences=list(block.confidences),
    )


def _appended(index: int, block: generation_service_pb2.BlockAppended) -> BlockAppended:
    return BlockAppended(
        index=index,
        block_index=block.block_index,
        token_offset=block.token_offset,
        text=block.text,
        token_ids=list(block.token_ids),
        denoise_steps=block.denoise_steps,
    )


def _finished(message: generation_service_pb2.StreamGenerateResponse) -> Finished:
    end, stats = message.finished, message.finished.stats
    match: str | int | None = None
    if end.WhichOneof("stop_match") == "matched_stop":
        match = end.matched_stop
    elif end.WhichOneof("stop_match") == "matched_stop_token_id":
        match = end.matched_stop_token_id
    return Finished(
        index=message.candidate_index,
        finish_reason=_REASONS.get(end.finish_reason, "stop"),
        stop_match=match,
        completion_tokens=message.usage.completion_tokens,
        stats=DiffusionStats(
            forward_passes=stats.forward_passes,
            denoise_steps=stats.denoise_steps,
            blocks=stats.blocks,
            edited_tokens=stats.edited_tokens,
            tokens_per_forward=stats.tokens_per_forward,
            queue_time=_seconds(stats.queue_time),
            time_to_first_block=_seconds(stats.time_to_first_block),
            generation_time=_seconds(stats.generation_time),
        ),
    )


def _seconds(duration: duration_pb2.Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
