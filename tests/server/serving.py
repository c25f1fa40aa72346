"""Helpers of the server tests: a scripted engine, an in-process server, unpacked statuses."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from demo_facts import VOCABULARY
from google.rpc import error_details_pb2, status_pb2
from pydllm_proto.v1 import (
    admin_service_pb2_grpc,
    generation_service_pb2_grpc,
    metrics_service_pb2_grpc,
    model_service_pb2_grpc,
    tokenizer_service_pb2_grpc,
)

import pydllm.checkpoint
from pydllm.canvas import CanvasIds
from pydllm.errors import EngineStoppedError, RequestCancelledError
from pydllm.server.app import App
from pydllm.server.config import ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydllm.server.served import Served

DEMO = Path(pydllm.checkpoint.__file__).parent.parent / "demo_model"
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}|{{ message.content }}"
    "|{{ message.tool_calls | default(none) | tojson }}"
    "|{{ message.tool_call_id }}>{% endfor %}"
    "{% if tools %}tools {{ tools | tojson }}{% endif %}{{ mood }}{% if add_generation_prompt %}GO{% endif %}"
)


EMPTY_STATS = {
    "FORWARD_BATCH_BOUNDS": (1, 2),
    "running": 0,
    "waiting": 0,
    "pages_total": 10,
    "pages_used": 0,
    "steps": 0,
    "request_forwards": 0,
    "forward_tokens": 0,
    "final_tokens": 0,
    "denoise_steps": 0,
    "blocks_finished": 0,
    "canvas_positions": 0,
    "forward_batch_sizes": [0, 0, 0],
}


def event(kind: str = "step", **fields: Any) -> SimpleNamespace:
    """A core event with the fields given; everything else is empty."""
    empty = {
        "id": 1,
        "time": 0.0,
        "forward_passes": 0,
        "denoise_steps": 0,
        "edited_tokens": 0,
        "queue_seconds": 0.0,
        "final_offset": 0,
        "final_tokens": [],
        "blocks": [],
        "snapshot_block": -1,
        "snapshot_step": 0,
        "snapshot_offset": 0,
        "snapshot_tokens": [],
        "snapshot_confidences": [],
        "finish_reason": "length",
        "stop_token_id": -1,
    }
    return SimpleNamespace(kind=kind, **{**empty, **fields})


def block(index: int, begin: int, end: int, steps: int = 1) -> SimpleNamespace:
    return SimpleNamespace(block_index=index, begin=begin, end=end, denoise_steps=steps)


def ended_by_token(tokens: list[int]) -> bool:
    return bool(tokens) and tokens[-1] in (0, 5, 30)


class ScriptedGeneration:
    """Plays (candidate, event) pairs; an asyncio.Event in the script is waited for, an exception is raised."""

    def __init__(self, engine: ScriptedEngine, request: Any) -> None:
        self.engine = engine
        self.request = request
        self.ended: list[int] = []

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        for item in self.engine.script:
            await asyncio.sleep(0)
            if isinstance(item, asyncio.Event):
                await self.engine.wait(item)
            elif isinstance(item, BaseException):
                raise item
            elif item[0] not in self.ended:
                yield item

    def end(self, index: int) -> None:
        self.ended.append(index)

    def cancel(self) -> None:
        self.engine.cancelled.set()

    def abort(self) -> bool:
        self.engine.aborted.set()
        return True


class ScriptedEngine:
    """Has the interface of AsyncEngine that the server uses; records what it is asked."""

    def __init__(self) -> None:
        defaults = SimpleNamespace(block_length=32)
        self.facts = SimpleNamespace(
            max_model_len=4096,
            vocab_size=VOCABULARY,
            mask_token_id=1,
            eos_token_ids=(0, 5),
            architecture="LLaDAModelLM",
            algorithms=("confidence_threshold",),
            default_algorithm="confidence_threshold",
            defaults=defaults,
        )
        self.loaded = SimpleNamespace(
            config=SimpleNamespace(max_waiting_requests=4, max_running_requests=2, page_size=8, threads=1),
            info=SimpleNamespace(device="cpu"),
        )
        self.script: list[Any] = [(0, event("started")), (0, event("finished"))]
        self.waiting = 0
        self.prompt: Any = []
        self.sampling: Any = None
        self.diffusion: Any = None
        self.deadline_seconds: float | None = None
        self.snapshots = False
        self.cancelled = asyncio.Event()
        self.submitted = asyncio.Event()
        self.closed = asyncio.Event()
        self.at_gate = asyncio.Event()
        self.aborted = asyncio.Event()

    def prepare(self, prompt_ids: Any, sampling: Any = None, diffusion: Any = None) -> Any:
        self.prompt, self.sampling, self.diffusion = prompt_ids, sampling, diffusion
        canvas = isinstance(prompt_ids, CanvasIds)
        return SimpleNamespace(
            prompt=prompt_ids.lay_out()[0] if canvas else prompt_ids,
            prompt_tokens=prompt_ids.length - prompt_ids.holes if canvas else len(prompt_ids),
            generated=int,
            seeds=tuple(range(sampling.n or 1)),
            stop=sampling.stop,
            include_stop=bool(sampling.include_stop),
            ended_by_token=ended_by_token,
            algorithm="confidence_threshold",
        )

    def submit(
        self, request: Any, *, deadline_seconds: float | None = None, snapshots: bool = False
    ) -> ScriptedGeneration:
        self.deadline_seconds, self.snapshots = deadline_seconds, snapshots
        self.submitted.set()
        return ScriptedGeneration(self, request)

    def generate(self, prompt_ids: list[int], *, sampling: Any) -> ScriptedGeneration:
        return ScriptedGeneration(ScriptedEngine(), self.prepare(prompt_ids, sampling))

    async def wait(self, gate: asyncio.Event) -> None:
        """Until the gate opens; EngineStoppedError when the engine is closed before, or what an abort brings."""
        self.at_gate.set()
        waiting = [asyncio.ensure_future(event.wait()) for event in (gate, self.closed, self.aborted)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self.aborted.is_set():
            raise RequestCancelledError("the request ended: cancelled")
        if not gate.is_set():
            raise EngineStoppedError("the engine is shut down")

    def stats(self) -> Any:
        return SimpleNamespace(**{**EMPTY_STATS, "waiting": self.waiting})

    async def ended(self) -> None:
        await self.closed.wait()

    async def close(self) -> None:
        self.closed.set()


class Client:
    """An in-process server and a channel to it."""

    def __init__(self, app: App, served: Served, channel: grpc.aio.Channel) -> None:
        self.app = app
        self.served = served
        self.engine: Any = served.engine
        self.channel = channel
        self.generation: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
        self.tokenizer: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
        self.models: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        self.metrics: Any = metrics_service_pb2_grpc.MetricsServiceStub(channel)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(channel)


async def running(served: Served, **config: Any) -> AsyncIterator[Client]:
    app = App(ServerConfig(port=0, **config))
    try:
        await app.start()
        await app.publish(served)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            yield Client(app, served, channel)
    finally:
        await app.close()


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A call's failed status, unpacked."""

    code: grpc.StatusCode
    message: str
    reason: str
    info: dict[str, str]
    fields: list[str]
    retry_seconds: int | None
    metadata: dict[str, Any]


def unpack(error: grpc.RpcError) -> Refusal:
    metadata = dict(error.trailing_metadata() or ())
    found: dict[str, Any] = {}
    if "grpc-status-details-bin" in metadata:
        status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
        assert status.code == error.code().value[0]
        assert status.message == error.details()
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            for packed in status.details:
                message = kind()
                if packed.Unpack(message):
                    found[kind.__name__] = message
    info = found.get("ErrorInfo")
    bad = found.get("BadRequest")
    retry = found.get("RetryInfo")
    return Refusal(
        code=error.code(),
        message=error.details(),
        reason=info.reason if info else "",
        info=dict(info.metadata) if info else {},
        fields=[violation.field for violation in bad.field_violations] if bad else [],
        retry_seconds=retry.retry_delay.seconds if retry else None,
        metadata=metadata,
    )


async def refused(call: Any) -> Refusal:
    """Awaits a unary call, or reads a stream to its end; it must fail."""
    try:
        if hasattr(call, "read"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.RpcError as error:
        return unpack(error)
    pytest.fail("the call succeeded")
