"""What becomes of one candidate: the accounting that Python's and the server's answers share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from text_reference import tokenizer_of

from pydllm.outputs import BlockSnapshot
from pydllm.text import CandidateAssembler, CandidateProgress

TOKENIZER = tokenizer_of("llada-tiny")
STOP_TOKEN = 30


def event(kind: str = "step", *, tokens: list[int] | None = None, **fields: Any) -> Any:
    empty: dict[str, Any] = {"time": 0.0, "forward_passes": 0, "denoise_steps": 0, "edited_tokens": 0}
    empty |= {"queue_seconds": 0.0, "blocks": []}
    snapshot: dict[str, Any] = {"snapshot_block": -1, "snapshot_step": 0, "snapshot_offset": 0}
    snapshot |= {"snapshot_tokens": [], "snapshot_confidences": []}
    end = {"finish_reason": "length", "stop_token_id": -1}
    return SimpleNamespace(kind=kind, final_tokens=tokens or [], **(empty | snapshot | end | fields))


def block(index: int, begin: int, end: int, steps: int) -> Any:
    return SimpleNamespace(block_index=index, begin=begin, end=end, denoise_steps=steps)


def progress(**options: Any) -> CandidateProgress:
    assembler = CandidateAssembler(TOKENIZER, **options)
    return CandidateProgress(2, assembler, ended_by_token=lambda tokens: bool(tokens) and tokens[-1] == STOP_TOKEN)


def test_steps_blocks_and_times_add_up_over_whole_and_cut_blocks() -> None:
    one = progress()
    assert one.accept(event("started", time=10.0)) == []
    first = one.accept(event(tokens=[40, 41], time=11.0, denoise_steps=3, blocks=[block(0, 0, 2, 3)]))
    counts = {"denoise_steps": 5, "edited_tokens": 4, "forward_passes": 6}
    end = event("finished", tokens=[42], time=12.5, queue_seconds=0.25, **counts)
    blocks = first + one.accept(end)
    assert [(b.index, b.block_index, b.token_offset, b.token_ids, b.denoise_steps) for b in blocks] == [
        (2, 0, 0, [40, 41], 3),
        (2, 1, 2, [42], 2),
    ]
    assert "".join(b.text for b in blocks) == TOKENIZER.decode([40, 41, 42], skip_special_tokens=True)
    assert one.finished is not None
    stats = one.finished.stats
    assert (one.finished.index, one.finished.finish_reason, one.finished.completion_tokens) == (2, "length", 3)
    assert (stats.blocks, stats.denoise_steps, stats.forward_passes, stats.tokens_per_forward) == (2, 5, 6, 0.5)
    assert stats.edited_tokens == 4
    assert (stats.queue_time, stats.time_to_first_block, stats.generation_time) == (0.25, 1.0, 2.5)


def test_an_end_before_the_first_forward_has_no_tokens_per_forward() -> None:
    one = progress()
    one.accept(event("started", time=3.0))
    assert one.accept(event("finished", time=5.0)) == []
    assert one.finished is not None
    assert one.finished.stats.tokens_per_forward == 0.0
    assert one.finished.stats.time_to_first_block == 2.0


@pytest.mark.parametrize(
    ("tokens", "reason", "expected", "match"),
    [
        ([40, STOP_TOKEN], "stop_token", "stop_sequence", STOP_TOKEN),
        ([40, STOP_TOKEN], "stop", "stop", None),
        ([40], "length", "length", None),
        ([40], "step_limit", "step_limit", None),
        ([40], "repetition", "repetition", None),
    ],
)
def test_the_end_names_its_reason(tokens: list[int], reason: str, expected: str, match: int | None) -> None:
    one = progress()
    one.accept(event("finished", tokens=tokens, finish_reason=reason, stop_token_id=STOP_TOKEN))
    assert one.finished is not None
    assert (one.finished.finish_reason, one.finished.stop_match) == (expected, match)


def test_a_snapshot_shows_masks_as_none_until_the_candidate_has_ended() -> None:
    shown = event(
        snapshot_block=1,
        snapshot_step=4,
        snapshot_offset=8,
        snapshot_tokens=[-1, 0, 7],
        snapshot_confidences=[0.0, 0.5, 1.0],
    )
    one = progress()
    assert one.snapshot(event()) is None
    assert one.snapshot(shown) == BlockSnapshot(
        index=2, block_index=1, step=4, token_offset=8, token_ids=[None, 0, 7], confidences=[0.0, 0.5, 1.0]
    )
    one.accept(event("finished"))
    assert one.snapshot(shown) is None


def test_events_after_a_stop_string_change_nothing() -> None:
    ids = TOKENIZER.encode("12 + 30 = 42", add_special_tokens=False)
    one = progress(stop=[" ="])
    blocks = one.accept(event(tokens=ids, time=1.0, blocks=[block(0, 0, len(ids), 1)]))
    end = one.finished
    assert end is not None
    assert (end.finish_reason, end.stop_match) == ("stop_sequence", " =")
    assert "".join(b.text for b in blocks) == "12 + 30"
    assert one.accept(event("finished", tokens=[40], time=9.0, finish_reason="length")) == []
    assert one.finished is end
    assert one.token_count == len(one.token_ids) == end.completion_tokens < len(ids)
