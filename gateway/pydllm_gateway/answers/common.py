"""Parts of answers that both endpoints share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydllm_proto.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf import duration_pb2
    from pydllm_proto.v1 import generation_service_pb2 as pb

    from pydllm_gateway.convert.plan import Shape

    Ended = types_pb2.Candidate | pb.CandidateFinished

_DETAILED = {
    types_pb2.FINISH_REASON_STOP: "stop",
    types_pb2.FINISH_REASON_STOP_SEQUENCE: "stop_sequence",
    types_pb2.FINISH_REASON_LENGTH: "length",
    types_pb2.FINISH_REASON_STEP_LIMIT: "step_limit",
    types_pb2.FINISH_REASON_REPETITION: "repetition",
}


def finish_reason(ended: Ended) -> str:
    """OpenAI's word: "stop" or "length"."""
    return "stop" if detailed_reason(ended).startswith("stop") else "length"


def detailed_reason(ended: Ended) -> str:
    """What ended the candidate, as `dllm.finish_reason` says it."""
    return _DETAILED.get(ended.finish_reason, "stop")


def usage(counts: Iterable[types_pb2.Usage]) -> dict[str, Any]:
    """OpenAI's usage object for the sum over all prompts."""
    parts = list(counts)
    prompt = sum(part.prompt_tokens for part in parts)
    completion = sum(part.completion_tokens for part in parts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(part.cached_prompt_tokens for part in parts)},
        "completion_tokens_details": {"reasoning_tokens": sum(part.reasoning_tokens for part in parts)},
    }


def statistics(ended: Ended) -> dict[str, Any]:
    """The `dllm` object of a finished choice. Times in seconds."""
    stats = ended.stats
    return {
        "nfe": stats.forward_passes,
        "steps": stats.denoise_steps,
        "blocks": stats.blocks,
        "edited_tokens": stats.edited_tokens,
        "tokens_per_forward": shortest(stats.tokens_per_forward),
        "time_to_first_block": seconds(stats.time_to_first_block),
        "generation_time": seconds(stats.generation_time),
        "queue_time": seconds(stats.queue_time),
        "finish_reason": detailed_reason(ended),
        "stop_match": stop_match(ended),
    }


def block_facts(block: pb.BlockAppended) -> dict[str, Any]:
    """The `dllm` object of a chunk with final text."""
    return {
        "event": "block",
        "block_index": block.block_index,
        "steps": block.denoise_steps,
        "token_offset": block.token_offset,
    }


def snapshot_facts(snapshot: pb.BlockSnapshot, mask_token_id: int) -> dict[str, Any]:
    """The `dllm` object of a provisional chunk; masked positions have no token id."""
    return {
        "event": "snapshot",
        "block_index": snapshot.block_index,
        "step": snapshot.step,
        "token_offset": snapshot.token_offset,
        "text": snapshot.text,
        "token_ids": [None if token == mask_token_id else token for token in snapshot.token_ids],
        "confidences": [shortest(confidence) for confidence in snapshot.confidences],
    }


def stop_match(ended: Ended) -> str | int | None:
    """The stop string or the id of the stop token that matched."""
    kind = ended.WhichOneof("stop_match")
    return None if kind is None else getattr(ended, kind)


def seconds(duration: duration_pb2.Duration) -> float:
    """A Duration as a number."""
    return round(duration.seconds + duration.nanos / 1e9, 6)


def shortest(value: float) -> float:
    """A float32 without the digits that it does not have. JSON has no infinities: they become 0."""
    return float(f"{value:.7g}") if math.isfinite(value) else 0.0


def envelope(shape: Shape, *, kind: str, created: int, model: str) -> dict[str, Any]:
    """What a body and a chunk begin with."""
    head = {"id": shape.id, "object": kind, "created": created, "model": model, "system_fingerprint": None}
    return head if shape.service_tier is None else {**head, "service_tier": shape.service_tier}
