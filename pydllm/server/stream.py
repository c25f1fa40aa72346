"""StreamGenerate behind the service: engine events become messages, provisional ones throttled and merged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

from pydllm.outputs import BlockSnapshot
from pydllm.server.job import Job, now
from pydllm.server.outbox import Outbox
from pydllm.server.provisional import Renderer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pydllm.server import convert
    from pydllm.server.candidate import Candidate
    from pydllm.text.events import Event


class Stream:
    """One StreamGenerate call: a reader of the engine's events fills the outbox, `messages` empties it."""

    def __init__(self, job: Job, options: convert.StreamOptions) -> None:
        self._job = job
        self._options = options
        self._candidates = job.candidates()
        self._unfinished = len(self._candidates)
        self._outbox = Outbox(step_interval=options.step_interval, min_interval=options.min_interval)
        self._renderer = Renderer(options, mask_token_id=job.served.engine.facts.mask_token_id, decode=self._decode)
        self._started = False

    async def messages(self) -> AsyncGenerator[pb.StreamGenerateResponse]:
        """Every message of the call, numbered."""
        reader = asyncio.create_task(self._read())
        try:
            sequence = 0
            while (item := await self._outbox.get()) is not None:
                message = self._renderer.message(item) if isinstance(item, BlockSnapshot) else item
                if message is None:
                    continue
                message.request_id = self._job.request_id
                message.sequence = sequence
                sequence += 1
                yield message
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for index, event in self._job.generation:
                self._accept(self._candidates[index], event)
        except Exception as error:  # noqa: BLE001 - raised again by the outbox's reader
            self._outbox.close(error)
        else:
            self._outbox.close()

    def _accept(self, candidate: Candidate, event: Event) -> None:
        if event.kind == "started":
            self._start(candidate)
        snapshot = candidate.snapshot(event) if self._options.provisional else None
        blocks = self._job.accept(candidate, event)
        if blocks:
            self._outbox.drop(candidate.index)
        if snapshot is not None and snapshot.block_index not in [block.block_index for block in blocks]:
            self._outbox.offer(snapshot)
        for block in blocks:
            self._put(candidate, block_appended=self._job.trimmed(block))
        if candidate.finished is not None:
            self._finish(candidate)

    def _start(self, candidate: Candidate) -> None:
        if not self._started:
            self._started = True
            started = pb.StreamStarted(
                model=self._job.served.name,
                created=now(),
                prompt_tokens=self._job.prompt_tokens,
                mask_token_id=self._job.served.engine.facts.mask_token_id,
            )
            self._put(candidate, started=started)
        for block in self._job.echoed():
            self._put(candidate, block_appended=block)

    def _finish(self, candidate: Candidate) -> None:
        self._job.generation.end(candidate.index)
        done = self._job.finished(candidate)
        if done.finish_reason == types_pb2.FINISH_REASON_STEP_LIMIT:
            self._outbox.flush(candidate.index)
        else:
            self._outbox.drop(candidate.index)
        self._unfinished -= 1
        self._put(candidate, finished=done)

    def _put(
        self,
        candidate: Candidate,
        *,
        started: pb.StreamStarted | None = None,
        block_appended: pb.BlockAppended | None = None,
        finished: pb.CandidateFinished | None = None,
    ) -> None:
        usage = self._options.continuous_usage or (finished is not None and not self._unfinished)
        self._outbox.put(
            pb.StreamGenerateResponse(
                candidate_index=candidate.index,
                started=started,
                block_appended=block_appended,
                finished=finished,
                usage=self._job.usage(self._candidates) if usage else None,
            )
        )

    def _decode(self, token_ids: list[int]) -> str:
        return self._job.served.tokenizer.decode(token_ids, skip_special_tokens=self._job.output.skip_special_tokens)
