"""Lists the request fields that the installed openai package knows, as JSON: the promise that test_fields.py keeps.

Usage: python tests/gateway/list_openai_fields.py > tests/gateway/openai_fields.json
With --check: compares with the committed list (whatever version that was taken from) and prints what is new.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).with_name("openai_fields.json")


def keys(*kinds: Any) -> list[str]:
    """The keys of TypedDicts, together."""
    return sorted({key for kind in kinds for key in kind.__required_keys__ | kind.__optional_keys__})


def members(union: Any) -> list[Any]:
    """The TypedDicts of a union, nested ones too."""
    if hasattr(union, "__required_keys__"):
        return [union]
    if typing.get_origin(union) in (typing.Union, types.UnionType, typing.Annotated):
        return [kind for part in typing.get_args(union) for kind in members(part)]
    return []


def by_tag(kinds: list[Any], tag: str) -> dict[str, list[str]]:
    """Keys by the value of the literal that tells the kinds apart."""
    return {_literal(typing.get_type_hints(kind)[tag]): keys(kind) for kind in kinds}


def _literal(hint: Any) -> str:
    return str(typing.get_args(hint)[0])


def listed() -> dict[str, Any]:
    """Everything, by the name of the request object."""
    import openai
    from openai.types import chat, completion_create_params, shared_params
    from openai.types.chat import completion_create_params as chat_params

    parts = [*members(chat.ChatCompletionContentPartParam), chat.ChatCompletionContentPartRefusalParam]
    formats = [
        shared_params.ResponseFormatText,
        shared_params.ResponseFormatJSONObject,
        shared_params.ResponseFormatJSONSchema,
    ]
    return {
        "version": openai.__version__,
        "chat": keys(chat_params.CompletionCreateParamsNonStreaming, chat_params.CompletionCreateParamsStreaming),
        "completions": keys(
            completion_create_params.CompletionCreateParamsNonStreaming,
            completion_create_params.CompletionCreateParamsStreaming,
        ),
        "stream_options": keys(chat.ChatCompletionStreamOptionsParam),
        "messages": by_tag(members(chat.ChatCompletionMessageParam), "role"),
        "content_parts": by_tag(parts, "type"),
        "response_format": by_tag(formats, "type"),
    }


def unknown(found: Any, known: Any, path: str = "") -> list[str]:
    """Paths of what is in `found` and not in `known`."""
    if isinstance(found, dict):
        return [
            line
            for key, value in found.items()
            if key != "version"
            for line in (unknown(value, known[key], f"{path}{key}.") if key in known else [f"{path}{key}"])
        ]
    return [f"{path}{key}" for key in found if key not in known]


def main() -> int:
    if "--check" not in sys.argv:
        print(json.dumps(listed(), indent=2))
        return 0
    found = listed()
    new = unknown(found, json.loads(COMMITTED.read_text()))
    print(f"openai {found['version']}: {len(found['chat'])} chat and {len(found['completions'])} completions fields")
    print("\n".join(f"not listed: {path}" for path in new) or "all of them are listed")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
