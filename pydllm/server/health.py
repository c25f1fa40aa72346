"""grpc.health.v1. Own servicer: the one of grpcio-health-checking forgets watchers when one of several leaves."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and passes the context

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from pydllm.server.rpc import Context

Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """One status for the whole server (service "") and for each name in `services`."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services) | {""}
        self._status: Any = Status.NOT_SERVING
        self._changed = asyncio.Condition()

    async def set_serving(self, serving: bool) -> None:
        """Changes the status and tells every watcher."""
        async with self._changed:
            self._status = Status.SERVING if serving else Status.NOT_SERVING
            self._changed.notify_all()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that this server does not have."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return Status(status=self._status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and after each change; SERVICE_UNKNOWN for an unknown service, as the protocol says."""
        sent: int | None = None
        while True:
            status = self._status if request.service in self._services else Status.SERVICE_UNKNOWN
            if status != sent:
                sent = status
                yield Status(status=status)
                continue
            async with self._changed:
                if self._status == sent or request.service not in self._services:
                    await self._changed.wait()
