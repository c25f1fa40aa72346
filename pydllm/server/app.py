"""The gRPC server's life: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydllm_proto.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    generation_service_pb2,
    generation_service_pb2_grpc,
    metrics_service_pb2,
    metrics_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
)

from pydllm.params import SamplingParams
from pydllm.server import tls
from pydllm.server.admin_service import AdminService
from pydllm.server.auth import Authenticator
from pydllm.server.generation_service import GenerationService
from pydllm.server.guard import HARD_MESSAGE_BYTES, Guard
from pydllm.server.health import HealthService
from pydllm.server.lifecycle import Lifecycle, Phase
from pydllm.server.listen import PortError, bracketed, check_address, clear_socket, is_loopback, remove_socket
from pydllm.server.metrics import Metrics
from pydllm.server.metrics_page import MetricsPage
from pydllm.server.metrics_service import MetricsService
from pydllm.server.model_service import ModelService
from pydllm.server.served import Backend, Served
from pydllm.server.tokenizer_service import TokenizerService

if TYPE_CHECKING:
    from pydllm.server.config import ServerConfig

log = logging.getLogger("pydllm.server")

SERVICES = (
    generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    tokenizer_service_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    metrics_service_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name,
)
ADMIN = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
HEALTH = "grpc.health.v1.Health"

CLEANUP_SECONDS = 5.0
"""How long calls may take to end once the engine has stopped under them."""
CLOSE_SECONDS = 0.5
"""How long open connections may linger after the last call."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # on by default: a second server would share the port silently
    ("grpc.max_receive_message_length", HARD_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 15_000),  # half-open connections are noticed within 25 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class App:
    """One listening server. `publish` makes it serve a model; `drain` ends it."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.lifecycle = Lifecycle()
        self.backend = Backend()
        self.services = (*SERVICES, ADMIN) if config.enable_admin else SERVICES
        """Full names of pydllm's own services."""
        self.health = HealthService(self.services)
        self._admin = AdminService(self.backend, self.lifecycle) if config.enable_admin else None
        self.port = 0
        self.metrics_port: int | None = None
        """The bound one; None without a page."""
        self._socket: str | None = None
        """The unix socket that is listened on; whatever else is at its path is not ours to remove."""
        self._page: MetricsPage | None = None
        self._most_drain_seconds = float("inf")
        self._server = grpc.aio.server(interceptors=(Guard(self.lifecycle, Authenticator(config)),), options=_OPTIONS)
        self._register()

    async def start(self) -> None:
        """Listens; calls are answered STARTING until `publish`. Raises ConfigError and PortError."""
        address = f"{bracketed(self.config.host)}:{self.config.port}"
        credentials = tls.credentials(self.config)
        check_address(self.config.host, self.config.port)
        self.port = self._listen(address, credentials)
        if not self.port or self.config.port not in (0, self.port):
            raise PortError(f"grpc_port: cannot listen on {address}")
        self._listen_locally()
        self._open_page()
        warn_of_exposure(self.config)
        await self._server.start()

    async def publish(self, served: Served) -> None:
        """Serves this model, after one forward pass has worked."""
        await warm_up(served)
        metrics = Metrics(served.name, served.engine.stats, alias=self.config.metrics_alias)
        self.backend.publish(served, metrics)
        if self._admin is not None:
            self._admin.watch(served)
        self.lifecycle.phase = Phase.SERVING
        await self.health.set_serving(True)

    @property
    def drain_seconds(self) -> float:
        """How long running calls have, at most, once `drain` begins."""
        return min(self.config.drain_timeout, self._most_drain_seconds)

    def hurry(self, seconds: float) -> None:
        """Shortens a drain, the one that is under way or the one to come."""
        self._most_drain_seconds = seconds
        self.lifecycle.hurry(seconds)

    async def drain(self) -> bool:
        """Takes no new calls, lets running ones finish, then ends the rest with UNAVAILABLE. True when none was cut."""
        self.lifecycle.phase = Phase.DRAINING
        await self.health.set_serving(False)
        finished = await self.lifecycle.idle(self.drain_seconds)
        if not finished:
            log.warning("cancelling %d calls that outlived the drain timeout", self.lifecycle.running_calls)
        if self.backend.served is not None:
            await self.backend.served.engine.close()
        await self.lifecycle.idle(CLEANUP_SECONDS)
        self.lifecycle.stopped.set()
        await self.close(CLOSE_SECONDS)
        return finished

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Stops listening; calls that still run after the grace are cut off. The engine is left alone."""
        await self._server.stop(grace_seconds)
        if self._admin is not None:
            await self._admin.close()
        if self._page is not None:
            await asyncio.to_thread(self._page.close)
            self._page = None
        if self._socket is not None:
            remove_socket(self._socket)
            self._socket = None

    def _listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """The bound port, 0 when gRPC refuses."""
        try:
            if credentials is not None:
                return self._server.add_secure_port(address, credentials)
            return self._server.add_insecure_port(address)
        except RuntimeError:
            return 0

    def _listen_locally(self) -> None:
        """On the unix socket, for the gateway."""
        if self.config.socket is None:
            return
        clear_socket(self.config.socket)
        if not self._listen(f"unix:{self.config.socket}"):
            raise PortError("socket: cannot listen on this path")
        self._socket = self.config.socket

    def _open_page(self) -> None:
        """The Prometheus page; empty until a model is served."""
        if self.config.metrics_port is not None:
            self._page = MetricsPage(self.config.host, self.config.metrics_port, self.backend.page)
            self.metrics_port = self._page.port

    def _register(self) -> None:
        server = self._server
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(GenerationService(self.backend), server)
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(TokenizerService(self.backend), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.backend), server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(MetricsService(self.backend), server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if self._admin is not None:
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, server)
        reflection.enable_server_reflection((*self.services, HEALTH, reflection.SERVICE_NAME), server)


async def warm_up(served: Served) -> None:
    """One request of one token through the whole engine; raises what a request would raise."""
    sampling = SamplingParams(max_tokens=1, ignore_eos=True, temperature=0.0)
    async for _ in served.engine.generate([0], sampling=sampling):
        pass


def warn_of_exposure(config: ServerConfig) -> None:
    """Says loudly what is missing where more than this machine can reach the port."""
    if is_loopback(config.host):
        return
    authenticated = bool(config.api_keys) or config.tls_client_ca is not None
    encrypted = config.tls_cert is not None
    if not authenticated:
        lacks = "AUTHENTICATION" if encrypted else "AUTHENTICATION OR ENCRYPTION"
        log.warning("LISTENING ON %s WITHOUT %s: whoever reaches this port can use the model", config.host, lacks)
    elif not encrypted:
        log.warning("LISTENING ON %s WITHOUT ENCRYPTION: API keys and texts can be read on the way", config.host)
