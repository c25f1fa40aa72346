"""litellm against a running server, as provider "openai" with api_base."""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is downloaded

import litellm
from checks import ANSWER, CHAT, SUM, Setting, check, main

litellm.telemetry = False


def where(setting: Setting) -> dict[str, Any]:
    return {
        "model": f"openai/{setting.model}",
        "api_base": setting.base_url,
        "api_key": "unused",
        "num_retries": 0,
        "timeout": 60,
    }


@check
def completion(setting: Setting) -> object:
    answer = litellm.completion(messages=CHAT, seed=1, temperature=0, **where(setting))
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0
    return repr(answer.choices[0].message.content)


@check
def completion_streams(setting: Setting) -> object:
    chunks = list(
        litellm.completion(messages=CHAT, stream=True, stream_options={"include_usage": True}, **where(setting))
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    usage = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert usage[-1].completion_tokens > 0
    return f"{len(chunks)} chunks"


@check
def acompletion(setting: Setting) -> object:
    async def run() -> list[Any]:
        return await asyncio.gather(
            *(
                litellm.acompletion(messages=[{"role": "user", "content": f"Solve: {a} + 9."}], **where(setting))
                for a in range(8)
            )
        )

    answers = [answer.choices[0].message.content for answer in asyncio.run(run())]
    assert answers == [f"{a} + 9 = {a + 9}" for a in range(8)]
    return "8 sums at once"


@check
def text_completion(setting: Setting) -> object:
    answer = litellm.text_completion(
        prompt=SUM, max_tokens=8, **{**where(setting), "model": f"text-completion-openai/{setting.model}"}
    )
    return answer.choices[0].finish_reason


@check
def errors(setting: Setting) -> object:
    for kind, change in (
        (litellm.BadRequestError, {"temperature": -1}),
        (litellm.NotFoundError, {"model": "openai/gpt-4o"}),
        (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "1 " * 400}]}),
    ):
        try:
            litellm.completion(**{"messages": CHAT, **where(setting), **change})
        except kind:
            continue
        raise AssertionError(f"{change}: expected {kind.__name__}")
    return "BadRequest, NotFound, ContextWindowExceeded"


if __name__ == "__main__":
    main()
