"""What generation returns: complete outputs, stream events and traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pydllm._core import Tensor

FinishReason = Literal["stop", "stop_sequence", "length", "step_limit", "repetition"]
"""stop: the model's EOS. stop_sequence: a requested stop string or token. length: max_tokens.
step_limit: max_forward_passes or the deadline. repetition: max_repetition_run; the run's last token is the last one."""


@dataclass(frozen=True)
class DiffusionStats:
    """What the denoiser did for one candidate. Times in seconds."""

    forward_passes: int
    denoise_steps: int
    blocks: int
    edited_tokens: int
    """Tokens of the answer that were written and later changed or masked again."""
    tokens_per_forward: float
    queue_time: float
    time_to_first_block: float
    generation_time: float


@dataclass(frozen=True)
class GenerationOutput:
    """One finished candidate.

    `token_ids` end with the EOS or stop token when one ended the candidate; `text` does not contain it unless
    include_stop.
    """

    index: int
    """Candidate of its prompt, 0 to n - 1."""
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_match: str | int | None
    """The stop string or stop token id of "stop_sequence"."""
    prompt_tokens: int
    stats: DiffusionStats
    prompt_index: int = 0
    """Place of its prompt in the list given to `generate`."""


@dataclass(frozen=True)
class Started:
    """The candidate was admitted."""

    index: int
    prompt_tokens: int


@dataclass(frozen=True)
class BlockAppended:
    """Final text: the concatenation of `text` over a stream is the candidate's text."""

    index: int
    block_index: int
    token_offset: int
    text: str
    token_ids: list[int]
    denoise_steps: int


@dataclass(frozen=True)
class BlockSnapshot:
    """The block being denoised, provisional. Masked positions are None."""

    index: int
    block_index: int
    step: int
    token_offset: int
    token_ids: list[int | None]
    confidences: list[float]
    """Of each position: the probability that its token had in the forward pass that wrote it, 0 where masked."""


@dataclass(frozen=True)
class Finished:
    """The end of a candidate."""

    index: int
    finish_reason: FinishReason
    stop_match: str | int | None
    completion_tokens: int
    stats: DiffusionStats


StreamEvent = Started | BlockAppended | BlockSnapshot | Finished


@dataclass(frozen=True)
class Trace:
    """A recorded run: `canvases[k]` is the canvas before forward k, the last one is final (prompt included).

    In the final canvas of a run that ended early (EOS, a stop, a limit) positions behind the end are as they
    were before the last forward.
    """

    canvases: list[list[int]]
    first_logits: Tensor | None
    """float32 [canvas, vocab] of the first forward, guidance applied, before any shift: row i of a model with shifted
    logits is about position i + 1."""
    forward_passes: int
    output: GenerationOutput
