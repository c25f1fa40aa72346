"""Generate and StreamGenerate: from a request of the wire to the engine and back."""

# ruff: noqa: N802 - gRPC names the methods and passes the context

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import generation_service_pb2_grpc as pb_grpc
from pydllm_proto.v1 import types_pb2

from pydllm.canvas import Canvas, Hole
from pydllm.errors import DeadlineExceededError, InvalidRequestError, QueueFullError
from pydllm.server import convert
from pydllm.server.fields import refuse_unsupported
from pydllm.server.job import Job, now
from pydllm.server.metrics import Observer
from pydllm.server.no_tokenizer import refuse_text
from pydllm.server.served import Backend, Served, encode_canvas, encode_prompt
from pydllm.server.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydllm.engine import PreparedRequest
    from pydllm.server.candidate import Candidate
    from pydllm.server.rpc import Context

_UNARY = convert.StreamOptions()

RESERVE_SHARE = 0.1
"""Of the time that is left until a call's deadline: the answer needs it to reach the client."""
RESERVE_SECONDS = 0.25
"""Never more than this."""

log = logging.getLogger("pydllm.server")


class GenerationService(pb_grpc.GenerationServiceServicer):
    """pydllm.v1.GenerationService. Raises the errors of pydllm.errors; the guard turns them into statuses."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Runs to the end and returns everything."""
        with self._observer(context) as observer:
            async with self._open(request, observer) as job:
                return await _answer(job)

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: Context
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Streams what becomes final, and provisional blocks where asked for."""
        with self._observer(context) as observer:
            options = convert.stream_options(request.options)
            async with (
                self._open(request.request, observer, options) as job,
                contextlib.aclosing(Stream(job, options).messages()) as messages,
            ):
                async for message in messages:
                    yield message

    def _observer(self, context: Context) -> Observer:
        return Observer(self._backend.metrics, deadline=_deadline(context))

    @contextlib.asynccontextmanager
    async def _open(
        self, request: pb.GenerateRequest, observer: Observer, options: convert.StreamOptions = _UNARY
    ) -> AsyncIterator[Job]:
        """Checks a request, hands it to the engine and cancels what still runs of it in the end."""
        served = self._backend.model(request.model)
        refuse_unsupported(request)
        if not served.has_tokenizer:
            refuse_text(request, options)
        request_id = convert.request_id(request.request_id) or uuid.uuid4().hex
        with self._backend.requests.in_flight(request_id) as entry:
            output = _output(served, request)
            prompt_ids, text, prepared = await _prepare(served, request)
            seconds = _remaining(observer.deadline)
            generation = served.engine.submit(prepared, deadline_seconds=seconds, snapshots=options.provisional)
            log.debug("request %s: %d prompt tokens, %s", request_id, len(prompt_ids), prepared.algorithm)
            try:
                entry.submitted(generation)
                observer.submitted(prompt_tokens=prepared.prompt_tokens, candidates=len(prepared.seeds))
                yield Job(
                    request_id=request_id,
                    served=served,
                    generation=generation,
                    prompt_ids=prompt_ids,
                    echo_text=_echo_text(served, output, prompt_ids, text),
                    output=output,
                    observer=observer,
                )
            finally:
                generation.cancel()


async def _answer(job: Job) -> pb.GenerateResponse:
    """Reads the whole generation."""
    candidates = job.candidates()
    blocks: list[list[pb.BlockAppended]] = [job.echoed() for _ in candidates]
    created = now()
    async for index, event in job.generation:
        if event.kind == "started":
            created = now()
        blocks[index] += job.accept(candidates[index], event)
        if candidates[index].finished is not None:
            job.generation.end(index)
    return pb.GenerateResponse(
        request_id=job.request_id,
        model=job.served.name,
        created=created,
        candidates=[_whole(job, c, parts) for c, parts in zip(candidates, blocks, strict=True)],
        usage=job.usage(candidates),
    )


def _output(served: Served, request: pb.GenerateRequest) -> convert.OutputOptions:
    """Without text the token ids are the answer, asked for or not."""
    output = convert.output_options(request.output)
    return output if served.has_tokenizer else replace(output, token_ids=True)


async def _prepare(served: Served, request: pb.GenerateRequest) -> tuple[list[int], str | None, PreparedRequest]:
    """The prompt's ids, its text where it was given, and what the engine is asked."""
    sampling = convert.sampling_params(request.sampling)
    diffusion = convert.diffusion_params(request.diffusion)
    prompt = convert.prompt_input(request)
    _require_room(served)
    if isinstance(prompt, Canvas):
        prepared = served.engine.prepare(await encode_canvas(served, prompt), sampling, diffusion)
        return list(prepared.prompt), _text_before(prompt), prepared
    prompt_ids, text = await encode_prompt(served, prompt)
    return prompt_ids, text, served.engine.prepare(_known(served, prompt_ids, request), sampling, diffusion)


def _text_before(canvas: Canvas) -> str | None:
    """The text before the first hole where it was given as one text."""
    first, second = canvas.segments[:2]
    return first if isinstance(first, str) and isinstance(second, Hole) else None


def _whole(job: Job, candidate: Candidate, blocks: list[pb.BlockAppended]) -> types_pb2.Candidate:
    done = job.finished(candidate)
    out = types_pb2.Candidate(
        index=candidate.index,
        text="".join(block.text for block in blocks),
        token_ids=[token for block in blocks for token in job.trimmed(block).token_ids],
        finish_reason=done.finish_reason,
        stats=done.stats if done.HasField("stats") else None,
    )
    if done.WhichOneof("stop_match") == "matched_stop":
        out.matched_stop = done.matched_stop
    if done.WhichOneof("stop_match") == "matched_stop_token_id":
        out.matched_stop_token_id = done.matched_stop_token_id
    return out


def _deadline(context: Context) -> float | None:
    """The call's deadline on the monotonic clock."""
    seconds: float | None = context.time_remaining()
    return None if seconds is None else time.monotonic() + seconds


def _remaining(deadline: float | None) -> float | None:
    """What the engine has of the time until the call's deadline, when the client gives up."""
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise DeadlineExceededError("the deadline had passed before the request was queued")
    return seconds - min(RESERVE_SHARE * seconds, RESERVE_SECONDS)


def _require_room(served: Served) -> None:
    """A full queue answers at once, before any tokenization; the engine still has the last word."""
    limit = served.engine.loaded.config.max_waiting_requests
    if served.engine.stats().waiting >= limit:
        raise QueueFullError(f"the queue is full ({limit} requests are waiting)")


def _known(served: Served, prompt_ids: list[int], request: pb.GenerateRequest) -> list[int]:
    """The ids, each in the model's vocabulary; names the one that is not."""
    size = served.engine.facts.vocab_size
    for position, token in enumerate(prompt_ids):
        if token >= size:
            path = (
                f"prompt_token_ids.ids[{position}]" if request.WhichOneof("input") == "prompt_token_ids" else "prompt"
            )
            raise InvalidRequestError(path, f"{path}: expected an id in [0, {size - 1}], got {token}")
    return prompt_ids


def _echo_text(served: Served, output: convert.OutputOptions, prompt_ids: list[int], text: str | None) -> str | None:
    if not output.echo:
        return None
    if text is not None:
        return text
    return served.tokenizer.decode(prompt_ids, skip_special_tokens=output.skip_special_tokens)
