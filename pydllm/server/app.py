"""The gRPC server's life: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydllm_proto.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
)

from pydllm.params import SamplingParams
from pydllm.server.generation_service import GenerationService
from pydllm.server.guard import HARD_MESSAGE_BYTES, Guard
from pydllm.server.health import HealthService
from pydllm.server.lifecycle import Lifecycle, Phase
from pydllm.server.model_service import ModelService
from pydllm.server.served import Backend, Served
from pydllm.server.tokenizer_service import TokenizerService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("pydllm.server")

SERVICES = (
    generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    tokenizer_service_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
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


class PortError(Exception):
    """The address cannot be listened on; one line."""


class LoadingStoppedError(Exception):
    """A signal came before the model was loaded. The loading thread may still run."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where to listen and how to stop."""

    host: str = "127.0.0.1"
    port: int = 50051
    """0: any free port."""
    drain_timeout: float = 30.0
    """Seconds that running requests have after the first SIGTERM."""


class App:
    """One listening server. `publish` makes it serve a model; `drain` ends it."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.lifecycle = Lifecycle()
        self.backend = Backend()
        self.health = HealthService(SERVICES)
        self.port = 0
        self._server = grpc.aio.server(interceptors=(Guard(self.lifecycle),), options=_OPTIONS)
        self._register()

    async def start(self) -> None:
        """Listens; calls are answered STARTING until `publish`. Raises PortError."""
        address = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        check_address(self.config.host, self.config.port)
        try:
            self.port = self._server.add_insecure_port(f"{address}:{self.config.port}")
        except RuntimeError:
            self.port = 0
        if not self.port or self.config.port not in (0, self.port):
            raise PortError(f"grpc_port: cannot listen on {address}:{self.config.port}")
        if not is_loopback(self.config.host):
            log.warning(
                "LISTENING ON %s WITHOUT AUTHENTICATION OR ENCRYPTION: whoever reaches this port can use the model",
                self.config.host,
            )
        await self._server.start()

    async def publish(self, served: Served) -> None:
        """Serves this model, after one forward pass has worked."""
        await warm_up(served)
        self.backend.served = served
        self.lifecycle.phase = Phase.SERVING
        await self.health.set_serving(True)

    async def drain(self) -> bool:
        """Takes no new calls, lets running ones finish, then ends the rest with UNAVAILABLE. True when none was cut."""
        self.lifecycle.phase = Phase.DRAINING
        await self.health.set_serving(False)
        finished = await self.lifecycle.idle(self.config.drain_timeout)
        if not finished:
            log.warning("cancelling %d calls that outlived the drain timeout", self.lifecycle.running_calls)
        if self.backend.served is not None:
            await self.backend.served.engine.close()
        await self.lifecycle.idle(CLEANUP_SECONDS)
        await self.close(CLOSE_SECONDS)
        return finished

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Stops listening; calls that still run after the grace are cut off. The engine is left alone."""
        await self._server.stop(grace_seconds)

    def _register(self) -> None:
        server = self._server
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(GenerationService(self.backend), server)
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(TokenizerService(self.backend), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.backend), server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        reflection.enable_server_reflection((*SERVICES, HEALTH, reflection.SERVICE_NAME), server)


async def warm_up(served: Served) -> None:
    """One request of one token through the whole engine; raises what a request would raise."""
    sampling = SamplingParams(max_tokens=1, ignore_eos=True, temperature=0.0)
    async for _ in served.engine.generate([0], sampling=sampling):
        pass


async def serve(config: ServerConfig, load: Callable[[], Served], ready: Callable[[App, Served], None]) -> None:
    """Runs until SIGTERM or SIGINT and drains; a second signal ends the process at once.

    `load` runs in a thread while the port already answers STARTING; `ready` is called when requests are served.
    Raises PortError, LoadingStoppedError and what `load` raises.
    """
    stop = asyncio.Event()
    app = App(config)
    try:
        await app.start()
        with _signals(stop):
            served = await _loaded(load, stop)
            await app.publish(served)
            ready(app, served)
            await stop.wait()
            log.info("draining: up to %g s for %d calls", config.drain_timeout, app.lifecycle.running_calls)
            await app.drain()
    finally:
        await app.close()


async def _loaded(load: Callable[[], Served], stop: asyncio.Event) -> Served:
    """What `load` returns or raises. Its thread is a daemon: a signal must not wait for it."""
    loop = asyncio.get_running_loop()
    loading: asyncio.Future[Served] = loop.create_future()

    def settle(served: Served | None, error: BaseException | None) -> None:
        if loading.cancelled():
            return
        if error is not None:
            loading.set_exception(error)
        elif served is not None:
            loading.set_result(served)

    def run() -> None:
        outcome: tuple[Served | None, BaseException | None]
        try:
            outcome = (load(), None)
        except Exception as error:  # noqa: BLE001 - raised again in the event loop
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="pydllm-load", daemon=True).start()
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not loading.done():
        loading.cancel()
        raise LoadingStoppedError("stopped while loading")
    return loading.result()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """PortError saying why the address cannot be used; gRPC itself only says that it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise PortError(f"host: {host} is no address of this machine") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise PortError(_bind_reason(error, host, port)) from None


def _bind_reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"grpc_port: {host}:{port} is in use"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host: {host} is no address of this machine"
    return f"grpc_port: cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
