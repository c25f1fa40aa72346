"""No request field is forgotten: each is honoured (and proven so here) or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from demo_facts import VOCABULARY
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import types_pb2
from serving import Client, block, event, refused

from pydllm.canvas import Hole
from pydllm.server import convert, fields

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

REFUSED = {refusal.path for refusal in fields.REFUSALS}


def leaves(message: Descriptor, prefix: str = "") -> Iterator[str]:
    """Paths of all fields, not descending into google.protobuf messages and messages refused as a whole."""
    for field in message.fields:
        path = prefix + field.name
        inner = field.message_type
        opaque = inner is None or inner.GetOptions().map_entry or not inner.full_name.startswith("pydllm.")
        if opaque or path in REFUSED:
            yield path
        else:
            yield from leaves(inner, path + ".")


def test_every_field_is_either_honoured_or_refused() -> None:
    paths = set(leaves(pb.GenerateRequest.DESCRIPTOR))
    assert len(paths) > 40
    assert paths == convert.HONOURED | REFUSED
    assert not convert.HONOURED & REFUSED
    assert set(leaves(pb.StreamOptions.DESCRIPTOR)) == convert.HONOURED_STREAM
    assert [field.name for field in pb.StreamGenerateRequest.DESCRIPTOR.fields] == ["request", "options"]


# One case per honoured field: what to set, and what must come of it. `seen` is the scripted engine.

Build = Callable[[pb.GenerateRequest], Any]
Check = Callable[[Any, pb.GenerateResponse, Any], bool]


def sampling(**values: Any) -> Build:
    return lambda request: request.sampling.MergeFrom(types_pb2.SamplingParams(**values))


def diffusion(**values: Any) -> Build:
    return lambda request: request.diffusion.MergeFrom(types_pb2.DiffusionParams(**values))


def output(**values: Any) -> Build:
    return lambda request: request.output.MergeFrom(types_pb2.OutputOptions(**values))


def set_extra(request: pb.GenerateRequest) -> None:
    request.diffusion.extra.update({"steps": 7, "remasking": "random", "cfg_scale": 1.5, "flag": True})


def chat(**values: Any) -> Build:
    def build(request: pb.GenerateRequest) -> None:
        request.chat.MergeFrom(types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user")], **values))

    return build


def message(**values: Any) -> Build:
    def build(request: pb.GenerateRequest) -> None:
        request.chat.messages.append(types_pb2.ChatMessage(**{"role": "assistant", **values}))

    return build


def canvas(*segments: types_pb2.CanvasInput.Segment) -> Build:
    return lambda request: request.canvas.segments.extend(segments)


Segment = types_pb2.CanvasInput.Segment
THREE, HOLE = Segment(token_ids=types_pb2.TokenIds(ids=[1, 2, 3])), Segment(mask_length=4)


def set_kwargs(request: pb.GenerateRequest) -> None:
    chat()(request)
    request.chat.template_kwargs.update({"mood": "calm"})


def rendered(expected: str) -> Check:
    return lambda seen, _, tokenizer: seen.prompt == tokenizer.encode(expected, add_special_tokens=False)


def sampled(name: str, expected: Any) -> Check:
    return lambda seen, *_: getattr(seen.sampling, name) == expected


def diffused(name: str, expected: Any) -> Check:
    return lambda seen, *_: getattr(seen.diffusion, name) == expected


CASES: dict[str, tuple[Build, Check]] = {
    "model": (lambda r: setattr(r, "model", "scripted"), lambda _, out, __: out.model == "scripted"),
    "request_id": (lambda r: setattr(r, "request_id", "mine"), lambda _, out, __: out.request_id == "mine"),
    "prompt": (
        lambda r: setattr(r, "prompt", "12 + 30"),
        lambda seen, _, tokenizer: seen.prompt == tokenizer.encode("12 + 30", add_special_tokens=True),
    ),
    "prompt_token_ids.ids": (
        lambda r: r.prompt_token_ids.ids.extend([3, 1, 0, VOCABULARY - 1]),
        lambda seen, *_: seen.prompt == [3, 1, 0, VOCABULARY - 1],
    ),
    "chat.add_generation_prompt": (chat(add_generation_prompt=False), rendered("<user||null|>")),
    "chat.template_kwargs": (set_kwargs, rendered("<user||null|>calmGO")),
    "chat.tools_json": (chat(tools_json='[{"a": 1}]'), rendered('<user||null|>tools [{"a": 1}]GO')),
    "chat.messages.role": (message(), rendered("<assistant||null|>GO")),
    "chat.messages.content": (message(content="hi"), rendered("<assistant|hi|null|>GO")),
    "chat.messages.tool_calls_json": (message(tool_calls_json="[1]"), rendered("<assistant||[1]|>GO")),
    "chat.messages.tool_call_id": (message(tool_call_id="c7"), rendered("<assistant||null|c7>GO")),
    "canvas.segments.text": (
        canvas(Segment(text="12 + "), HOLE, Segment(text=" = 42")),
        lambda seen, _, tokenizer: (
            getattr(seen.prompt, "segments", None)
            == (
                tuple(tokenizer.encode("12 + ", add_special_tokens=True)),
                Hole(4),
                tuple(tokenizer.encode(" = 42", add_special_tokens=False)),
            )
        ),
    ),
    "canvas.segments.token_ids.ids": (
        canvas(THREE, HOLE),
        lambda seen, out, _: getattr(seen.prompt, "segments", ())[:1] == ((1, 2, 3),) and out.usage.prompt_tokens == 3,
    ),
    "canvas.segments.mask_length": (
        canvas(THREE, HOLE, THREE, Segment(mask_length=2)),
        lambda seen, *_: getattr(seen.prompt, "segments", ())[1::2] == (Hole(4), Hole(2)),
    ),
    "sampling.temperature": (sampling(temperature=0.0), sampled("temperature", 0.0)),
    "sampling.top_p": (sampling(top_p=0.9), sampled("top_p", 0.9)),
    "sampling.top_k": (sampling(top_k=40), sampled("top_k", 40)),
    "sampling.seed": (sampling(seed=2**64 - 1), sampled("seed", 2**64 - 1)),
    "sampling.min_p": (sampling(min_p=0.1), sampled("min_p", 0.1)),
    "sampling.repetition_penalty": (sampling(repetition_penalty=1.1), sampled("repetition_penalty", 1.1)),
    "sampling.presence_penalty": (sampling(presence_penalty=-0.5), sampled("presence_penalty", -0.5)),
    "sampling.frequency_penalty": (sampling(frequency_penalty=0.3), sampled("frequency_penalty", 0.3)),
    "sampling.logit_bias": (sampling(logit_bias={3: 1.1, 5: -100}), sampled("logit_bias", {3: 1.1, 5: -100.0})),
    "sampling.min_tokens": (sampling(min_tokens=2), sampled("min_tokens", 2)),
    "sampling.max_tokens": (sampling(max_tokens=7), sampled("max_tokens", 7)),
    "sampling.stop": (sampling(stop=["a", "b"]), sampled("stop", ("a", "b"))),
    "sampling.stop_token_ids": (sampling(stop_token_ids=[5, 9]), sampled("stop_token_ids", (5, 9))),
    "sampling.include_stop": (sampling(include_stop=True), sampled("include_stop", True)),
    "sampling.ignore_eos": (sampling(ignore_eos=True), sampled("ignore_eos", True)),
    "sampling.max_repetition_run": (sampling(max_repetition_run=4), sampled("max_repetition_run", 4)),
    "sampling.n": (sampling(n=1), sampled("n", 1)),
    "diffusion.algorithm": (diffusion(algorithm="llada_schedule"), diffused("algorithm", "llada_schedule")),
    "diffusion.block_length": (diffusion(block_length=16), diffused("block_length", 16)),
    "diffusion.max_steps_per_block": (diffusion(max_steps_per_block=3), diffused("max_steps_per_block", 3)),
    "diffusion.max_forward_passes": (diffusion(max_forward_passes=5), diffused("max_forward_passes", 5)),
    "diffusion.confidence_threshold": (
        diffusion(confidence_threshold=0.7),
        diffused("confidence_threshold", 0.7),
    ),
    "diffusion.entropy_threshold": (diffusion(entropy_threshold=0.25), diffused("entropy_threshold", 0.25)),
    "diffusion.cache": (diffusion(cache="dual"), diffused("cache", "dual")),
    "diffusion.cache_refresh_interval": (
        diffusion(cache_refresh_interval=0),
        diffused("cache_refresh_interval", 0),
    ),
    "diffusion.allow_edits": (diffusion(allow_edits=True), diffused("allow_edits", True)),
    "diffusion.edit_threshold": (diffusion(edit_threshold=0.25), diffused("edit_threshold", 0.25)),
    "diffusion.extra": (
        set_extra,
        diffused("extra", {"steps": 7, "remasking": "random", "cfg_scale": 1.5, "flag": True}),
    ),
    "output.token_ids": (output(token_ids=True), lambda _, out, __: out.candidates[0].token_ids == [22, 2]),
    "output.echo": (
        lambda r: (setattr(r, "prompt", "Solve: "), output(echo=True, token_ids=True)(r)),
        lambda seen, out, __: (
            out.candidates[0].text == "Solve: 1" and out.candidates[0].token_ids == [*seen.prompt, 22, 2]
        ),
    ),
    "output.skip_special_tokens": (
        output(skip_special_tokens=False),
        lambda _, out, tokenizer: out.candidates[0].text == "1" + tokenizer.token_text(2),
    ),
    "output.stats": (
        output(stats=True),
        lambda _, out, __: (
            out.candidates[0].stats.forward_passes == 3 and out.candidates[0].stats.tokens_per_forward > 0
        ),
    ),
}


def test_every_honoured_field_has_a_case() -> None:
    assert set(CASES) == convert.HONOURED


@pytest.mark.parametrize("path", sorted(CASES))
async def test_honoured_field_arrives(path: str, scripted: Client) -> None:
    build, check = CASES[path]
    request = pb.GenerateRequest()
    build(request)
    if request.WhichOneof("input") is None:
        request.prompt = "x"
    tokens = event("finished", final_tokens=[22, 2], blocks=[block(0, 0, 2)], forward_passes=3)
    scripted.engine.script = [(0, event("started")), (0, tokens)]
    response = await scripted.generation.Generate(request)
    assert check(scripted.engine, response, scripted.served.tokenizer)
    plain = await scripted.generation.Generate(pb.GenerateRequest(prompt="x"))
    assert not check(scripted.engine, plain, scripted.served.tokenizer) or path == "model"


async def test_unset_fields_stay_unset(scripted: Client) -> None:
    await scripted.generation.Generate(pb.GenerateRequest(prompt="x"))
    assert scripted.engine.sampling == type(scripted.engine.sampling)()
    assert scripted.engine.diffusion == type(scripted.engine.diffusion)()
    assert scripted.engine.deadline_seconds is None
    assert scripted.engine.snapshots is False


def constraint(request: pb.GenerateRequest) -> None:
    request.constraint.json_object = True


REFUSED_CASES: dict[str, tuple[Build, Build | None]] = {
    "constraint": (constraint, None),
    "output.logprobs": (output(logprobs=0), None),
    "priority": (lambda r: setattr(r, "priority", -1), lambda r: setattr(r, "priority", 0)),
    "cache_salt": (lambda r: setattr(r, "cache_salt", "t"), lambda r: setattr(r, "cache_salt", "")),
}


def test_every_refused_field_has_a_case() -> None:
    assert set(REFUSED_CASES) == REFUSED


@pytest.mark.parametrize("path", sorted(REFUSED_CASES))
async def test_refused_field_is_named_unless_neutral(path: str, scripted: Client) -> None:
    build, neutral = REFUSED_CASES[path]
    request = pb.GenerateRequest(prompt="x")
    build(request)
    error = await refused(scripted.generation.Generate(request))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert (error.reason, error.fields) == ("UNSUPPORTED_BY_ALGORITHM", [path])
    assert error.message.startswith(path)
    error = await refused(scripted.generation.StreamGenerate(pb.StreamGenerateRequest(request=request)))
    assert (error.code, error.fields) == (grpc.StatusCode.UNIMPLEMENTED, [f"request.{path}"])
    if neutral is not None:
        request = pb.GenerateRequest(prompt="x")
        neutral(request)
        assert (await scripted.generation.Generate(request)).request_id


@pytest.mark.parametrize("number", [0.9, 0.1, 1 / 3, 1e-7, 16777217.0, 3.4028235e38, 0.0, 1.0])
def test_a_wire_float_is_the_shortest_decimal_that_it_stands_for(number: float) -> None:
    wire = types_pb2.SamplingParams(temperature=number).temperature
    assert types_pb2.SamplingParams(temperature=convert.decimal(wire)).temperature == wire
    assert len(repr(convert.decimal(wire))) <= len(repr(wire))
    if len(repr(number)) < 9:
        assert convert.decimal(wire) == number
