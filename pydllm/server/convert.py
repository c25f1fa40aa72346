"""Requests of the wire as pydllm's dataclasses: one line per field."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydllm_proto.v1 import generation_service_pb2 as generation_pb
from pydllm_proto.v1 import types_pb2

from pydllm.canvas import Canvas, Hole
from pydllm.errors import InvalidRequestError
from pydllm.params import DiffusionParams, SamplingParams, shown
from pydllm.server.fields import is_set

if TYPE_CHECKING:
    from google.protobuf import struct_pb2
    from google.protobuf.message import Message

MAX_REQUEST_ID = 128
MAX_STEP_INTERVAL = 2**31 - 1
MAX_MASK_TEXT = 64
MAX_INTERVAL_SECONDS = 3600.0
DEFAULT_INTERVAL_SECONDS = 0.033
DEFAULT_MASK_TEXT = "░"
ROLES = ("system", "user", "assistant", "tool")


def decimal(value: float) -> float:
    """The shortest decimal that is this float32: 0.9 on the wire means 0.9, as it does in Python."""
    if not math.isfinite(value):
        return value
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == struct.pack("f", value):
            return short
    return value


def json_value(value: struct_pb2.Value, path: str) -> Any:
    """A Value as plain Python data; whole numbers become ints. InvalidRequestError(path) for NaN and infinities."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return json_object(value.struct_value, path)
    if kind == "list_value":
        return [json_value(item, path) for item in value.list_value.values]
    if kind == "number_value":
        return _number(value.number_value, path)
    return getattr(value, kind) if kind in ("string_value", "bool_value") else None


def json_object(value: struct_pb2.Struct, path: str) -> dict[str, Any]:
    """A Struct as a dict; `path` names it in errors."""
    return {key: json_value(item, f"{path}.{key}") for key, item in value.fields.items()}


def _number(number: float, path: str) -> int | float:
    if not math.isfinite(number):
        raise InvalidRequestError(path, f"{path}: expected a finite number, got {number}")
    return int(number) if number.is_integer() and abs(number) <= 2**53 else number


