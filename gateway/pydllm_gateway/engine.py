"""The engine behind the gateway: typed calls over gRPC. Every failure is an ApiError in the REST request's words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydllm_proto.v1 import (
    generation_service_pb2 as generation_pb,
)
from pydllm_proto.v1 import (
    generation_service_pb2_grpc,
    metrics_service_pb2,
    metrics_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
)

from pydllm_gateway.errors import FieldNames, from_status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from pydllm_gateway.settings import Settings

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # a restarted engine is found again within a second
    ("grpc.min_reconnect_backoff_ms", 5000),  # in fact: what one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class Engine:
    """One channel. Make it on the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        self._metadata = (("authorization", f"Bearer {settings.engine_api_key}"),) if settings.engine_api_key else ()
        self._channel = _channel(settings)
        self._generation: Any = generation_service_pb2_grpc.GenerationServiceStub(self._channel)
        self._models: Any = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._tokenizer: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(self._channel)
        self._metrics: Any = metrics_service_pb2_grpc.MetricsServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        """Ends the channel and every call on it."""
        await self._channel.close()

    async def generate(
        self, request: generation_pb.GenerateRequest, names: FieldNames
    ) -> generation_pb.GenerateResponse:
        """A whole answer. Cancelling the task cancels the generation."""
        response: generation_pb.GenerateResponse = await self._call(
            self._generation.Generate(request, metadata=self._metadata), names
        )
        return response

    async def stream(
        self, request: generation_pb.StreamGenerateRequest, names: FieldNames
    ) -> AsyncGenerator[generation_pb.StreamGenerateResponse, None]:
        """The messages of a stream; closing the generator (`aclose`, cancellation) cancels the generation."""
        call = self._generation.StreamGenerate(request, metadata=self._metadata)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_status(error, names) from None
        finally:
            call.cancel()

    async def list_models(self) -> list[model_service_pb2.ModelSummary]:
        """Every served name, the default first."""
        request = model_service_pb2.ListModelsRequest()
        response = await self._call(self._models.ListModels(request, metadata=self._metadata), {})
        return list(response.models)

    async def model_info(self, name: str) -> model_service_pb2.GetModelInfoResponse:
        """Facts about a model; "" is the default one."""
        request = model_service_pb2.GetModelInfoRequest(model=name)
        response: model_service_pb2.GetModelInfoResponse = await self._call(
            self._models.GetModelInfo(request, metadata=self._metadata), {}
        )
        return response

    async def tokenize(
        self, request: tokenizer_service_pb2.TokenizeRequest, names: FieldNames
    ) -> tokenizer_service_pb2.TokenizeResponse:
        """Token ids of a text or a conversation."""
        response: tokenizer_service_pb2.TokenizeResponse = await self._call(
            self._tokenizer.Tokenize(request, metadata=self._metadata), names
        )
        return response

    async def detokenize(
        self, request: tokenizer_service_pb2.DetokenizeRequest, names: FieldNames
    ) -> tokenizer_service_pb2.DetokenizeResponse:
        """The text of token ids."""
        response: tokenizer_service_pb2.DetokenizeResponse = await self._call(
            self._tokenizer.Detokenize(request, metadata=self._metadata), names
        )
        return response

    async def tokenizer_info(self, model: str) -> tokenizer_service_pb2.GetTokenizerInfoResponse:
        """Special tokens and the chat template."""
        request = tokenizer_service_pb2.GetTokenizerInfoRequest(model=model)
        response: tokenizer_service_pb2.GetTokenizerInfoResponse = await self._call(
            self._tokenizer.GetTokenizerInfo(request, metadata=self._metadata), {}
        )
        return response

    async def metrics(self) -> str:
        """The engine's metrics in Prometheus text format."""
        request = metrics_service_pb2.GetMetricsRequest()
        response = await self._call(self._metrics.GetMetrics(request, metadata=self._metadata), {})
        return str(response.text)

    async def serving(self) -> bool:
        """Whether the engine takes requests now; False when it cannot be reached."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            response = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
            return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    async def _call(self, call: Awaitable[Any], names: FieldNames) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_status(error, names) from None


def _channel(settings: Settings) -> grpc.aio.Channel:
    if settings.engine_tls_ca is None:
        return grpc.aio.insecure_channel(settings.engine, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(Path(settings.engine_tls_ca).read_bytes())
    return grpc.aio.secure_channel(settings.engine, credentials, options=_OPTIONS)
