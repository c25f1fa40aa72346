"""Prints the fields of the openai package's request types, as JSON: endpoint -> names."""

from __future__ import annotations

import json
import typing

from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params


def names(*kinds: type) -> list[str]:
    return sorted({name for kind in kinds for name in typing.get_type_hints(kind)})


chat, text = chat_create_params, completion_create_params
print(
    json.dumps(
        {
            "chat/completions": names(chat.CompletionCreateParamsStreaming, chat.CompletionCreateParamsNonStreaming),
            "completions": names(text.CompletionCreateParamsStreaming, text.CompletionCreateParamsNonStreaming),
        }
    )
)
