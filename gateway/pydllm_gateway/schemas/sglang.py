"""The body of POST /generate as SGLang's clients send it, and the fields of theirs that this server refuses.

`HONOURED` fields are here as pydantic models; everything else that SGLang knows is in the two tables of refused fields
with the values that mean the same as leaving it out. docs/gateway.md has the same tables for readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from pydllm_gateway.schemas.common import Body, DllmOptions, Float, Int32, LogitBias, Stop, UInt32, UInt64
from pydllm_gateway.schemas.unions import Strings, TokenLists, is_object, one_or_many


@dataclass(frozen=True)
class Refused:
    """A field that is not honoured: the values that change nothing, and why others are refused."""

    neutral: tuple[Any, ...]
    why: str


def _none(why: str) -> Refused:
    return Refused((), why)


def _off(why: str) -> Refused:
    return Refused((False,), why)


_MEDIA = Refused(("",), "this server takes text only")
_LOGPROBS = "log-probabilities are not available"
_HIDDEN = _off("internals of the model are not returned")
_SHARDING = _none("requests are not distributed over several engines")
_LABELS = _none("requests carry no labels")

# null and an empty list change nothing in any field; a list is refused when one of its elements would be.
REFUSED_FIELDS: dict[str, Refused] = {
    "input_embeds": _none("embeddings are not taken as input"),
    "image_data": _MEDIA,
    "video_data": _MEDIA,
    "audio_data": _MEDIA,
    "mm_hashes": _MEDIA,
    "mm_content_hashes": _MEDIA,
    "use_audio_in_video": Refused((False,), _MEDIA.why),
    "video_config": Refused(({},), _MEDIA.why),
    "modalities": _MEDIA,
    "images_config": Refused(({},), _MEDIA.why),
    "max_dynamic_patch": _MEDIA,
    "min_dynamic_patch": _MEDIA,
    "image_max_dynamic_patch": _MEDIA,
    "video_max_dynamic_patch": _MEDIA,
    "need_wait_for_mm_inputs": Refused((False,), _MEDIA.why),
    "num_items_assigned": Refused(({},), _MEDIA.why),
    "encoder_urls": _MEDIA,
    "return_logprob": _off(_LOGPROBS),
    "logprob_start_len": Refused((-1,), _LOGPROBS),
    "top_logprobs_num": Refused((0,), _LOGPROBS),
    "token_ids_logprob": _none(_LOGPROBS),
    "return_text_in_logprobs": _off(_LOGPROBS),
    "return_sampling_mask": _off(_LOGPROBS),
    "return_flat_raw_top_logprobs": _off(_LOGPROBS),
    "return_flat_raw_top_logprobs_b64": _off(_LOGPROBS),
    "return_entropy": _off(_LOGPROBS),
    "return_hidden_states": _HIDDEN,
    "return_routed_experts": _HIDDEN,
    "routed_experts_start_len": Refused((0,), _HIDDEN.why),
    "return_indexer_topk": _HIDDEN,
    "return_bytes": _off("only text is generated"),
    "return_prompt_token_ids": _off("prompt token ids are not returned; POST /tokenize gives them"),
    "log_metrics": Refused((True,), "every request is counted in the metrics"),
    "no_logs": _off("logging cannot be switched off for one request"),
    "session_id": _none("sessions are not available"),
    "session_params": Refused(({},), "sessions are not available"),
    "conversation_id": _LABELS,
    "custom_labels": Refused(({},), _LABELS.why),
    "external_trace_header": Refused(({},), _LABELS.why),
    "received_time": _none("times are measured here"),
    "lora_path": Refused(("",), "LoRA adapters are not available"),
    "lora_id": Refused(("",), "LoRA adapters are not available"),
    "custom_logit_processor": Refused(("",), "code in requests is never executed"),
    "positional_embed_overrides": _none("embeddings are not taken as input"),
    "bootstrap_host": _SHARDING,
    "bootstrap_port": _SHARDING,
    "bootstrap_room": _SHARDING,
    "bootstrap_pair_key": _SHARDING,
    "decode_tp_size": _SHARDING,
    "routed_dp_rank": _SHARDING,
    "data_parallel_rank": _SHARDING,
    "disagg_prefill_dp_rank": _SHARDING,
    "kv_router_hint": Refused(({},), _SHARDING.why),
    "routing_key": _SHARDING,
    "http_worker_ipc": _SHARDING,
    "background": _off("background requests are not available"),
    "require_reasoning": _off("thinking sections are not controlled"),
    "max_thinking_tokens": _none("thinking sections are not controlled"),
    "extra_key": Refused(("",), "there is no prefix cache"),
    "multi_item_delimiter_indices": _none("scoring is not available"),
}
"""Of the request object."""

REFUSED_SAMPLING: dict[str, Refused] = {
    "stop_regex": Refused(("",), "stop takes strings, not regular expressions"),
    "structural_tag": Refused(("",), "constrained decoding with structural tags is not available"),
    "spaces_between_special_tokens": Refused((True,), "the tokenizer decides about spaces"),
    "custom_params": Refused(({},), "custom parameters are not available"),
    "stream_interval": Refused((1,), "text is sent as soon as it is final; see dllm.step_interval"),
    "beam_width": Refused((1,), "beam search is not available"),
}
"""Of `sampling_params`."""


class SglangSampling(Body):
    """`sampling_params`: SGLang's names for what SamplingParams and OutputConstraint of the gRPC contract offer."""

    max_new_tokens: UInt32 | None = None
    min_new_tokens: UInt32 | None = None
    temperature: Float | None = None
    top_p: Float | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**32 - 1)] | None = None
    """-1 and 0 switch it off."""
    min_p: Float | None = None
    frequency_penalty: Float | None = None
    presence_penalty: Float | None = None
    repetition_penalty: Float | None = None
    logit_bias: LogitBias | None = None
    sampling_seed: UInt64 | None = None
    n: UInt32 | None = None
    stop: Stop | None = None
    stop_token_ids: list[UInt32] | None = None
    no_stop_trim: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None


_Sampling = Annotated[
    SglangSampling | list[SglangSampling] | None,
    one_or_many(SglangSampling, is_one=is_object, expected="an object or a list of objects"),
]


class SglangRequest(Body):
    """The body. Exactly one of `text` and `input_ids`; `stream_mode` and `dllm` are pydllm's own."""

    text: Strings = None
    input_ids: TokenLists = None
    sampling_params: _Sampling = None
    rid: Strings = None
    stream: bool | None = None
    priority: Int32 | None = None
    cache_salt: Strings = None
    stream_mode: Literal["block_append", "denoise"] | None = None
    dllm: DllmOptions | None = None
