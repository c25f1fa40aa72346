"""POST /generate on the real process: both native shapes say what /v1/completions says, whole and in every stream."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

from asking import SUM, client_of, events, gather, unary

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from asking import Json
    from stack import Stack

PATH = "/generate"
PROMPTS = (SUM, "Hello", "Spell cat backwards.", "Grüße, 世界!")


def drawn(seed: int) -> Json:
    """A completions request."""
    rng = random.Random(seed)
    return {
        "prompt": rng.choice(PROMPTS),
        "max_tokens": rng.choice([1, 7, 32, 33, 60]),
        "temperature": rng.choice([0.0, 1.0, 6.0]),
        "seed": rng.randrange(2**64),
        "ignore_eos": rng.choice([False, True]),
        "frequency_penalty": rng.choice([0.0, 0.0, 1.5]),
        "repetition_penalty": rng.choice([1.0, 1.3]),
        "logit_bias": rng.choice([{}, {"22": -100, "30": 2.5}]),
        "min_tokens": rng.choice([0, 1]),
        "min_p": rng.choice([0.0, 0.1]),
        "dllm": {"block_length": rng.choice([1, 4, 8, 32])},
    }


def as_sglang(body: Json) -> Json:
    """The same request in SGLang's words."""
    params = {"max_new_tokens": body["max_tokens"], "sampling_seed": body["seed"], "temperature": body["temperature"]}
    stop = {"stop": body["stop"]} if "stop" in body else {}
    rules = ("ignore_eos", "frequency_penalty", "repetition_penalty", "logit_bias", "min_p")
    params |= {"min_new_tokens": body["min_tokens"], **{name: body[name] for name in rules}, **stop}
    return {"text": body["prompt"], "sampling_params": params, "dllm": body["dllm"]}


def as_diffulex(body: Json) -> Json:
    """The same request in Diffulex's words, which have no seed: greedy."""
    kept = ("prompt", "max_tokens", "ignore_eos", "dllm")
    return {**{name: body[name] for name in kept}, "temperature": 0.0}


async def post(client: httpx.AsyncClient, body: Json) -> Any:
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, (body, response.text)
    return response.json()


def timeless(value: Any) -> Any:
    """Without ids and times, which differ between two requests."""
    if isinstance(value, dict):
        moving = ("id", "event", "e2e_latency", "time_to_first_block", "generation_time", "queue_time")
        return {key: timeless(item) for key, item in value.items() if key not in moving}
    return value


async def check_sglang(client: httpx.AsyncClient, seed: int) -> int:
    stop = {"stop": ["e", "= "]} if seed % 3 == 0 else {}
    body = {**drawn(seed), **stop}
    (expected,), usage = await unary(client, "/v1/completions", {**body, "return_token_ids": True})
    whole = await post(client, as_sglang(body))
    meta = whole["meta_info"]
    assert (whole["text"], whole["output_ids"]) == (expected.text, expected.token_ids)
    assert meta["finish_reason"]["type"] == expected.finish_reason
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    for mode in ("block_append", "denoise"):
        options = {"min_interval": 0} if mode == "denoise" else {}
        asked = {**as_sglang(body), "stream": True, "stream_mode": mode}
        chunks = await events(client, PATH, {**asked, "dllm": {**asked["dllm"], **options}})
        assert timeless(chunks[-1]) == timeless(whole)
        for before, after in itertools.pairwise(chunks):
            assert after["text"].startswith(before["text"])
            assert after["output_ids"][: len(before["output_ids"])] == before["output_ids"]
    return 2


async def check_diffulex(client: httpx.AsyncClient, seed: int) -> int:
    body = as_diffulex(drawn(seed))
    whole = await post(client, body)
    appended = await events(client, PATH, {**body, "stream": True, "stream_mode": "block_append"})
    assert timeless(appended[-1]) == timeless(whole)
    assert "".join(event["text"] for event in appended[:-1]) == whole["text"]
    assert [token for event in appended[:-1] for token in event["token_ids"]] == whole["token_ids"]
    options = {**body["dllm"], "min_interval": 0}
    *buffers, last = await events(client, PATH, {**body, "stream": True, "stream_mode": "denoise", "dllm": options})
    assert timeless(last) == timeless(whole)
    for buffer in buffers:
        final = buffer["final_tokens"]
        assert buffer["token_ids"][:final] == whole["token_ids"][:final]  # never taken back
        assert buffer["absolute_end"] - buffer["absolute_start"] == len(buffer["token_ids"])
    if buffers:
        assert (buffers[-1]["text"], buffers[-1]["token_ids"]) == (whole["text"], whole["token_ids"])
    return 2


async def test_streams_of_both_shapes_end_with_the_unary_reply(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    async with client_of(stack.url) as client:
        jobs = [check(client, seed) for seed in range(12) for check in (check_sglang, check_diffulex)]
        streams = sum(await gather(jobs))
    record_property("figure", f"{streams} native streams equal their unary replies")


async def test_a_list_of_prompts_is_answered_as_each_alone(stack: Stack) -> None:
    params = {"max_new_tokens": 16, "temperature": 0}
    async with client_of(stack.url) as client:
        together = await post(client, {"text": list(PROMPTS), "sampling_params": params})
        alone = [await post(client, {"text": prompt, "sampling_params": params}) for prompt in PROMPTS]
    assert [timeless(reply) for reply in together] == [timeless(reply) for reply in alone]


async def test_candidates_of_a_seed_are_the_same_in_a_stream(stack: Stack) -> None:
    params = {"max_new_tokens": 16, "temperature": 1, "sampling_seed": 5, "n": 3}
    async with client_of(stack.url) as client:
        whole = await post(client, {"text": SUM, "sampling_params": params})
        chunks = await events(client, PATH, {"text": SUM, "sampling_params": params, "stream": True})
    last = {chunk["index"]: chunk["text"] for chunk in chunks}
    assert [last[index] for index in range(3)] == [reply["text"] for reply in whole]


async def test_budgets_of_diffulex_end_the_request(stack: Stack) -> None:
    body = {"prompt": SUM, "max_tokens": 32, "temperature": 0, "ignore_eos": True}
    async with client_of(stack.url) as client:
        few = await post(client, {**body, "max_nfe": 3, "dllm": {"algorithm": "llada_schedule"}})
        repeated = await post(client, {**body, "max_repetition_run": 2, "dllm": {}})
    assert (few["nfe"], few["finish_reason"], few["dllm"]["finish_reason"]) == (3, "length", "step_limit")
    runs = [len(list(group)) for _, group in itertools.groupby(repeated["token_ids"])]
    assert repeated["dllm"]["finish_reason"] == "repetition"
    assert runs[-1] == max(runs) == 2
