"""langchain-openai against a running server. LangChain sends nulls for what is unset."""

from __future__ import annotations

from checks import ANSWER, SUM, Setting, check, main
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI


def chat_of(setting: Setting, **options: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=setting.base_url, api_key="unused", model=setting.model, max_retries=0, **options)


@check
def chat_invoke(setting: Setting) -> object:
    answer = chat_of(setting).invoke(SUM)
    assert answer.content == ANSWER
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["total_tokens"] > 0
    return repr(answer.content)


@check
def chat_with_history(setting: Setting) -> object:
    history = [SystemMessage("Answer."), HumanMessage("Hello"), AIMessage("Hello!"), HumanMessage(SUM)]
    answer = chat_of(setting, temperature=0, max_tokens=16, seed=1).invoke(history)
    assert answer.usage_metadata["input_tokens"] > chat_of(setting).invoke(SUM).usage_metadata["input_tokens"]
    return f"{answer.usage_metadata['input_tokens']} prompt tokens"


@check
def chat_stream(setting: Setting) -> object:
    chunks = list(chat_of(setting, stream_usage=True).stream(SUM))
    assert "".join(chunk.content for chunk in chunks) == ANSWER
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0
    return f"{len(chunks)} chunks"


@check
def chat_batch(setting: Setting) -> object:
    answers = chat_of(setting).batch([f"Solve: {a} + 7." for a in range(8)])
    assert [answer.content for answer in answers] == [f"{a} + 7 = {a + 7}" for a in range(8)]
    return "8 sums"


@check
def chat_stop(setting: Setting) -> object:
    assert chat_of(setting).invoke(SUM, stop=["= 4"]).content == "12 + 30 "
    return "'12 + 30 '"


@check
def completion_invoke_and_stream(setting: Setting) -> object:
    llm = OpenAI(base_url=setting.base_url, api_key="unused", model=setting.model, max_tokens=16, temperature=0,
                 max_retries=0, best_of=1, n=1)  # fmt: skip
    text = llm.invoke(SUM)
    assert "".join(llm.stream(SUM)) == text
    return f"{len(text)} characters"


if __name__ == "__main__":
    main()
