"""Every failure is one status of the error table, with its details, and says nothing of the inside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from demo_facts import VOCABULARY
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import model_service_pb2, tokenizer_service_pb2, types_pb2
from serving import Client, event, refused

from pydllm import errors
from pydllm.server.guard import HARD_MESSAGE_BYTES, MAX_MESSAGE_BYTES, Guard
from pydllm.server.lifecycle import Lifecycle

Code = grpc.StatusCode
GENERATE = "/pydllm.v1.GenerationService/Generate"


def prompt(**sampling: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="Solve: 1 + 2.", sampling=types_pb2.SamplingParams(**sampling))


async def raw(client: Client, data: bytes, method: str = GENERATE) -> Any:
    return await refused(client.channel.unary_unary(method)(data))


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.InvalidRequestError("sampling.n", "sampling.n: bad"), Code.INVALID_ARGUMENT, "INVALID_FIELD"),
        (errors.UnsupportedError("diffusion.x", "no"), Code.UNIMPLEMENTED, "UNSUPPORTED_BY_ALGORITHM"),
        (errors.QueueFullError("full"), Code.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (errors.EngineStoppedError("stopped"), Code.UNAVAILABLE, "DRAINING"),
        (errors.DeviceLostError("an illegal memory access"), Code.UNAVAILABLE, "DEVICE_LOST"),
        (errors.DeadlineExceededError("late"), Code.DEADLINE_EXCEEDED, ""),
        (errors.RequestCancelledError("aborted"), Code.CANCELLED, "ABORTED"),
    ],
)
@pytest.mark.parametrize("started", [False, True])
async def test_engine_errors_become_their_status(
    error: Exception, code: Code, reason: str, started: bool, scripted: Client
) -> None:
    scripted.engine.script = [(0, event("started")), error] if started else [error]
    unary = await refused(scripted.generation.Generate(prompt()))
    stream = await refused(scripted.generation.StreamGenerate(pb.StreamGenerateRequest(request=prompt())))
    assert (unary.code, unary.reason) == (stream.code, stream.reason) == (code, reason)
    retry = reason in ("QUEUE_FULL", "DRAINING", "DEVICE_LOST")
    assert unary.retry_seconds == (1 if retry else None)
    assert unary.metadata.get("grpc-retry-pushback-ms") == ("1000" if retry else None)


@pytest.mark.parametrize(
    "error", [RuntimeError("/srv/secret.py exploded"), KeyError("secret"), errors.InternalEngineError("secret")]
)
async def test_internal_errors_say_only_their_id(
    error: Exception, scripted: Client, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.engine.script = [error]
    with caplog.at_level(logging.ERROR):
        failure = await refused(scripted.generation.Generate(prompt()))
    assert failure.code is Code.INTERNAL
    assert failure.message.startswith("internal error, id ")
    assert "secret" not in repr(failure)
    assert "Traceback" not in repr(failure)
    assert failure.message.removeprefix("internal error, id ") in caplog.text
    assert "secret" in caplog.text


async def test_context_overflow_names_limit_and_given(demo: Client) -> None:
    request = prompt(max_tokens=1000)
    request.prompt_token_ids.ids.extend([7] * 10)
    failure = await refused(demo.generation.Generate(request))
    assert (failure.code, failure.reason) == (Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED")
    assert failure.info == {"limit": "256", "given": "1010"}
    assert failure.fields == ["sampling.max_tokens"]
    request.prompt_token_ids.ids.extend([7] * 300)
    failure = await refused(demo.generation.Generate(request))
    assert failure.info == {"limit": "256", "given": "310"}


BAD_FIELDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("sampling.temperature", {"temperature": float("nan")}, {}),
    ("sampling.temperature", {"temperature": float("inf")}, {}),
    ("sampling.temperature", {"temperature": -0.1}, {}),
    ("sampling.top_p", {"top_p": 0.0}, {}),
    ("sampling.top_p", {"top_p": 1.5}, {}),
    ("sampling.top_k", {"top_k": 2**32 - 1}, {}),
    ("sampling.max_tokens", {"max_tokens": 0}, {}),
    ("sampling.max_tokens", {"max_tokens": 2**32 - 1}, {}),
    ("sampling.stop", {"stop": [""]}, {}),
    ("sampling.stop", {"stop": ["x"] * 17}, {}),
    ("sampling.stop", {"stop": ["x" * 5000]}, {}),
    ("sampling.stop_token_ids", {"stop_token_ids": [VOCABULARY]}, {}),
    ("sampling.n", {"n": 0}, {}),
    ("sampling.n", {"n": 10_000}, {}),
    ("diffusion.algorithm", {}, {"algorithm": "no_such"}),
    ("diffusion.block_length", {}, {"block_length": 0}),
    ("diffusion.max_steps_per_block", {}, {"max_steps_per_block": 0}),
    ("diffusion.max_forward_passes", {}, {"max_forward_passes": 0}),
    ("diffusion.confidence_threshold", {}, {"confidence_threshold": float("nan")}),
    ("diffusion.confidence_threshold", {}, {"confidence_threshold": 7.0}),
    ("diffusion.entropy_threshold", {}, {"entropy_threshold": -1.0, "algorithm": "entropy_threshold"}),
]


@pytest.mark.parametrize(("path", "sampling", "diffusion"), BAD_FIELDS)
async def test_bad_values_are_refused_by_path(
    path: str, sampling: dict[str, Any], diffusion: dict[str, Any], demo: Client
) -> None:
    request = prompt(**sampling)
    request.diffusion.MergeFrom(types_pb2.DiffusionParams(**diffusion))
    failure = await refused(demo.generation.Generate(request))
    assert failure.code is Code.INVALID_ARGUMENT
    assert failure.fields == [path]
    assert failure.message.startswith(path)
    assert "\n" not in failure.message
    streamed = await refused(demo.generation.StreamGenerate(pb.StreamGenerateRequest(request=request)))
    assert streamed.fields == [f"request.{path}"]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"cache": "prefix", "cache_refresh_interval": 4}, Code.UNIMPLEMENTED),
        ({"algorithm": "multi_block_entropy", "cache_refresh_interval": 4}, Code.INVALID_ARGUMENT),
        ({"algorithm": "multi_block_entropy", "cache": "delayed", "cache_refresh_interval": 10**7},
         Code.INVALID_ARGUMENT),
    ],
)  # fmt: skip
async def test_a_refresh_is_refused_where_the_cache_has_none(given: dict[str, Any], code: Code, demo: Client) -> None:
    request = prompt()
    request.diffusion.MergeFrom(types_pb2.DiffusionParams(**given))
    failure = await refused(demo.generation.Generate(request))
    assert (failure.code, failure.fields) == (code, ["diffusion.cache_refresh_interval"])
    assert failure.message.startswith("diffusion.cache_refresh_interval")


@pytest.mark.parametrize(
    "given",
    [
        {"algorithm": "multi_block_entropy", "cache": "delayed", "cache_refresh_interval": 2},
        {"algorithm": "multi_block_entropy", "cache": "delayed", "cache_refresh_interval": 0},
        {"algorithm": "multi_block_entropy", "cache_refresh_interval": 0},
        {"cache": "prefix", "cache_refresh_interval": 0},
    ],
)
async def test_a_refresh_is_honoured_where_it_can_be_and_never_is_always_true(
    given: dict[str, Any], demo: Client
) -> None:
    request = prompt(max_tokens=16)
    request.diffusion.MergeFrom(types_pb2.DiffusionParams(**given))
    assert (await demo.generation.Generate(request)).candidates


@pytest.mark.parametrize(
    ("key", "value"), [("no_such", 1), ("steps", 0), ("steps", "many"), ("steps", None), ("steps", [1])]
)
async def test_bad_extra_parameters_are_refused(key: str, value: Any, demo: Client) -> None:
    request = prompt()
    request.diffusion.algorithm = "llada_schedule"
    request.diffusion.extra.update({key: value})
    failure = await refused(demo.generation.Generate(request))
    assert failure.code is Code.INVALID_ARGUMENT
    assert failure.fields == [f"diffusion.extra.{key}"]


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("options.step_interval", {"step_interval": 0}),
        ("options.min_interval", {"min_interval": {"seconds": -1}}),
        ("options.min_interval", {"min_interval": {"seconds": 10**10}}),
        ("options.mask_text", {"mask_text": "x" * 65}),
        ("options.mode", {"mode": 77}),
    ],
)
async def test_bad_stream_options_are_refused(path: str, options: dict[str, Any], demo: Client) -> None:
    request = pb.StreamGenerateRequest(request=prompt(), options=pb.StreamOptions(**options))
    failure = await refused(demo.generation.StreamGenerate(request))
    assert (failure.code, failure.fields) == (Code.INVALID_ARGUMENT, [path])


@pytest.mark.parametrize(
    ("path", "chat"),
    [
        ("chat.messages", {}),
        ("chat.messages[0].role", {"messages": [{"role": "wizard"}]}),
        ("chat.messages[0].tool_calls_json", {"messages": [{"role": "user", "tool_calls_json": "{"}]}),
        ("chat.messages[0].tool_calls_json", {"messages": [{"role": "user", "tool_calls_json": "[NaN]"}]}),
        ("chat.tools_json", {"messages": [{"role": "user"}], "tools_json": '{"a": 1}'}),
        ("chat.template_kwargs", {"messages": [{"role": "user"}], "template_kwargs": {"nope": 1}}),
    ],
)
async def test_bad_conversations_are_refused(path: str, chat: dict[str, Any], demo: Client) -> None:
    failure = await refused(demo.generation.Generate(pb.GenerateRequest(chat=types_pb2.ChatInput(**chat))))
    assert (failure.code, failure.fields) == (Code.INVALID_ARGUMENT, [path])


async def test_tools_without_a_template_for_them_are_unsupported(demo: Client) -> None:
    chat = types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user")], tools_json='[{"a": 1}]')
    failure = await refused(demo.generation.Generate(pb.GenerateRequest(chat=chat)))
    assert (failure.code, failure.fields) == (Code.UNIMPLEMENTED, ["chat.tools_json"])


@pytest.mark.parametrize("ids", [[VOCABULARY], [2**32 - 1], []])
async def test_prompt_ids_outside_the_vocabulary_are_refused(ids: list[int], demo: Client) -> None:
    request = pb.GenerateRequest(prompt_token_ids=types_pb2.TokenIds(ids=ids))
    failure = await refused(demo.generation.Generate(request))
    assert failure.code is Code.INVALID_ARGUMENT
    assert failure.fields == (["prompt_token_ids.ids[0]"] if ids else ["prompt"])


async def test_a_request_without_input_is_refused(demo: Client) -> None:
    assert (await refused(demo.generation.Generate(pb.GenerateRequest()))).fields == ["prompt"]
    assert (await refused(demo.generation.StreamGenerate(pb.StreamGenerateRequest()))).fields == ["request.prompt"]


Segment = types_pb2.CanvasInput.Segment


@pytest.mark.parametrize(
    ("segments", "path"),
    [
        ([], "canvas.segments"),
        ([Segment(text="a")], "canvas.segments"),
        ([Segment(text="a"), Segment()], "canvas.segments[1]"),
        ([Segment(text="a"), Segment(mask_length=0)], "canvas.segments[1].mask_length"),
        ([Segment(mask_length=4), Segment(text="a")], "canvas.segments"),
        ([Segment(token_ids=types_pb2.TokenIds(ids=[VOCABULARY])), Segment(mask_length=4)], "canvas.segments[0]"),
        ([Segment(text="a"), Segment(mask_length=2**32 - 1)], "canvas.segments[1].mask_length"),
        ([Segment(text="a"), Segment(mask_length=2**31 - 1)], "canvas"),
    ],
)
async def test_canvases_that_cannot_be_filled_are_refused(segments: list[Segment], path: str, demo: Client) -> None:
    request = pb.GenerateRequest(canvas=types_pb2.CanvasInput(segments=segments))
    error = await refused(demo.generation.Generate(request))
    assert error.code is Code.INVALID_ARGUMENT
    assert error.fields[0].startswith(path)


async def test_unknown_models_are_not_found_everywhere(demo: Client) -> None:
    calls = [
        demo.generation.Generate(pb.GenerateRequest(model="gpt", prompt="x")),
        demo.generation.StreamGenerate(pb.StreamGenerateRequest(request=pb.GenerateRequest(model="gpt", prompt="x"))),
        demo.models.GetModelInfo(model_service_pb2.GetModelInfoRequest(model="gpt")),
        demo.tokenizer.Tokenize(tokenizer_service_pb2.TokenizeRequest(model="gpt", text="x")),
        demo.tokenizer.Detokenize(tokenizer_service_pb2.DetokenizeRequest(model="gpt")),
        demo.tokenizer.GetTokenizerInfo(tokenizer_service_pb2.GetTokenizerInfoRequest(model="gpt")),
    ]
    for call in calls:
        failure = await refused(call)
        assert (failure.code, failure.reason) == (Code.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_adapters_are_unimplemented(demo: Client) -> None:
    load = await refused(demo.models.LoadLoraAdapter(model_service_pb2.LoadLoraAdapterRequest(name="a")))
    unload = await refused(demo.models.UnloadLoraAdapter(model_service_pb2.UnloadLoraAdapterRequest(name="a")))
    assert load.code is unload.code is Code.UNIMPLEMENTED


async def test_an_id_in_flight_is_refused_and_free_again_afterwards(scripted: Client) -> None:
    gate = asyncio.Event()
    scripted.engine.script.insert(1, gate)
    request = pb.GenerateRequest(prompt="x", request_id="same")
    first = scripted.generation.Generate(request)
    await scripted.engine.at_gate.wait()
    failure = await refused(scripted.generation.Generate(request))
    assert (failure.code, failure.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_IN_USE")
    gate.set()
    assert (await first).request_id == "same"
    assert (await scripted.generation.Generate(request)).request_id == "same"


async def test_requests_without_id_get_different_ones(scripted: Client) -> None:
    ids = {(await scripted.generation.Generate(pb.GenerateRequest(prompt="x"))).request_id for _ in range(3)}
    assert len(ids) == 3
    assert "" not in ids


@pytest.mark.parametrize("request_id", ["x" * 129, "tab\t", "naïve", "\x7f"])
async def test_ids_that_are_not_short_printable_ascii_are_refused(request_id: str, scripted: Client) -> None:
    failure = await refused(scripted.generation.Generate(pb.GenerateRequest(prompt="x", request_id=request_id)))
    assert failure.fields == ["request_id"]


async def test_the_longest_id_is_accepted(scripted: Client) -> None:
    longest = "~" * 128
    out = await scripted.generation.Generate(pb.GenerateRequest(prompt="x", request_id=longest))
    assert out.request_id == longest


async def test_a_full_queue_is_refused_before_tokenization(scripted: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: Any, **__: Any) -> None:
        raise AssertionError("tokenized")

    monkeypatch.setattr(type(scripted.served.tokenizer), "encode", encode)
    scripted.engine.waiting = 4
    failure = await refused(scripted.generation.Generate(prompt()))
    assert (failure.code, failure.reason, failure.retry_seconds) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x1a\x02\xff\xfe",  # prompt: not UTF-8
        b"\x0a\x01\x80",  # model: not UTF-8
        b"\x1a\x05ab",  # truncated
        b"\xff\xff\xff",  # no tag
        b"\x3a\x02\x62\xff",  # broken inside sampling
    ],
)
async def test_malformed_bytes_are_refused_and_the_connection_lives(data: bytes, demo: Client) -> None:
    failure = await raw(demo, data)
    assert (failure.code, failure.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    stream = demo.channel.unary_stream("/pydllm.v1.GenerationService/StreamGenerate")(data)
    assert (await refused(stream)).code is Code.INVALID_ARGUMENT
    assert (await demo.generation.Generate(prompt(max_tokens=1))).candidates


async def test_oversize_messages_are_refused_and_the_connection_lives(demo: Client) -> None:
    failure = await raw(demo, b"\x00" * (MAX_MESSAGE_BYTES + 1))
    assert (failure.code, failure.reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    failure = await raw(demo, b"\x00" * (HARD_MESSAGE_BYTES + 1))
    assert failure.code is Code.RESOURCE_EXHAUSTED
    assert (await demo.generation.Generate(prompt(max_tokens=1))).candidates


async def test_a_prompt_that_cannot_fit_is_refused_before_tokenization(
    demo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any, **__: Any) -> None:
        raise AssertionError("tokenized")

    longest = max(len(demo.served.tokenizer.token_text(i) or "") for i in range(VOCABULARY))
    monkeypatch.setattr(type(demo.served.tokenizer), "encode", encode)
    text = "x" * (256 * longest + 1)
    failure = await refused(demo.generation.Generate(pb.GenerateRequest(prompt=text)))
    assert (failure.code, failure.reason) == (Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED")
    chat = types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content=text)])
    assert (await refused(demo.generation.Generate(pb.GenerateRequest(chat=chat)))).fields == ["chat"]


async def test_unknown_methods_are_unimplemented(demo: Client) -> None:
    assert (await raw(demo, b"", "/pydllm.v1.GenerationService/NoSuch")).code is Code.UNIMPLEMENTED


async def test_mask_and_eos_ids_in_a_prompt_are_data(demo: Client) -> None:
    request = pb.GenerateRequest(
        prompt_token_ids=types_pb2.TokenIds(ids=[1, 0, 5, 1, 9]),
        sampling=types_pb2.SamplingParams(max_tokens=5, ignore_eos=True),
        output=types_pb2.OutputOptions(token_ids=True),
    )
    out = await demo.generation.Generate(request)
    assert len(out.candidates[0].token_ids) == 5
    assert 1 not in out.candidates[0].token_ids
    assert out.usage.prompt_tokens == 5


async def test_the_deadline_reaches_the_engine(scripted: Client) -> None:
    await scripted.generation.Generate(prompt(), timeout=30)
    assert 20 < scripted.engine.deadline_seconds <= 31  # gRPC rounds the timeout on the wire


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelling_the_call_cancels_the_generation(streaming: bool, scripted: Client) -> None:
    scripted.engine.script.insert(1, asyncio.Event())
    if streaming:
        call = scripted.generation.StreamGenerate(pb.StreamGenerateRequest(request=prompt()))
        await call.read()
    else:
        call = scripted.generation.Generate(prompt())
    await scripted.engine.at_gate.wait()
    call.cancel()
    await asyncio.wait_for(scripted.engine.cancelled.wait(), 10)
    assert await call.code() is Code.CANCELLED


async def test_a_passed_deadline_cancels_the_generation(scripted: Client) -> None:
    scripted.engine.script.insert(1, asyncio.Event())
    failure = await refused(scripted.generation.Generate(prompt(), timeout=0.2))
    assert failure.code is Code.DEADLINE_EXCEEDED
    await asyncio.wait_for(scripted.engine.cancelled.wait(), 10)


async def test_x_request_id_comes_back_with_success_and_failure(scripted: Client) -> None:
    metadata = (("x-request-id", "trace-7"),)
    call = scripted.generation.Generate(prompt(), metadata=metadata)
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "trace-7"
    bad = scripted.generation.Generate(pb.GenerateRequest(), metadata=metadata)
    failure = await refused(bad)
    assert failure.metadata["x-request-id"] == "trace-7"
    assert failure.fields == ["prompt"]
    too_long = scripted.generation.Generate(prompt(), metadata=(("x-request-id", "x" * 129),))
    assert (await refused(too_long)).fields == ["x-request-id"]


@pytest.mark.parametrize("failure", [grpc.aio.InternalError("Failed execute_batch"), grpc.aio.UsageError("finished")])
async def test_a_client_that_left_before_its_message_is_no_internal_error(
    caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    context = SimpleNamespace(invocation_metadata=tuple, set_trailing_metadata=lambda _: None)
    guard = Guard(Lifecycle(), SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        async with guard._answered("/pydllm.v1.X/Y", context, admission=contextlib.nullcontext()):  # type: ignore[arg-type]
            raise failure
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
