import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pydllm_proto.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_MODE_UNSPECIFIED: _ClassVar[StreamMode]
    STREAM_MODE_BLOCK_APPEND: _ClassVar[StreamMode]
    STREAM_MODE_SNAPSHOTS: _ClassVar[StreamMode]
    STREAM_MODE_EDITS: _ClassVar[StreamMode]

class EditKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EDIT_KIND_UNSPECIFIED: _ClassVar[EditKind]
    EDIT_KIND_COMMIT: _ClassVar[EditKind]
    EDIT_KIND_REPLACE: _ClassVar[EditKind]
    EDIT_KIND_REMASK: _ClassVar[EditKind]
STREAM_MODE_UNSPECIFIED: StreamMode
STREAM_MODE_BLOCK_APPEND: StreamMode
STREAM_MODE_SNAPSHOTS: StreamMode
STREAM_MODE_EDITS: StreamMode
EDIT_KIND_UNSPECIFIED: EditKind
EDIT_KIND_COMMIT: EditKind
EDIT_KIND_REPLACE: EditKind
EDIT_KIND_REMASK: EditKind

class GenerateRequest(_message.Message):
    __slots__ = ("model", "request_id", "prompt", "prompt_token_ids", "chat", "canvas", "sampling", "diffusion", "constraint", "output", "priority", "cache_salt")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    CANVAS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    DIFFUSION_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    prompt: str
    prompt_token_ids: _types_pb2.TokenIds
    chat: _types_pb2.ChatInput
    canvas: _types_pb2.CanvasInput
    sampling: _types_pb2.SamplingParams
    diffusion: _types_pb2.DiffusionParams
    constraint: _types_pb2.OutputConstraint
    output: _types_pb2.OutputOptions
    priority: int
    cache_salt: str
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., prompt: _Optional[str] = ..., prompt_token_ids: _Optional[_Union[_types_pb2.TokenIds, _Mapping]] = ..., chat: _Optional[_Union[_types_pb2.ChatInput, _Mapping]] = ..., canvas: _Optional[_Union[_types_pb2.CanvasInput, _Mapping]] = ..., sampling: _Optional[_Union[_types_pb2.SamplingParams, _Mapping]] = ..., diffusion: _Optional[_Union[_types_pb2.DiffusionParams, _Mapping]] = ..., constraint: _Optional[_Union[_types_pb2.OutputConstraint, _Mapping]] = ..., output: _Optional[_Union[_types_pb2.OutputOptions, _Mapping]] = ..., priority: _Optional[int] = ..., cache_salt: _Optional[str] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("request_id", "model", "created", "candidates", "usage")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    created: _timestamp_pb2.Timestamp
    candidates: _containers.RepeatedCompositeFieldContainer[_types_pb2.Candidate]
    usage: _types_pb2.Usage
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[_types_pb2.Candidate, _Mapping]]] = ..., usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ...) -> None: ...

class StreamOptions(_message.Message):
    __slots__ = ("mode", "step_interval", "min_interval", "snapshot_text", "mask_text", "continuous_usage")
    MODE_FIELD_NUMBER: _ClassVar[int]
    STEP_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TEXT_FIELD_NUMBER: _ClassVar[int]
    MASK_TEXT_FIELD_NUMBER: _ClassVar[int]
    CONTINUOUS_USAGE_FIELD_NUMBER: _ClassVar[int]
    mode: StreamMode
    step_interval: int
    min_interval: _duration_pb2.Duration
    snapshot_text: bool
    mask_text: str
    continuous_usage: bool
    def __init__(self, mode: _Optional[_Union[StreamMode, str]] = ..., step_interval: _Optional[int] = ..., min_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., snapshot_text: bool = ..., mask_text: _Optional[str] = ..., continuous_usage: bool = ...) -> None: ...

class StreamGenerateRequest(_message.Message):
    __slots__ = ("request", "options")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    request: GenerateRequest
    options: StreamOptions
    def __init__(self, request: _Optional[_Union[GenerateRequest, _Mapping]] = ..., options: _Optional[_Union[StreamOptions, _Mapping]] = ...) -> None: ...

