"""The openai package, 2.x and 3.x alike, against a running server."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
from checks import ANSWER, CHAT, SLOW, SUM, Setting, check, main, seconds_until_idle, wait_until_busy
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

WARM = {"temperature": 4.0, "max_tokens": 24}  # as random as the demo model gets


def client_of(setting: Setting, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=setting.base_url, api_key="unused", max_retries=0, timeout=60, **options)


def status_error(kind: type[openai.APIStatusError], call: Any) -> openai.APIStatusError:
    """The error of a call that must fail with this kind; its body is OpenAI's error object."""
    error = caught(kind, call)
    assert isinstance(error.body, dict), error.body
    assert set(error.body) == {"message", "type", "param", "code"}, error.body
    assert "\n" not in str(error.body["message"])
    return error


def caught(kind: type[openai.APIStatusError], call: Any) -> openai.APIStatusError:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


@check
def chat(setting: Setting) -> object:
    answer = client_of(setting).chat.completions.create(model=setting.model, messages=CHAT)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == setting.model
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return f"openai {openai.__version__}: {answer.choices[0].message.content!r}"


@check
def a_conversation_with_text_parts(setting: Setting) -> object:
    parts = [{"type": "text", "text": "Solve: "}, {"type": "text", "text": "12 + 30."}]
    answer = client_of(setting).chat.completions.create(
        model=setting.model, messages=[{"role": "user", "content": parts}]
    )
    assert answer.choices[0].message.content == ANSWER
    return "parts joined"


@check
def replies_are_exactly_the_declared_types(setting: Setting) -> object:
    """The client itself never validates; its types do when asked."""
    client = client_of(setting)
    asked = {"model": setting.model, "max_tokens": 16}
    raw = client.chat.completions.with_raw_response.create(messages=CHAT, n=2, **asked)
    ChatCompletion.model_validate_json(raw.text, strict=True)
    raw = client.completions.with_raw_response.create(prompt=[SUM, SUM], **asked)
    Completion.model_validate_json(raw.text, strict=True)
    Model.model_validate_json(client.models.with_raw_response.retrieve(setting.model).text, strict=True)
    usage = {"include_usage": True}
    kinds = [
        (
            ChatCompletionChunk,
            client.chat.completions.create(messages=CHAT, stream=True, stream_options=usage, **asked),
        ),
        (Completion, client.completions.create(prompt=SUM, stream=True, stream_options=usage, **asked)),
    ]
    count = 0
    for kind, stream in kinds:
        for chunk in stream:
            kind.model_validate(chunk.model_dump(exclude_unset=True), strict=True)
            count += 1
    return f"{count} chunks and 3 replies validate strictly"


