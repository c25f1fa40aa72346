"""An engine for gateway tests: real gRPC on a free port, every answer scripted, every request recorded."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydllm_proto.v1 import generation_service_pb2 as generation_pb
from pydllm_proto.v1 import (
    generation_service_pb2_grpc,
    metrics_service_pb2,
    metrics_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
)
from pydllm_proto.v1 import types_pb2 as types_pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

MODEL = "fake"


@dataclass(frozen=True)
class Fail:
    """An item of a script: the call ends with this status. `reason` and `fields` travel as google.rpc details."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    fields: tuple[str, ...] = ()

    async def abort(self, context: Any) -> None:
        await context.abort(self.code, self.message, self._metadata())

    def _metadata(self) -> tuple[tuple[str, bytes], ...]:
        if not (self.reason or self.fields):
            return ()
        details: list[Any] = [error_details_pb2.ErrorInfo(reason=self.reason, domain="pydllm")]
        if self.fields:
            violations = [error_details_pb2.BadRequest.FieldViolation(field=path) for path in self.fields]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1)))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


@dataclass
class Block:
    """An item of a script: the call waits for `go`. `reached` tells that it does, `cancelled` that it never went on."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        self.reached.set()
        try:
            await self.go.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise


Item = Any
"""A response message (streams also take a started/finished helper's), a Fail, or a Block."""


class FakeEngine(
    generation_service_pb2_grpc.GenerationServiceServicer,
    tokenizer_service_pb2_grpc.TokenizerServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
    metrics_service_pb2_grpc.MetricsServiceServicer,
    health_pb2_grpc.HealthServicer,
):
    """`generates` and `streams` are queues of scripts, one per call; an empty queue gives a plain default answer.

    Calls of one request arrive in any order: where it matters which prompt gets a script, it is in `generates_for`.
    A script is a list of items, played in order. `failures[method]` ends every call of a method with that Fail.
    """

    def __init__(self) -> None:
        self.target = ""
        self.generate_requests: list[generation_pb.GenerateRequest] = []
        self.stream_requests: list[generation_pb.StreamGenerateRequest] = []
        self.requests: list[Any] = []
        """Requests of the other methods."""
        self.metadata: list[dict[str, Any]] = []
        """One per call."""
        self.cancellations = 0
        self.generates: list[list[Item]] = []
        self.generates_for: dict[str, list[Item]] = {}
        """Prompt -> script of a Generate with it; `generates` is for the others."""
        self.streams: list[list[Item]] = []
        self.failures: dict[str, Fail] = {}
        self.serving = True
        self.metrics_text = "# HELP pydllm_num_requests_running Requests.\npydllm_num_requests_running 0\n"
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> None:
        """Listens; `target` is what a gateway's settings.engine takes."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(self, server)
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(self, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self, server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        await server.start()
        self._server, self.target = server, f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Ends every call at once."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.generate_requests.append(request)
        self._note(context)
        with self._counted():
            await self._fail("Generate", context)
            async for message in _play(self._script(request), context):
                return message
        raise AssertionError("a script for Generate needs a response or a Fail")

    def _script(self, request: generation_pb.GenerateRequest) -> list[Item]:
        if request.prompt in self.generates_for:
            return self.generates_for[request.prompt]
        return self.generates.pop(0) if self.generates else [answer(request)]

    async def StreamGenerate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.stream_requests.append(request)
        self._note(context)
        with self._counted():
            await self._fail("StreamGenerate", context)
            script = self.streams.pop(0) if self.streams else streamed(request)
            async for message in _play(script, context):
                yield message

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._plain("ListModels", request, context)
        return model_service_pb2.ListModelsResponse(models=[_summary()])

    async def GetModelInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._plain("GetModelInfo", request, context)
        await _known(request.model, context)
        return model_service_pb2.GetModelInfoResponse(
            summary=_summary(),
            architecture="FakeModel",
            dtype="float32",
            vocab_size=300,
            eos_token_ids=[1],
            parameter_count=1000,
            diffusion=model_service_pb2.DiffusionInfo(
                algorithms=["confidence_threshold", "entropy_threshold"],
                default_block_length=32,
                mask_token_id=2,
                attention_pattern="bidirectional",
            ),
            has_chat_template=True,
        )

    async def Tokenize(self, request: Any, context: Any) -> Any:  # noqa: N802
        """One token per UTF-8 byte, id = byte + 10."""
        await self._plain("Tokenize", request, context)
        await _known(request.model, context)
        text = request.text or "".join(f"<{m.role}>{m.content}" for m in request.chat.messages)
        data = text.encode()
        return tokenizer_service_pb2.TokenizeResponse(
            token_ids=[byte + 10 for byte in data],
            tokens=[bytes([byte]) for byte in data] if request.with_tokens else [],
            rendered_text=text if request.HasField("chat") else "",
            max_context_length=512,
        )

    async def Detokenize(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._plain("Detokenize", request, context)
        await _known(request.model, context)
        data = bytes(token - 10 for token in request.token_ids)
        return tokenizer_service_pb2.DetokenizeResponse(text=data.decode("utf-8", "replace"))

    async def GetTokenizerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._plain("GetTokenizerInfo", request, context)
        await _known(request.model, context)
        return tokenizer_service_pb2.GetTokenizerInfoResponse(
            bos=tokenizer_service_pb2.SpecialToken(text="<s>", id=0),
            eos=tokenizer_service_pb2.SpecialToken(text="</s>", id=1),
            mask=tokenizer_service_pb2.SpecialToken(text="<mask>", id=2),
            chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
        )

    async def GetMetrics(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._plain("GetMetrics", request, context)
        return metrics_service_pb2.GetMetricsResponse(text=self.metrics_text)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        status = health_pb2.HealthCheckResponse.SERVING if self.serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)

    async def _plain(self, method: str, request: Any, context: Any) -> None:
        self.requests.append(request)
        self._note(context)
        await self._fail(method, context)

    async def _fail(self, method: str, context: Any) -> None:
        if method in self.failures:
            await self.failures[method].abort(context)

    def _note(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata() or ()))

    @contextlib.contextmanager
    def _counted(self) -> Any:
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancellations += 1
            raise


async def _play(script: Iterable[Item], context: Any) -> AsyncIterator[Any]:
    for item in script:
        if isinstance(item, Block):
            await item.wait()
        elif isinstance(item, Fail):
            await item.abort(context)
        else:
            yield item


async def _known(model: str, context: Any) -> None:
    if model not in {"", MODEL}:
        message = f"model: there is no model {model!r} here, there is {MODEL!r}"
        await Fail(grpc.StatusCode.NOT_FOUND, message, "MODEL_NOT_FOUND", ("model",)).abort(context)


def _summary() -> model_service_pb2.ModelSummary:
    summary = model_service_pb2.ModelSummary(name=MODEL, max_context_length=512)
    summary.loaded.FromSeconds(1_700_000_000)
    return summary


def answer(request: generation_pb.GenerateRequest, *texts: str) -> generation_pb.GenerateResponse:
    """A plain answer with one candidate per text."""
    response = generation_pb.GenerateResponse(request_id=request.request_id, model=MODEL)
    response.created.FromSeconds(1_700_000_100)
    for index, text in enumerate(texts or ("hello",)):
        response.candidates.add(index=index, text=text, finish_reason=types_pb.FINISH_REASON_STOP)
    response.usage.prompt_tokens, response.usage.completion_tokens = 3, 2
    return response


def started(**values: Any) -> generation_pb.StreamGenerateResponse:
    """The first message of a stream."""
    message = generation_pb.StreamGenerateResponse()
    message.started.model, message.started.prompt_tokens, message.started.mask_token_id = MODEL, 3, 2
    message.started.created.FromSeconds(1_700_000_100)
    return _with(message, values)


def block(text: str, index: int = 0, **values: Any) -> generation_pb.StreamGenerateResponse:
    """A block of final text for a candidate."""
    message = generation_pb.StreamGenerateResponse(candidate_index=values.pop("candidate_index", 0))
    message.block_appended.text, message.block_appended.block_index = text, index
    return _with(message, values)


def finished(**values: Any) -> generation_pb.StreamGenerateResponse:
    """The end of a candidate, with usage."""
    message = generation_pb.StreamGenerateResponse(candidate_index=values.pop("candidate_index", 0))
    message.finished.finish_reason = values.pop("finish_reason", types_pb.FINISH_REASON_STOP)
    message.usage.prompt_tokens, message.usage.completion_tokens = 3, 2
    return _with(message, values)


def streamed(request: generation_pb.StreamGenerateRequest) -> list[Item]:
    """A plain stream: two blocks, one candidate."""
    identity = request.request.request_id
    return [
        started(request_id=identity),
        block("hel", request_id=identity),
        block("lo", 1, request_id=identity),
        finished(request_id=identity),
    ]


def _with(message: Any, values: dict[str, Any]) -> Any:
    for name, value in values.items():
        setattr(message, name, value)
    return message
