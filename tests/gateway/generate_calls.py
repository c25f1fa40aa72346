"""What the tests of POST /generate share: calls, streams read back, and scripted candidates."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from fake_engine import MODEL
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2

if TYPE_CHECKING:
    import httpx
    from fake_engine import Block
    from pydllm_gateway.server import Gateway

Json = dict[str, Any]


async def reply(client: httpx.AsyncClient, body: Json, **options: Any) -> Any:
    """The body of a 200."""
    response = await client.post("/generate", json=body, **options)
    assert response.status_code == 200, response.text
    return response.json()


async def refused(client: httpx.AsyncClient, body: Json) -> Json:
    """The error object of a 400; its message begins with the field."""
    response = await client.post("/generate", json=body)
    assert response.status_code == 400, response.text
    error: Json = response.json()["error"]
    assert error["message"].startswith(error["param"])
    assert "\n" not in error["message"]
    return error


async def events(client: httpx.AsyncClient, body: Json) -> list[Json]:
    """The events of a stream that ends with [DONE]."""
    response = await client.post("/generate", json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def candidate(index: int = 0, text: str = "hello", ids: tuple[int, ...] = (7, 8, 1), **values: Any) -> Any:
    """A candidate; statistics have a different value in every field."""
    reason = values.pop("finish_reason", types_pb2.FINISH_REASON_STOP)
    return types_pb2.Candidate(
        index=index, text=text, token_ids=ids, finish_reason=reason, stats=statistics(), **values
    )


def statistics() -> types_pb2.DiffusionStats:
    """Of a finished candidate."""
    stats = types_pb2.DiffusionStats(
        forward_passes=9, denoise_steps=5, blocks=2, edited_tokens=3, tokens_per_forward=0.5
    )
    stats.queue_time.FromMilliseconds(250)
    stats.time_to_first_block.FromMilliseconds(500)
    stats.generation_time.FromMilliseconds(1500)
    return stats


DLLM_STATISTICS = {
    "nfe": 9,
    "steps": 5,
    "blocks": 2,
    "edited_tokens": 3,
    "tokens_per_forward": 0.5,
    "time_to_first_block": 0.5,
    "generation_time": 1.5,
    "queue_time": 0.25,
    "finish_reason": "stop",
    "stop_match": None,
}


def response(*candidates: Any, request_id: str = "id") -> pb.GenerateResponse:
    """A unary answer of the engine."""
    usage = types_pb2.Usage(prompt_tokens=4, cached_prompt_tokens=2, completion_tokens=3)
    return pb.GenerateResponse(request_id=request_id, model=MODEL, candidates=candidates, usage=usage)


def appended(text: str, ids: tuple[int, ...], index: int = 0, *, steps: int = 2, offset: int = 0, of: int = 0) -> Any:
    """A block of candidate `of`, with usage as continuous_usage gives it."""
    message = pb.StreamGenerateResponse(candidate_index=of)
    message.block_appended.CopyFrom(
        pb.BlockAppended(block_index=index, token_offset=offset, text=text, token_ids=ids, denoise_steps=steps)
    )
    message.usage.CopyFrom(types_pb2.Usage(prompt_tokens=4, cached_prompt_tokens=2))
    return message


def snapshot(text: str, ids: tuple[int, ...], *, step: int, offset: int, index: int = 1) -> Any:
    """The block being denoised; token 2 is the mask."""
    message = pb.StreamGenerateResponse()
    confidences = [0.0 if token == 2 else 0.75 for token in ids]
    message.block_snapshot.CopyFrom(
        pb.BlockSnapshot(
            block_index=index, step=step, token_offset=offset, text=text, token_ids=ids, confidences=confidences
        )
    )
    return message


def ended(reason: int = types_pb2.FINISH_REASON_STOP, *, of: int = 0, **values: Any) -> Any:
    """The end of candidate `of`."""
    message = pb.StreamGenerateResponse(candidate_index=of)
    message.finished.CopyFrom(pb.CandidateFinished(finish_reason=reason, stats=statistics(), **values))
    message.usage.CopyFrom(types_pb2.Usage(prompt_tokens=4, cached_prompt_tokens=2, completion_tokens=3))
    return message


async def leave(gateway: Gateway, body: Json, *waiting: Block, read_until: bytes = b"") -> None:
    """Sends a request, waits until the engine works on it, and closes the connection."""
    data = json.dumps(body).encode()
    head = (
        f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head.encode() + data)
    for block in waiting:
        await within(block.reached)
    if read_until:
        await asyncio.wait_for(reader.readuntil(read_until), 10)
    writer.close()
    await writer.wait_closed()


async def within(event: asyncio.Event) -> None:
    """Fails instead of hanging."""
    await asyncio.wait_for(event.wait(), 10)
