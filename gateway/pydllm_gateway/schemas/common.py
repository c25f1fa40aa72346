"""What the bodies of chat and completions have in common.

null means the same as leaving a field out, everywhere. Ranges are the engine's to check, except where the wire's type
is narrower than JSON's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FLOAT = 3.4028234663852886e38
MAX_EXACT_INTEGER = 2**53
MAX_INTERVAL_SECONDS = 315_576_000_000  # what google.protobuf.Duration holds

UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Float = Annotated[float, Field(ge=-MAX_FLOAT, le=MAX_FLOAT)]


def should_be(expected: str) -> PydanticCustomError:
    """An error in pydantic's words, at the place of the value that is being validated."""
    return PydanticCustomError("type", "Input should be {expected}", {"expected": expected})


def one_error(expected: str) -> WrapValidator:
    """Says what was expected once, where a union would say it for each of its members."""

    def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise should_be(expected) from None

    return WrapValidator(validate)


def _exact(value: Any, inner: Callable[[Any], Any]) -> Any:
    if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER:
        raise should_be("an integer of at most 2**53 in size")
    return inner(value)


Scalar = Annotated[
    bool | int | float | str | None, one_error("a number, a string, true or false"), WrapValidator(_exact)
]
Stop = Annotated[str | list[str], one_error("a string or a list of strings")]
RequestId = Annotated[
    str, Field(pattern=r"^[!-~]{1,100}\z"), one_error("1 to 100 printable ASCII characters without spaces")
]
LogitBias = Annotated[dict[str, Float], one_error("an object of token ids and biases")]


class Body(BaseModel):
    """JSON object with known keys only; no value is converted from another type."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class StreamOptions(Body):
    """What a stream carries beside text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class DllmOptions(BaseModel):
    """Diffusion decoding. A key without a field here is a parameter of the algorithm."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())
    __pydantic_extra__: dict[str, Scalar]

    algorithm: str | None = None
    block_length: UInt32 | None = None
    max_steps_per_block: UInt32 | None = None
    max_forward_passes: UInt32 | None = None
    confidence_threshold: Float | None = None
    entropy_threshold: Float | None = None
    allow_edits: bool | None = None
    edit_threshold: Float | None = None
    cache: str | None = None
    cache_refresh_interval: UInt32 | None = None
    stream_mode: Literal["block_append", "denoise"] | None = None
    step_interval: UInt32 | None = None
    min_interval: Annotated[float, Field(ge=0, le=MAX_INTERVAL_SECONDS)] | None = None
    """Seconds."""
    mask_text: str | None = None


class JsonSchema(Body):
    """OpenAI's wrapper around a JSON Schema."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    """The form that the output must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class GenerationBody(Body):
    """Fields of both endpoints. Those typed Any are OpenAI's and refused unless they say what happens anyway."""

    model: str | None = None
    temperature: Float | None = None
    top_p: Float | None = None
    top_k: UInt32 | None = None
    min_p: Float | None = None
    repetition_penalty: Float | None = None
    presence_penalty: Float | None = None
    frequency_penalty: Float | None = None
    logit_bias: LogitBias | None = None
    seed: UInt64 | None = None
    max_tokens: UInt32 | None = None
    min_tokens: UInt32 | None = None
    max_repetition_run: UInt32 | None = None
    stop: Stop | None = None
    stop_token_ids: list[UInt32] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    n: UInt32 | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_mode: Literal["block_append", "denoise"] | None = None
    dllm: DllmOptions | None = None
    response_format: ResponseFormat | None = None
    priority: Int32 | None = None
    cache_salt: str | None = None
    request_id: RequestId | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None
