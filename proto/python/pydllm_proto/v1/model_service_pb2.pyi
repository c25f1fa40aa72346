import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelSummary(_message.Message):
    __slots__ = ("name", "base_model", "loaded", "max_context_length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    base_model: str
    loaded: _timestamp_pb2.Timestamp
    max_context_length: int
    def __init__(self, name: _Optional[str] = ..., base_model: _Optional[str] = ..., loaded: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_context_length: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ...) -> None: ...

class GetModelInfoRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class DiffusionInfo(_message.Message):
    __slots__ = ("algorithms", "default_block_length", "block_lengths", "mask_token_id", "attention_pattern", "supports_edits", "supports_constraints", "params")
    ALGORITHMS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_BLOCK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    MASK_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_PATTERN_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_EDITS_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    algorithms: _containers.RepeatedScalarFieldContainer[str]
    default_block_length: int
    block_lengths: _containers.RepeatedScalarFieldContainer[int]
    mask_token_id: int
    attention_pattern: str
    supports_edits: bool
    supports_constraints: bool
    params: _containers.RepeatedCompositeFieldContainer[AlgorithmParam]
    def __init__(self, algorithms: _Optional[_Iterable[str]] = ..., default_block_length: _Optional[int] = ..., block_lengths: _Optional[_Iterable[int]] = ..., mask_token_id: _Optional[int] = ..., attention_pattern: _Optional[str] = ..., supports_edits: bool = ..., supports_constraints: bool = ..., params: _Optional[_Iterable[_Union[AlgorithmParam, _Mapping]]] = ...) -> None: ...

class AlgorithmParam(_message.Message):
    __slots__ = ("algorithm", "name", "default_value")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    algorithm: str
    name: str
    default_value: str
    def __init__(self, algorithm: _Optional[str] = ..., name: _Optional[str] = ..., default_value: _Optional[str] = ...) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("summary", "architecture", "source", "revision", "dtype", "quantization", "vocab_size", "eos_token_ids", "parameter_count", "diffusion", "has_chat_template", "default_sampling_json")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIFFUSION_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SAMPLING_JSON_FIELD_NUMBER: _ClassVar[int]
    summary: ModelSummary
    architecture: str
    source: str
    revision: str
    dtype: str
    quantization: str
    vocab_size: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    parameter_count: int
    diffusion: DiffusionInfo
    has_chat_template: bool
    default_sampling_json: str
    def __init__(self, summary: _Optional[_Union[ModelSummary, _Mapping]] = ..., architecture: _Optional[str] = ..., source: _Optional[str] = ..., revision: _Optional[str] = ..., dtype: _Optional[str] = ..., quantization: _Optional[str] = ..., vocab_size: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., parameter_count: _Optional[int] = ..., diffusion: _Optional[_Union[DiffusionInfo, _Mapping]] = ..., has_chat_template: bool = ..., default_sampling_json: _Optional[str] = ...) -> None: ...

class LoadLoraAdapterRequest(_message.Message):
    __slots__ = ("name", "path", "base_model")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    base_model: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., base_model: _Optional[str] = ...) -> None: ...

class LoadLoraAdapterResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ...) -> None: ...

class UnloadLoraAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class UnloadLoraAdapterResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ...) -> None: ...
