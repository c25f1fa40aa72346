"""MetricsService: the page of metrics_page over gRPC, for a gateway that serves it beside its own."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and passes the context

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm_proto.v1 import metrics_service_pb2 as pb
from pydllm_proto.v1 import metrics_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from pydllm.server.rpc import Context
    from pydllm.server.served import Backend


class MetricsService(pb_grpc.MetricsServiceServicer):
    """pydllm.v1.MetricsService."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Context) -> pb.GetMetricsResponse:
        """Everything that is counted, now."""
        return pb.GetMetricsResponse(text=self._backend.metrics.render().decode())