def _json_array(text: str, path: str) -> list[Any]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise InvalidRequestError(path, f"{path}: expected a JSON array, got {shown(text)}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_Fields = Mapping[str, Callable[[Any], Any]]

SAMPLING: _Fields = {
    "temperature": decimal,
    "top_p": decimal,
    "top_k": int,
    "seed": int,
    "max_tokens": int,
    "min_tokens": int,
    "min_p": decimal,
    "repetition_penalty": decimal,
    "presence_penalty": decimal,
    "frequency_penalty": decimal,
    "logit_bias": lambda value: {token_id: decimal(bias) for token_id, bias in value.items()},
    "stop": tuple,
    "stop_token_ids": tuple,
    "include_stop": bool,
    "ignore_eos": bool,
    "max_repetition_run": int,
    "n": int,
}

DIFFUSION: _Fields = {
    "algorithm": str,
    "block_length": int,
    "max_steps_per_block": int,
    "max_forward_passes": int,
    "confidence_threshold": decimal,
    "entropy_threshold": decimal,
    "cache": str,
    "cache_refresh_interval": int,
    "allow_edits": bool,
    "edit_threshold": decimal,
    "extra": lambda value: json_object(value, "diffusion.extra"),
}


def _given(message: Message, fields: _Fields) -> dict[str, Any]:
    return {name: read(getattr(message, name)) for name, read in fields.items() if is_set(message, name)}


def sampling_params(message: types_pb2.SamplingParams) -> SamplingParams:
    """Raises InvalidRequestError for values out of range."""
    return SamplingParams(**_given(message, SAMPLING))


def diffusion_params(message: types_pb2.DiffusionParams) -> DiffusionParams:
    """Raises InvalidRequestError for values out of range."""
    return DiffusionParams(**_given(message, DIFFUSION))


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What to return beside text."""

    token_ids: bool = False
    echo: bool = False
    skip_special_tokens: bool = True
    stats: bool = False


OUTPUT: _Fields = {"token_ids": bool, "echo": bool, "skip_special_tokens": bool, "stats": bool}


def output_options(message: types_pb2.OutputOptions) -> OutputOptions:
    """Unset fields take their documented defaults."""
    return OutputOptions(**_given(message, OUTPUT))


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream shows progress. Intervals in seconds."""

    mode: generation_pb.StreamMode = generation_pb.STREAM_MODE_BLOCK_APPEND
    step_interval: int = 1
    min_interval: float = DEFAULT_INTERVAL_SECONDS
    snapshot_text: bool = False
    mask_text: str = DEFAULT_MASK_TEXT
    continuous_usage: bool = False

    @property
    def provisional(self) -> bool:
        """Whether the stream shows more than final text."""
        return self.mode in (generation_pb.STREAM_MODE_SNAPSHOTS, generation_pb.STREAM_MODE_EDITS)


def _mode(value: Any) -> Any:
    if value not in generation_pb.StreamMode.values():
        raise InvalidRequestError("options.mode", f"options.mode: no stream mode has the number {value}")
    return value or generation_pb.STREAM_MODE_BLOCK_APPEND


def _step_interval(value: int) -> int:
    if not 1 <= value <= MAX_STEP_INTERVAL:
        path = "options.step_interval"
        raise InvalidRequestError(path, f"{path}: expected an integer in [1, {MAX_STEP_INTERVAL}], got {value}")
    return value


def _min_interval(value: Any) -> float:
    seconds: float = value.seconds + value.nanos / 1e9
    if not 0 <= seconds <= MAX_INTERVAL_SECONDS:
        path = "options.min_interval"
        raise InvalidRequestError(path, f"{path}: expected 0 to {MAX_INTERVAL_SECONDS:.0f} s, got {seconds} s")
    return seconds


def _mask_text(value: str) -> str:
    if len(value) > MAX_MASK_TEXT:
        path = "options.mask_text"
        raise InvalidRequestError(path, f"{path}: expected at most {MAX_MASK_TEXT} characters, got {len(value)}")
    return value


STREAM: _Fields = {
    "mode": _mode,
    "step_interval": _step_interval,
    "min_interval": _min_interval,
    "snapshot_text": bool,
    "mask_text": _mask_text,
    "continuous_usage": bool,
}


def stream_options(message: generation_pb.StreamOptions) -> StreamOptions:
    """Raises InvalidRequestError for values out of range."""
    return StreamOptions(**_given(message, STREAM))


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation for the chat template."""

    messages: list[dict[str, Any]]
    add_generation_prompt: bool = True
    template_kwargs: dict[str, Any]
    tools: list[Any] | None = None


CHAT = ("messages", "add_generation_prompt", "template_kwargs", "tools_json")
MESSAGE = ("role", "content", "tool_calls_json", "tool_call_id")


def chat_input(message: types_pb2.ChatInput, path: str = "chat") -> Chat:
    """Raises InvalidRequestError for an empty conversation, an unknown role or JSON that is no array."""
    if not message.messages:
        raise InvalidRequestError(f"{path}.messages", f"{path}.messages: expected at least one message")
    return Chat(
        messages=[_chat_message(item, f"{path}.messages[{i}]") for i, item in enumerate(message.messages)],
        add_generation_prompt=message.add_generation_prompt if message.HasField("add_generation_prompt") else True,
        template_kwargs=json_object(message.template_kwargs, f"{path}.template_kwargs"),
        tools=_json_array(message.tools_json, f"{path}.tools_json") if message.tools_json else None,
    )


def _chat_message(message: types_pb2.ChatMessage, path: str) -> dict[str, Any]:
    if message.role not in ROLES:
        expected = ", ".join(ROLES)
        raise InvalidRequestError(f"{path}.role", f"{path}.role: expected one of {expected}, got {shown(message.role)}")
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls_json:
        turn["tool_calls"] = _json_array(message.tool_calls_json, f"{path}.tool_calls_json")
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


SEGMENT = ("text", "token_ids.ids", "mask_length")


def canvas_input(message: types_pb2.CanvasInput) -> Canvas:
    """Raises InvalidRequestError for an empty segment or hole and for a canvas without a hole."""
    return Canvas([_segment(item, f"canvas.segments[{i}]") for i, item in enumerate(message.segments)])


def _segment(message: types_pb2.CanvasInput.Segment, path: str) -> str | list[int] | Hole:
    kind = message.WhichOneof("content")
    if kind == "text":
        return message.text
    if kind == "token_ids":
        return list(message.token_ids.ids)
    if kind == "mask_length":
        return Hole(message.mask_length)
    raise InvalidRequestError(path, f"{path}: one of text, token_ids or mask_length is required")


Input = str | Sequence[int] | Chat | Canvas


def prompt_input(request: generation_pb.GenerateRequest) -> Input:
    """The request's prompt: text, token ids, a conversation or a canvas. InvalidRequestError when there is none."""
    kind = request.WhichOneof("input")
    if kind == "prompt":
        return request.prompt
    if kind == "prompt_token_ids":
        return list(request.prompt_token_ids.ids)
    if kind == "chat":
        return chat_input(request.chat)
    if kind == "canvas":
        return canvas_input(request.canvas)
    raise InvalidRequestError("prompt", "prompt: one of prompt, prompt_token_ids, chat or canvas is required")


def request_id(given: str) -> str:
    """The id as given; InvalidRequestError unless it is at most 128 printable ASCII characters."""
    if len(given) > MAX_REQUEST_ID or not (given.isascii() and given.isprintable()):
        expected = f"at most {MAX_REQUEST_ID} printable ASCII characters"
        raise InvalidRequestError("request_id", f"request_id: expected {expected}, got {shown(given)}")
    return given


HONOURED = frozenset(
    {"model", "request_id", "prompt", "prompt_token_ids.ids"}
    | {f"sampling.{name}" for name in SAMPLING}
    | {f"diffusion.{name}" for name in DIFFUSION}
    | {f"output.{name}" for name in OUTPUT}
    | {f"chat.{name}" for name in CHAT if name != "messages"}
    | {f"chat.messages.{name}" for name in MESSAGE}
    | {f"canvas.segments.{name}" for name in SEGMENT}
)
"""Paths in GenerateRequest that a request may set; fields.REFUSALS has all others."""

HONOURED_STREAM = frozenset(STREAM)
"""Fields of StreamOptions: all of them."""