class StreamStarted(_message.Message):
    __slots__ = ("model", "created", "prompt_tokens", "mask_token_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MASK_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    created: _timestamp_pb2.Timestamp
    prompt_tokens: int
    mask_token_id: int
    def __init__(self, model: _Optional[str] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., prompt_tokens: _Optional[int] = ..., mask_token_id: _Optional[int] = ...) -> None: ...

class BlockAppended(_message.Message):
    __slots__ = ("block_index", "token_offset", "text", "token_ids", "logprobs", "denoise_steps")
    BLOCK_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    DENOISE_STEPS_FIELD_NUMBER: _ClassVar[int]
    block_index: int
    token_offset: int
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_types_pb2.PositionLogprobs]
    denoise_steps: int
    def __init__(self, block_index: _Optional[int] = ..., token_offset: _Optional[int] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_types_pb2.PositionLogprobs, _Mapping]]] = ..., denoise_steps: _Optional[int] = ...) -> None: ...

class BlockSnapshot(_message.Message):
    __slots__ = ("block_index", "step", "token_offset", "token_ids", "text", "confidences")
    BLOCK_INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOKEN_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    block_index: int
    step: int
    token_offset: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    confidences: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, block_index: _Optional[int] = ..., step: _Optional[int] = ..., token_offset: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., confidences: _Optional[_Iterable[float]] = ...) -> None: ...

class BlockEdits(_message.Message):
    __slots__ = ("block_index", "step", "edits")
    class Edit(_message.Message):
        __slots__ = ("position", "token_id", "kind", "confidence")
        POSITION_FIELD_NUMBER: _ClassVar[int]
        TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
        position: int
        token_id: int
        kind: EditKind
        confidence: float
        def __init__(self, position: _Optional[int] = ..., token_id: _Optional[int] = ..., kind: _Optional[_Union[EditKind, str]] = ..., confidence: _Optional[float] = ...) -> None: ...
    BLOCK_INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EDITS_FIELD_NUMBER: _ClassVar[int]
    block_index: int
    step: int
    edits: _containers.RepeatedCompositeFieldContainer[BlockEdits.Edit]
    def __init__(self, block_index: _Optional[int] = ..., step: _Optional[int] = ..., edits: _Optional[_Iterable[_Union[BlockEdits.Edit, _Mapping]]] = ...) -> None: ...

class CandidateFinished(_message.Message):
    __slots__ = ("finish_reason", "matched_stop", "matched_stop_token_id", "stats")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    MATCHED_STOP_FIELD_NUMBER: _ClassVar[int]
    MATCHED_STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    finish_reason: _types_pb2.FinishReason
    matched_stop: str
    matched_stop_token_id: int
    stats: _types_pb2.DiffusionStats
    def __init__(self, finish_reason: _Optional[_Union[_types_pb2.FinishReason, str]] = ..., matched_stop: _Optional[str] = ..., matched_stop_token_id: _Optional[int] = ..., stats: _Optional[_Union[_types_pb2.DiffusionStats, _Mapping]] = ...) -> None: ...

class StreamGenerateResponse(_message.Message):
    __slots__ = ("request_id", "sequence", "candidate_index", "started", "block_appended", "block_snapshot", "block_edits", "finished", "usage")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_INDEX_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_APPENDED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_EDITS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    sequence: int
    candidate_index: int
    started: StreamStarted
    block_appended: BlockAppended
    block_snapshot: BlockSnapshot
    block_edits: BlockEdits
    finished: CandidateFinished
    usage: _types_pb2.Usage
    def __init__(self, request_id: _Optional[str] = ..., sequence: _Optional[int] = ..., candidate_index: _Optional[int] = ..., started: _Optional[_Union[StreamStarted, _Mapping]] = ..., block_appended: _Optional[_Union[BlockAppended, _Mapping]] = ..., block_snapshot: _Optional[_Union[BlockSnapshot, _Mapping]] = ..., block_edits: _Optional[_Union[BlockEdits, _Mapping]] = ..., finished: _Optional[_Union[CandidateFinished, _Mapping]] = ..., usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ...) -> None: ...
