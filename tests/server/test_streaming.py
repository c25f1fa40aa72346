"""What a stream shows: final text once and whole, provisional blocks throttled, merged and replaceable."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2
from serving import Client, block, ended_by_token, event

from pydllm.outputs import BlockSnapshot
from pydllm.server.candidate import Candidate
from pydllm.server.convert import StreamOptions
from pydllm.server.outbox import Outbox
from pydllm.server.provisional import Renderer
from pydllm.text import CandidateAssembler, Tokenizer

M = None


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def outbox(clock: Clock, *, step_interval: int = 1, min_interval: float = 1.0) -> Outbox:
    return Outbox(step_interval=step_interval, min_interval=min_interval, clock=clock)


def snapshot(
    step: int, *, candidate: int = 0, block_index: int = 0, ids: list[int | None] | None = None
) -> BlockSnapshot:
    return BlockSnapshot(
        index=candidate,
        block_index=block_index,
        step=step,
        token_offset=4 * block_index,
        token_ids=ids or [M, M, M, M],
        confidences=[0.0 if token is M else token / 128 for token in ids or [M, M, M, M]],
    )


async def ready(box: Outbox) -> Any:
    task = asyncio.ensure_future(box.get())
    for _ in range(5):
        await asyncio.sleep(0)
    if task.done():
        return task.result()
    task.cancel()
    return "nothing"


async def test_snapshots_within_the_interval_are_merged_into_the_latest() -> None:
    clock = Clock()
    box = outbox(clock)
    box.offer(snapshot(0))
    assert (await ready(box)).step == 0
    for step in (1, 2, 3):
        clock.now += 0.3
        box.offer(snapshot(step))
        assert await ready(box) == "nothing"
    clock.now += 0.2
    assert (await ready(box)).step == 3
    assert await ready(box) == "nothing"


async def test_a_held_back_snapshot_is_sent_when_its_time_comes_without_another_event() -> None:
    box = Outbox(step_interval=1, min_interval=0.01)
    box.offer(snapshot(0))
    await box.get()
    box.offer(snapshot(1))
    sent = await asyncio.wait_for(box.get(), 10)
    assert isinstance(sent, BlockSnapshot)
    assert sent.step == 1


async def test_candidates_are_throttled_apart() -> None:
    box = outbox(Clock())
    box.offer(snapshot(0))
    box.offer(snapshot(0, candidate=1))
    assert {(await ready(box)).index, (await ready(box)).index} == {0, 1}


async def test_only_every_kth_step_makes_a_snapshot_due() -> None:
    box = outbox(Clock(), step_interval=3, min_interval=0.0)
    seen = []
    for step in range(7):
        box.offer(snapshot(step))
        item = await ready(box)
        if item != "nothing":
            seen.append(item.step)
    assert seen == [0, 3, 6]


async def test_final_messages_come_first_and_in_order() -> None:
    box = outbox(Clock())
    box.offer(snapshot(0))
    for sequence in range(3):
        box.put(pb.StreamGenerateResponse(sequence=sequence))
    got = [await ready(box) for _ in range(4)]
    assert [item.sequence for item in got[:3]] == [0, 1, 2]
    assert got[3].step == 0


async def test_dropped_snapshots_are_never_sent_and_flushed_ones_always() -> None:
    clock = Clock()
    box = outbox(clock, step_interval=10)
    box.offer(snapshot(1))
    box.flush(0)
    assert (await ready(box)).step == 1
    box.offer(snapshot(10))
    box.drop(0)
    clock.now += 10
    assert await ready(box) == "nothing"
    box.flush(0)
    assert await ready(box) == "nothing"


async def test_the_end_comes_after_what_is_final() -> None:
    box = outbox(Clock())
    box.offer(snapshot(0))
    box.put(pb.StreamGenerateResponse())
    box.close(ValueError("x"))
    assert isinstance(await ready(box), pb.StreamGenerateResponse)
    with pytest.raises(ValueError, match="x"):
        await box.get()


def renderer(mode: Any, **options: Any) -> Renderer:
    return Renderer(StreamOptions(mode=mode, **options), mask_token_id=9, decode=lambda ids: "".join(map(chr, ids)))


def test_snapshots_show_masks_as_mask_id_and_mask_text() -> None:
    made = renderer(pb.STREAM_MODE_SNAPSHOTS, snapshot_text=True, mask_text="[?]").message(
        snapshot(2, candidate=1, block_index=3, ids=[M, 65, 66, M])
    )
    assert made is not None
    assert made.candidate_index == 1
    expected = pb.BlockSnapshot(block_index=3, step=2, token_offset=12, token_ids=[9, 65, 66, 9], text="[?]AB[?]")
    expected.confidences.extend([0, 65 / 128, 66 / 128, 0])
    assert made.block_snapshot == expected


def test_text_is_only_rendered_when_asked_for() -> None:
    made = renderer(pb.STREAM_MODE_SNAPSHOTS).message(snapshot(0, ids=[65, M, M, M]))
    assert made is not None
    assert made.block_snapshot.text == ""


def test_edits_start_with_a_snapshot_and_then_send_what_changed() -> None:
    edits = renderer(pb.STREAM_MODE_EDITS)
    first = edits.message(snapshot(0, block_index=1, ids=[M, M, 7, M]))
    second = edits.message(snapshot(3, block_index=1, ids=[5, M, 8, M]))
    third = edits.message(snapshot(4, block_index=1, ids=[5, M, M, M]))
    nothing = edits.message(snapshot(5, block_index=1, ids=[5, M, M, M]))
    other = edits.message(snapshot(0, block_index=2, ids=[5, M, M, M]))
    cut = edits.message(snapshot(1, block_index=2, ids=[5]))
    assert cut is not None
    assert list(cut.block_snapshot.token_ids) == [5]
    assert None not in (first, second, third, other)
    assert first.HasField("block_snapshot")
    commit = pb.BlockEdits.Edit(position=4, token_id=5, kind=pb.EDIT_KIND_COMMIT, confidence=5 / 128)
    replace = pb.BlockEdits.Edit(position=6, token_id=8, kind=pb.EDIT_KIND_REPLACE, confidence=8 / 128)
    assert second.block_edits == pb.BlockEdits(block_index=1, step=3, edits=[commit, replace])
    assert list(third.block_edits.edits) == [pb.BlockEdits.Edit(position=6, kind=pb.EDIT_KIND_REMASK)]
    assert nothing is None
    assert other.HasField("block_snapshot")


def candidate(tokenizer: Tokenizer, **options: Any) -> Candidate:
    return Candidate(0, CandidateAssembler(tokenizer, **options), ended_by_token=ended_by_token)


def test_a_stop_string_ends_the_candidate_and_later_tokens_are_not_counted(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("12 + 30 = 42", add_special_tokens=False)
    one = candidate(tokenizer, stop=[" ="])
    blocks = one.accept(event(final_tokens=ids, blocks=[block(0, 0, 4), block(1, 4, len(ids))]))
    assert "".join(part.text for part in blocks) == "12 + 30"
    assert one.finished is not None
    assert one.finished.matched_stop == " ="
    assert one.token_count == sum(len(part.token_ids) for part in blocks) < len(ids)


def test_a_block_that_is_cut_short_by_the_end_is_still_appended(tokenizer: Tokenizer) -> None:
    one = candidate(tokenizer)
    first = one.accept(event(final_tokens=[22, 23], blocks=[block(0, 0, 2, 3)], denoise_steps=3))
    rest = one.accept(event("finished", final_offset=2, final_tokens=[24, 5], denoise_steps=5, finish_reason="stop"))
    assert [(part.block_index, part.token_offset, part.denoise_steps) for part in first + rest] == [
        (0, 0, 3),
        (1, 2, 2),
    ]
    assert list(rest[0].token_ids) == [24, 5]
    assert one.finished is not None
    assert one.finished.finish_reason == types_pb2.FINISH_REASON_STOP


def test_a_stop_token_is_named(tokenizer: Tokenizer) -> None:
    one = candidate(tokenizer)
    one.accept(event("finished", final_tokens=[22, 30], finish_reason="stop_token", stop_token_id=30))
    assert one.finished is not None
    assert one.finished.finish_reason == types_pb2.FINISH_REASON_STOP_SEQUENCE
    assert one.finished.matched_stop_token_id == 30


def stream_request(mode: Any = 0, *, continuous_usage: bool = False, **sampling: Any) -> Any:
    return pb.StreamGenerateRequest(
        request=pb.GenerateRequest(
            chat=types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content="Solve: 12 + 30.")]),
            sampling=types_pb2.SamplingParams(**sampling),
            diffusion=types_pb2.DiffusionParams(algorithm="llada_schedule", block_length=8),
            output=types_pb2.OutputOptions(token_ids=True, stats=True),
        ),
        options=pb.StreamOptions(mode=mode, min_interval={}, snapshot_text=True, continuous_usage=continuous_usage),
    )


async def collect(client: Client, request: pb.StreamGenerateRequest) -> list[Any]:
    return [message async for message in client.generation.StreamGenerate(request)]


CASES: list[dict[str, Any]] = [
    {"max_tokens": 20},
    {"max_tokens": 20, "ignore_eos": True},
    {"max_tokens": 1},
    {"max_tokens": 33, "ignore_eos": True, "n": 3, "temperature": 1.0, "seed": 5},
    {"max_tokens": 24, "stop": [" = 4"]},
    {"max_tokens": 24, "stop": [" = 4"], "include_stop": True},
    {"max_tokens": 24, "stop": ["2 +", "30"]},
    {"max_tokens": 24, "stop_token_ids": [24]},
]


def test_an_ending_token_is_no_text_whichever_event_brings_it(tokenizer: Tokenizer) -> None:
    one = candidate(tokenizer)
    blocks = one.accept(event(final_tokens=[22, 30], blocks=[block(0, 0, 2)]))
    blocks += one.accept(event("finished", finish_reason="stop_token", stop_token_id=30))
    assert "".join(part.text for part in blocks) == tokenizer.decode([22], skip_special_tokens=True)
    assert [token for part in blocks for token in part.token_ids] == [22, 30]


@pytest.mark.parametrize("mode", ["BLOCK_APPEND", "SNAPSHOTS", "EDITS"])
@pytest.mark.parametrize("sampling", CASES)
async def test_a_stream_adds_up_to_the_unary_answer(mode: str, sampling: dict[str, Any], demo: Client) -> None:
    request = stream_request(getattr(pb, f"STREAM_MODE_{mode}"), **sampling)
    messages = await collect(demo, request)
    unary = await demo.generation.Generate(request.request)
    assert [message.sequence for message in messages] == list(range(len(messages)))
    assert len({message.request_id for message in messages}) == 1
    assert messages[0].WhichOneof("event") == "started"
    assert messages[0].started.prompt_tokens == unary.usage.prompt_tokens
    assert [message.WhichOneof("event") for message in messages].count("started") == 1
    for whole in unary.candidates:
        own = [message for message in messages if message.candidate_index == whole.index]
        blocks = [message.block_appended for message in own if message.HasField("block_appended")]
        assert "".join(part.text for part in blocks) == whole.text
        assert [token for part in blocks for token in part.token_ids] == list(whole.token_ids)
        assert [part.token_offset for part in blocks] == [
            sum(len(part.token_ids) for part in blocks[:i]) for i in range(len(blocks))
        ]
        assert own[-1].WhichOneof("event") == "finished"
        assert own[-1].finished.finish_reason == whole.finish_reason
        assert own[-1].finished.WhichOneof("stop_match") == whole.WhichOneof("stop_match")
        assert own[-1].finished.stats.forward_passes == whole.stats.forward_passes
        if mode == "SNAPSHOTS":
            check_snapshots(own)
    assert messages[-1].usage == unary.usage
    assert sum(message.HasField("usage") for message in messages) == 1


def check_snapshots(own: list[Any]) -> None:
    """Snapshots belong to the block that is next, and never lose a committed token."""
    appended = 0
    known: dict[int, int] = {}
    for message in own:
        if message.HasField("block_appended"):
            part = message.block_appended
            appended = part.token_offset + len(part.token_ids)
            for position, token in enumerate(part.token_ids, part.token_offset):
                assert known.get(position, token) == token
        if message.HasField("block_snapshot"):
            shown = message.block_snapshot
            assert shown.token_offset >= appended
            tokens = {shown.token_offset + i: token for i, token in enumerate(shown.token_ids) if token != 1}
            assert all(tokens.get(position) == token for position, token in known.items() if position in tokens)
            assert {p for p in known if p >= shown.token_offset} <= set(tokens)
            known.update(tokens)
            assert "░" in shown.text


async def test_snapshots_are_sent_between_the_blocks(demo: Client) -> None:
    request = stream_request(pb.STREAM_MODE_SNAPSHOTS, max_tokens=16, ignore_eos=True)
    kinds = [message.WhichOneof("event") for message in await collect(demo, request)]
    assert kinds.count("block_appended") == 2
    assert kinds.count("block_snapshot") >= 2


async def test_a_step_limit_shows_what_is_final_of_the_unfinished_block(demo: Client) -> None:
    request = stream_request(pb.STREAM_MODE_SNAPSHOTS, max_tokens=16, ignore_eos=True)
    request.request.diffusion.max_forward_passes = 3
    request.options.step_interval = 100
    messages = await collect(demo, request)
    last = [message.block_snapshot for message in messages if message.HasField("block_snapshot")][-1]
    assert last.step == 2
    assert list(last.token_ids) == list((await demo.generation.Generate(request.request)).candidates[0].token_ids)
    assert messages[-1].finished.finish_reason == types_pb2.FINISH_REASON_STEP_LIMIT


@pytest.mark.parametrize("mode", [pb.STREAM_MODE_BLOCK_APPEND, pb.STREAM_MODE_SNAPSHOTS, pb.STREAM_MODE_EDITS])
async def test_a_repetition_run_ends_stream_and_unary_call_alike(demo: Client, mode: Any) -> None:
    request = stream_request(mode, max_tokens=32, ignore_eos=True, max_repetition_run=4)
    messages = await collect(demo, request)
    (whole,) = (await demo.generation.Generate(request.request)).candidates
    ids = [token for message in messages for token in message.block_appended.token_ids]
    assert ids == list(whole.token_ids)
    assert messages[-1].finished.finish_reason == whole.finish_reason == types_pb2.FINISH_REASON_REPETITION
    assert len(set(ids[-4:])) == 1
    assert 9 < len(ids) < 32  # behind the answer
    runs = [ids[end - 4 : end] for end in range(4, len(ids))]
    assert all(len(set(run)) > 1 for run in runs)  # none was complete before the last token


async def test_snapshots_and_edits_carry_the_confidences_of_the_engines_events(scripted: Client) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    where: Any = {"snapshot_block": 0, "snapshot_offset": 0}
    first = event(**where, snapshot_step=0, snapshot_tokens=[-1, 30, -1], snapshot_confidences=[0.0, 0.5, 0.0])
    second = event(**where, snapshot_step=1, snapshot_tokens=[40, 30, -1], snapshot_confidences=[0.25, 0.5, 0.0])
    scripted.engine.script = [
        (0, event("started")), (0, first), gates[0], (0, second), gates[1], (0, event("finished")),
    ]  # fmt: skip
    messages = aiter(scripted.generation.StreamGenerate(stream_request(pb.STREAM_MODE_EDITS)))
    assert (await anext(messages)).HasField("started")
    assert list((await anext(messages)).block_snapshot.confidences) == [0.0, 0.5, 0.0]
    gates[0].set()
    (edit,) = (await anext(messages)).block_edits.edits
    assert edit == pb.BlockEdits.Edit(position=0, token_id=40, kind=pb.EDIT_KIND_COMMIT, confidence=0.25)
    gates[1].set()
    assert [message.WhichOneof("event") async for message in messages] == ["finished"]


async def test_continuous_usage_is_on_every_message_and_grows(demo: Client) -> None:
    messages = await collect(demo, stream_request(max_tokens=16, ignore_eos=True, continuous_usage=True))
    counts = [message.usage.completion_tokens for message in messages]
    assert all(message.HasField("usage") for message in messages)
    assert counts == sorted(counts)
    assert counts[-1] == 16


async def test_the_echoed_prompt_is_the_beginning_of_the_output(demo: Client) -> None:
    request = stream_request(max_tokens=8, ignore_eos=True, n=2, temperature=1.0, seed=1)
    request.request.prompt = "Solve: 12 + 30."
    request.request.output.echo = True
    messages = await collect(demo, request)
    unary = await demo.generation.Generate(request.request)
    for whole in unary.candidates:
        blocks = [m.block_appended for m in messages if m.candidate_index == whole.index]
        blocks = [part for part in blocks if part.token_ids]
        assert whole.text.startswith("Solve: 12 + 30.")
        assert "".join(part.text for part in blocks) == whole.text
        assert [token for part in blocks for token in part.token_ids] == list(whole.token_ids)
        assert blocks[1].token_offset == len(blocks[0].token_ids) == unary.usage.prompt_tokens


async def test_a_canvas_streams_its_unary_answer_behind_the_echoed_text(demo: Client) -> None:
    segment = types_pb2.CanvasInput.Segment
    request = stream_request(pb.STREAM_MODE_SNAPSHOTS, n=2, temperature=1.0, seed=1)
    request.request.canvas.segments.extend(
        [segment(text="Solve: 12"), segment(mask_length=5), segment(token_ids=types_pb2.TokenIds(ids=[40]))]
    )
    request.request.canvas.segments.extend([segment(mask_length=3), segment(text=" = 42")])
    request.request.output.echo = True
    messages = await collect(demo, request)
    unary = await demo.generation.Generate(request.request)
    assert unary.usage.completion_tokens == 2 * 8
    assert unary.usage == messages[-1].usage
    for whole in unary.candidates:
        blocks = [m.block_appended for m in messages if m.candidate_index == whole.index]
        assert whole.text.startswith("Solve: 12")
        assert "".join(part.text for part in blocks) == whole.text
        assert [token for part in blocks for token in part.token_ids] == list(whole.token_ids)
        before = next(part for part in blocks if part.token_ids)
        assert before.text == "Solve: 12"
        assert len(whole.token_ids) == len(before.token_ids) + 9
        assert unary.usage.prompt_tokens > len(before.token_ids) + 1


async def test_statistics_come_only_when_asked_for(demo: Client) -> None:
    request = stream_request(max_tokens=8)
    request.request.ClearField("output")
    messages = await collect(demo, request)
    assert not messages[-1].finished.HasField("stats")
    assert not any(message.block_appended.token_ids for message in messages)


async def test_a_slow_reader_gets_every_block_and_few_snapshots(scripted: Client) -> None:
    steps, blocks = 20, 100
    tokens = [22] * 64
    wide = tokens * 512  # 32 KiB: a few MiB in all may wait in the connection's own buffers
    script: list[Any] = [(0, event("started"))]
    for index in range(blocks):
        begin = 64 * index
        for step in range(steps):
            shown = event(snapshot_block=index, snapshot_step=step, snapshot_offset=begin, snapshot_tokens=wide)
            script.append((0, shown))
        done = event(final_offset=begin, final_tokens=tokens, blocks=[block(index, begin, begin + 64)])
        script.append((0, done))
    gate = asyncio.Event()
    scripted.engine.script = [*script, gate, (0, event("finished"))]
    request = stream_request(pb.STREAM_MODE_SNAPSHOTS)
    request.options.snapshot_text = False
    call = scripted.generation.StreamGenerate(request)
    messages = aiter(call)
    await anext(messages)
    await asyncio.wait_for(scripted.engine.at_gate.wait(), 30)  # the engine is not held up by the reader
    gate.set()
    kinds = [message.WhichOneof("event") async for message in messages]
    assert kinds.count("block_appended") == blocks
    assert kinds.count("block_snapshot") < steps * blocks / 4
    assert kinds[-1] == "finished"