@check
def chat_streams(setting: Setting) -> object:
    client = client_of(setting)
    chunks = list(client.chat.completions.create(model=setting.model, messages=CHAT, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.role for chunk in chunks[1:]] == [None] * (len(chunks) - 1)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert not chunks[-1].choices[0].delta.content
    assert {(chunk.id, chunk.object, chunk.usage) for chunk in chunks} == {
        (chunks[0].id, "chat.completion.chunk", None)
    }
    return f"{len(chunks)} chunks"


@check
def the_usage_chunk_is_the_last_and_equals_unary_usage(setting: Setting) -> object:
    client = client_of(setting)
    asked = {"model": setting.model, "messages": CHAT}
    unary = client.chat.completions.create(**asked).usage
    *chunks, last = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
    assert last.choices == []
    assert last.usage == unary
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    return f"{unary.prompt_tokens} + {unary.completion_tokens} tokens"


@check
def continuous_usage_grows_to_the_unary_usage(setting: Setting) -> object:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = client_of(setting).chat.completions.create(
        model=setting.model, messages=CHAT, max_tokens=64, stream=True, stream_options=options,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    counts = [chunk.usage.completion_tokens for chunk in stream]
    assert counts == sorted(counts)
    assert counts[-1] == 64
    return counts


@check
def the_stream_helper_accumulates(setting: Setting) -> object:
    with client_of(setting).chat.completions.stream(model=setting.model, messages=CHAT) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert final.choices[0].message.content == ANSWER
    assert {"chunk", "content.delta", "content.done"} <= kinds
    return sorted(kinds)


@check
def completions(setting: Setting) -> object:
    client = client_of(setting)
    answer = client.completions.create(model=setting.model, prompt=SUM, max_tokens=16)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    chunks = list(client.completions.create(model=setting.model, prompt=SUM, max_tokens=16, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason
    return f"{answer.choices[0].finish_reason}, {answer.usage.completion_tokens} tokens"


def rendered(setting: Setting, text: str) -> list[int]:
    """The ids of a chat with one message, as the server itself makes them."""
    asked = {"model": setting.model, "messages": [{"role": "user", "content": text}]}
    return client_of(setting, default_headers={}).with_options(base_url=setting.url).post(
        "/tokenize", body=asked, cast_to=dict[str, Any]
    )["tokens"]  # fmt: skip


@check
def prompts_as_string_ids_and_lists_of_both(setting: Setting) -> object:
    client = client_of(setting)

    def texts(prompt: object) -> list[str]:
        answer = client.completions.create(model=setting.model, prompt=prompt, max_tokens=32)  # type: ignore[arg-type]
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    one, two = rendered(setting, SUM), rendered(setting, "Solve: 5 + 6.")
    assert texts(one) == [ANSWER]
    assert texts([one, two]) == [ANSWER, "5 + 6 = 11"]
    alone = [texts(text) for text in ("Hello", "Solve: 1 + 1.")]
    assert texts(["Hello", "Solve: 1 + 1."]) == [text for [text] in alone]
    return "4 forms"


@check
def n_candidates_are_the_single_answers_of_the_next_seeds(setting: Setting) -> object:
    client = client_of(setting)

    def texts(**asked: Any) -> list[str | None]:
        answer = client.chat.completions.create(
            model=setting.model, messages=CHAT, extra_body={"ignore_eos": True}, **WARM, **asked
        )
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.message.content for choice in answer.choices]

    both = texts(n=2, seed=7)
    assert both == texts(seed=7) + texts(seed=8)
    assert both[0] != both[1]
    listed = client.completions.create(model=setting.model, prompt=["a", "b", "c"], n=2, max_tokens=4)
    assert [choice.index for choice in listed.choices] == list(range(6))
    streamed = ["", ""]
    for chunk in client.chat.completions.create(
        model=setting.model, messages=CHAT, n=2, seed=7, stream=True, extra_body={"ignore_eos": True}, **WARM
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == both
    return both


@check
def a_stop_string_ends_the_text_before_itself(setting: Setting) -> object:
    client = client_of(setting)
    asked = {"model": setting.model, "messages": CHAT}
    for stop in ("= 4", ["never", "= 4"]):
        answer = client.chat.completions.create(stop=stop, **asked)
        assert answer.choices[0].message.content == "12 + 30 "
        assert answer.choices[0].finish_reason == "stop"
        chunks = client.chat.completions.create(stop=stop, stream=True, **asked)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "12 + 30 "
    return "'12 + 30 ' before '= 4'"


@check
def a_seed_repeats_an_answer_and_another_seed_changes_it(setting: Setting) -> object:
    client = client_of(setting)

    def text(seed: int) -> str | None:
        return client.chat.completions.create(
            model=setting.model, messages=[{"role": "user", "content": "Hello"}], seed=seed, temperature=1.0,
            max_tokens=32, extra_body={"ignore_eos": True},
        ).choices[0].message.content  # fmt: skip

    first = [text(seed) for seed in range(16)]
    assert first == [text(seed) for seed in range(16)]
    assert len(set(first)) > 1, first
    return f"{len(set(first))} answers from 16 seeds at temperature 1"


@check
def token_limits_are_exact(setting: Setting) -> object:
    client = client_of(setting)
    for name in ("max_tokens", "max_completion_tokens"):
        for limit in (1, 31, 33):
            answer = client.chat.completions.create(
                model=setting.model, messages=CHAT, extra_body={"ignore_eos": True}, **{name: limit}
            )
            assert answer.usage.completion_tokens == limit
            assert answer.choices[0].finish_reason == "length"
    return "1, 31, 33"


@check
def models(setting: Setting) -> object:
    client = client_of(setting)
    [model] = client.models.list()
    assert model.id == setting.model
    retrieved = client.models.retrieve(setting.model).to_dict()
    assert model.to_dict().items() <= retrieved.items()
    assert "confidence_threshold" in retrieved["dllm"]["algorithms"]  # type: ignore[index]
    error = status_error(openai.NotFoundError, lambda: client.models.retrieve("gpt-4o"))
    assert error.code == "model_not_found"
    return model.id


@check
def request_ids(setting: Setting) -> object:
    create = client_of(setting).chat.completions.create
    answer = create(model=setting.model, messages=CHAT, extra_headers={"X-Request-Id": "mine-1"})
    assert (answer._request_id, answer.id) == ("mine-1", "chatcmpl-mine-1")
    made = create(model=setting.model, messages=CHAT)
    assert made.id == f"chatcmpl-{made._request_id}"
    error = status_error(
        openai.BadRequestError,
        lambda: create(model=setting.model, messages=CHAT, temperature=-1, extra_headers={"X-Request-Id": "mine-2"}),
    )
    assert error.request_id == "mine-2"
    return "mine-1, mine-2"


@check
def errors_are_the_clients_exceptions(setting: Setting) -> object:
    create = client_of(setting).chat.completions.create
    asked: dict[str, Any] = {"model": setting.model, "messages": CHAT}
    too_long = [{"role": "user", "content": "1 " * 400}]
    json_only = {"type": "json_object"}
    rows = [
        (openai.NotFoundError, {"model": "gpt-4o"}, None, "model_not_found"),
        (openai.BadRequestError, {"temperature": -1}, "temperature", "invalid_value"),
        (openai.BadRequestError, {"max_tokens": 0}, "max_tokens", "invalid_value"),
        (openai.BadRequestError, {"n": 0}, "n", None),
        (openai.BadRequestError, {"messages": []}, "messages", None),
        (openai.BadRequestError, {"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role", None),
        (openai.BadRequestError, {"response_format": json_only}, "response_format", "unsupported_parameter"),
        (openai.BadRequestError, {"extra_body": {"temprature": 1}}, "temprature", None),
        (openai.BadRequestError, {"extra_body": {"dllm": {"algorithm": "x"}}}, "dllm.algorithm", None),
        (openai.BadRequestError, {"messages": too_long}, "messages", "context_length_exceeded"),
        (openai.BadRequestError, {"max_tokens": 100_000}, "max_tokens", "context_length_exceeded"),
    ]  # fmt: skip
    for kind, change, param, code in rows:
        for stream in (False, True):
            error = status_error(
                kind, lambda change=change, stream=stream: create(**{**asked, "stream": stream, **change})
            )
            assert param is None or error.param == param, (change, error.body)
            assert code is None or error.code == code, (change, error.body)
            assert error.type == "invalid_request_error", error.body
            if error.param and code != "context_length_exceeded":
                assert error.param in error.body["message"], error.body  # type: ignore[index]
    return f"{len(rows)} cases, unary and streaming"


@check
def keys_are_demanded(setting: Setting) -> object:
    def create(key: str) -> Any:
        client = openai.OpenAI(base_url=setting.keyed_url + "/v1", api_key=key, max_retries=0, timeout=60)
        return client.chat.completions.create(model=setting.model, messages=CHAT)

    assert create(setting.key).choices[0].message.content == ANSWER
    error = status_error(openai.AuthenticationError, lambda: create("sk-wrong"))
    assert "sk-" not in str(error.body)
    return error.code


@check
def an_image_is_refused_by_its_path(setting: Setting) -> object:
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "http://example.com/x.png"}}]
    error = status_error(
        openai.BadRequestError,
        lambda: client_of(setting).chat.completions.create(
            model=setting.model, messages=[{"role": "user", "content": parts}]
        ),
    )
    assert error.param is not None
    assert error.param.startswith("messages[0].content[1]")
    return error.param


@check
def dllm_extras_ride_in_standard_chunks(setting: Setting) -> object:
    create = client_of(setting).chat.completions.create
    body = {"dllm": {"algorithm": "llada_schedule", "steps": 16, "stream_mode": "denoise", "min_interval": 0}}
    asked: dict[str, Any] = {"model": setting.model, "messages": CHAT, "max_tokens": 16, "extra_body": body}
    plain = create(model=setting.model, messages=CHAT, max_tokens=16)
    assert "dllm" not in (plain.choices[0].model_extra or {}), "extras that nobody asked for"
    chunks = list(create(stream=True, **asked))
    events = [
        chunk.choices[0].model_extra["dllm"] for chunk in chunks if "dllm" in (chunk.choices[0].model_extra or {})
    ]
    kinds = [event.get("event") for event in events]
    assert kinds.count("snapshot") > 2
    assert "block" in kinds
    assert events[-1]["nfe"] == 16, events[-1]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    del body["dllm"]["stream_mode"], body["dllm"]["min_interval"]
    unary = create(**asked)
    assert text == unary.choices[0].message.content
    facts = unary.choices[0].model_extra["dllm"]
    assert (facts["nfe"], facts["steps"], facts["finish_reason"]) == (16, 16, events[-1]["finish_reason"])
    return f"{kinds.count('snapshot')} snapshots, {facts['tokens_per_forward']} tokens per forward"


@check
def diffusing_replaces_the_content(setting: Setting) -> object:
    create = client_of(setting).chat.completions.create
    body: dict[str, Any] = {"diffusing": True, "dllm": {"algorithm": "llada_schedule", "steps": 16, "min_interval": 0}}
    shown = [
        chunk.choices[0].delta.content
        for chunk in create(model=setting.model, messages=CHAT, max_tokens=16, stream=True, extra_body=body)
        if chunk.choices[0].delta.content is not None
    ]
    del body["diffusing"], body["dllm"]["min_interval"]
    assert (
        shown[-1]
        == create(model=setting.model, messages=CHAT, max_tokens=16, extra_body=body).choices[0].message.content
    )
    return f"{len(shown)} frames"


@check
def closing_a_stream_frees_the_engine(setting: Setting) -> object:
    stream = client_of(setting).chat.completions.create(
        model=setting.model, messages=CHAT, n=4, max_tokens=200, stream=True, extra_body=SLOW
    )
    assert next(iter(stream)).choices
    wait_until_busy(setting)
    stream.close()
    return f"{seconds_until_idle(setting):.2f} s"


@check
def a_client_timeout_frees_the_engine(setting: Setting) -> object:
    create = client_of(setting).with_options(timeout=0.4).chat.completions.create
    try:
        create(model=setting.model, messages=CHAT, n=8, max_tokens=200, extra_body=SLOW)
    except openai.APITimeoutError:
        return f"{seconds_until_idle(setting):.2f} s"
    raise AssertionError("expected APITimeoutError: the request was meant to take longer")


@check
def the_async_client(setting: Setting) -> object:
    async def run() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=setting.base_url, api_key="unused", max_retries=0) as client:

            async def one(a: int) -> str | None:
                messages = [{"role": "user", "content": f"Solve: {a} + 30."}]
                answer = await client.chat.completions.create(model=setting.model, messages=messages)  # type: ignore[arg-type]
                return answer.choices[0].message.content

            async def streamed() -> str:
                stream = await client.chat.completions.create(model=setting.model, messages=CHAT, stream=True)  # type: ignore[call-overload]
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return [*await asyncio.gather(*(one(a) for a in range(16)), streamed())]

    *answers, last = asyncio.run(run())
    assert answers == [f"{a} + 30 = {a + 30}" for a in range(16)]
    assert last == ANSWER
    return f"{len(answers)} sums at once"


if __name__ == "__main__":
    main()
