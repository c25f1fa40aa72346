"""The part of a request that chat and completions share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydllm_proto.v1 import generation_service_pb2 as pb

from pydllm_gateway.convert import fields, refusals
from pydllm_gateway.convert.plan import stream_mode
from pydllm_gateway.errors import invalid

if TYPE_CHECKING:
    from pydllm_gateway.schemas.common import DllmOptions, GenerationBody, ResponseFormat

_MODES = {
    None: pb.STREAM_MODE_BLOCK_APPEND,
    "block_append": pb.STREAM_MODE_BLOCK_APPEND,
    "denoise": pb.STREAM_MODE_SNAPSHOTS,
}
_PROVISIONAL = ("step_interval", "min_interval", "mask_text")


def base_request(body: GenerationBody, table: dict[str, str], *, extras: bool) -> pb.GenerateRequest:
    """Everything but the prompt and the id."""
    request = pb.GenerateRequest()
    fields.fill(request, body, table)
    if body.dllm is not None:
        fill_diffusion(request, body.dllm)
    if body.response_format is not None:
        constrain(request, body.response_format)
    if extras:
        request.output.stats = True
    return request


def fill_diffusion(request: pb.GenerateRequest, dllm: DllmOptions) -> None:
    """Known keys into their fields, all others into `extra`."""
    fields.fill(request, dllm, fields.DLLM)
    extra = {key: value for key, value in (dllm.model_extra or {}).items() if value is not None}
    if extra:
        request.diffusion.extra.update(extra)


def constrain(request: pb.GenerateRequest, wanted: ResponseFormat) -> None:
    """response_format as a constraint; "text" is none. ApiError (400) when there is no schema, or one too many."""
    if wanted.type == "json_schema":
        request.constraint.json_schema = json.dumps(_schema(wanted), ensure_ascii=False)
        return
    if wanted.json_schema is not None:
        path = "response_format.json_schema"
        raise invalid(path, f'{path}: expected with type "json_schema" only, got type "{wanted.type}"')
    if wanted.type == "json_object":
        request.constraint.json_object = True


def _schema(wanted: ResponseFormat) -> object:
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        path = "response_format.json_schema.schema"
        raise invalid(path, f"{path}: expected a JSON Schema object, got nothing")
    return wanted.json_schema.schema_


def stream_options(body: GenerationBody, *, diffusing: bool = False) -> pb.StreamOptions:
    """How the engine streams. ApiError (400) for options of streams that this request does not use."""
    check_streaming(body)
    mode = pb.STREAM_MODE_SNAPSHOTS if diffusing else _MODES[stream_mode(body)]
    provisional = mode == pb.STREAM_MODE_SNAPSHOTS
    options = pb.StreamOptions(mode=mode, snapshot_text=provisional)
    options.continuous_usage = bool(body.stream_options and body.stream_options.continuous_usage_stats)
    if body.dllm is not None:
        fill_intervals(options, body.dllm, provisional=provisional)
    return options


def check_streaming(body: GenerationBody) -> None:
    """Raises ApiError (400) for stream fields without a stream and for modes that contradict each other."""
    if body.stream_options is not None:
        if not body.stream:
            raise invalid("stream_options", 'stream_options: expected with "stream": true only')
        refusals.refuse(body.stream_options, refusals.STREAM_OPTIONS, "stream_options.")
    inner = body.dllm.stream_mode if body.dllm else None
    if body.stream_mode and inner and body.stream_mode != inner:
        message = f"dllm.stream_mode: expected the same as stream_mode ({body.stream_mode}), got {inner}"
        raise invalid("dllm.stream_mode", message)
    if stream_mode(body) == "denoise" and not body.stream:
        name = "stream_mode" if body.stream_mode else "dllm.stream_mode"
        raise invalid(name, f'{name}: denoise needs "stream": true')


def fill_intervals(options: pb.StreamOptions, dllm: DllmOptions, *, provisional: bool) -> None:
    """Throttling and masks of provisional chunks. ApiError (400) when the stream has none."""
    given = [name for name in _PROVISIONAL if getattr(dllm, name) is not None]
    if given and not provisional:
        path = f"dllm.{given[0]}"
        raise invalid(path, f'{path}: needs a stream with "stream_mode": "denoise" or "diffusing": true')
    if dllm.step_interval is not None:
        options.step_interval = dllm.step_interval
    if dllm.mask_text is not None:
        options.mask_text = dllm.mask_text
    if dllm.min_interval is not None:
        microseconds = round(dllm.min_interval * 1e6)
        options.min_interval.seconds = microseconds // 10**6
        options.min_interval.nanos = microseconds % 10**6 * 1000
