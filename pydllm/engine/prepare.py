"""From a prompt and its parameters to what the core takes: defaults filled in, names resolved, limits
checked.

A pure function apart from the random seed of a request that names none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydllm.canvas import CanvasIds
from pydllm.engine.facts import ModelFacts, find_algorithm
from pydllm.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from pydllm.params import DiffusionParams, ParamScalar, SamplingParams, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydllm import _core

TYPED_PARAMS = (
    "block_length",
    "max_steps_per_block",
    "confidence_threshold",
    "entropy_threshold",
    "cache",
    "cache_refresh_interval",
    "allow_edits",
    "edit_threshold",
)
NEUTRAL: tuple[tuple[str, ParamScalar], ...] = (
    ("cache", "none"),
    ("cache_refresh_interval", 0),
    ("allow_edits", False),
)
"""Exact decoding and text that stays: true of every algorithm that has no parameter for it."""


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """One request, complete: every default is filled in."""

    prompt: Sequence[int]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    min_tokens: int
    seeds: tuple[int, ...]
    """One per candidate."""
    eos_token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    stop: tuple[str, ...]
    include_stop: bool
    max_repetition_run: int
    """0: no limit."""
    algorithm: str
    params: dict[str, ParamScalar]
    max_forward_passes: int
    """0: no limit."""
    rest: tuple[int | None, ...] = ()
    """What follows the prompt when there is fixed text behind a hole: ids, None in holes (`max_tokens` of them)."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens that were given: the prompt and fixed text between and behind holes."""
        return len(self.prompt) + sum(token is not None for token in self.rest)

    def generated(self, count: int) -> int:
        """How many of the answer's first `count` tokens are generated ones."""
        return sum(token is None for token in self.rest[:count]) if self.rest else count

    def ended_by_token(self, final_tokens: Sequence[int]) -> bool:
        """Whether the last of these tokens is the EOS or stop token that ends a candidate.

        The core cuts what is final after the first such token, so only the last one can be it. Needed where
        the tokens come before the "finished" event (snapshots, traces).
        """
        return bool(final_tokens) and final_tokens[-1] in (*self.eos_token_ids, *self.stop_token_ids)


def prepare(
    prompt_ids: Sequence[int] | CanvasIds,
    facts: ModelFacts,
    sampling: SamplingParams | None = None,
    diffusion: DiffusionParams | None = None,
) -> PreparedRequest:
    """Fills in the defaults and checks what depends on the model.

    Raises InvalidRequestError, ContextLengthError or UnsupportedError naming the proto field. The ids of the prompt,
    the ranges of an algorithm's parameters and whether any token may be chosen at all are checked by the core when the
    request is submitted.
    """
    sampling = sampling or SamplingParams()
    diffusion = diffusion or DiffusionParams()
    defaults = facts.default_sampling
    algorithm = resolve_algorithm(diffusion.algorithm, facts)
    prompt, max_tokens, rest = _positions(prompt_ids, algorithm, sampling, facts)
    return PreparedRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        rest=rest,
        temperature=_first(sampling.temperature, defaults["temperature"]),
        top_p=_first(sampling.top_p, defaults["top_p"]),
        top_k=_first(sampling.top_k, defaults["top_k"]),
        min_p=_first(sampling.min_p, defaults["min_p"]),
        repetition_penalty=_first(sampling.repetition_penalty, defaults["repetition_penalty"]),
        presence_penalty=sampling.presence_penalty or 0.0,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        logit_bias=_known_biases(sampling.logit_bias, facts),
        min_tokens=sampling.min_tokens or 0,
        seeds=_seeds(sampling, facts),
        eos_token_ids=() if sampling.ignore_eos else facts.eos_token_ids,
        stop_token_ids=_known_ids(sampling.stop_token_ids, facts.vocab_size),
        stop=sampling.stop,
        include_stop=bool(sampling.include_stop),
        max_repetition_run=sampling.max_repetition_run or 0,
        algorithm=algorithm.name,
        params=_algorithm_params(algorithm, diffusion, facts),
        max_forward_passes=diffusion.max_forward_passes or 0,
    )


def resolve_algorithm(name: str, facts: ModelFacts) -> _core.AlgorithmInfo:
    """The algorithm of a name or alias, the model's default for ""; refuses what this model cannot run."""
    known = find_algorithm(name or facts.default_algorithm)
    can_run = ", ".join(facts.algorithms)
    message = f"diffusion.algorithm: expected one of {can_run} for {facts.architecture}, got {shown(name)}"
    if known is None:
        raise InvalidRequestError("diffusion.algorithm", message)
    if known.name not in facts.algorithms:
        raise UnsupportedError("diffusion.algorithm", message)
    return known


def _first(given: Any, default: Any) -> Any:
    return default if given is None else given


def _max_tokens(prompt_ids: Sequence[int], sampling: SamplingParams, facts: ModelFacts) -> int:
    length, limit = len(prompt_ids), facts.max_model_len
    if length == 0:
        raise InvalidRequestError("prompt", "prompt: expected at least one token, got none")
    if length >= limit:
        message = f"prompt: this model's maximum context length is {limit} tokens, got {length} in the prompt"
        raise ContextLengthError("prompt", message, limit=limit, given=length)
    if sampling.max_tokens is None:
        return min(int(facts.default_sampling["max_tokens"]), limit - length)
    given = length + sampling.max_tokens
    if given > limit:
        message = (
            f"sampling.max_tokens: this model's maximum context length is {limit} tokens, "
            f"got a prompt of {length} and max_tokens {sampling.max_tokens}"
        )
        raise ContextLengthError("sampling.max_tokens", message, limit=limit, given=given)
    return sampling.max_tokens


def _positions(
    prompt_ids: Sequence[int] | CanvasIds, algorithm: _core.AlgorithmInfo, sampling: SamplingParams, facts: ModelFacts
) -> tuple[Sequence[int], int, tuple[int | None, ...]]:
    """The prompt, the number of tokens to generate, and what follows the prompt when that is more than one hole."""
    if not isinstance(prompt_ids, CanvasIds):
        return prompt_ids, _max_tokens(prompt_ids, sampling, facts), ()
    prompt, rest = _lay_out(prompt_ids, sampling, facts)
    if all(token is None for token in rest):
        return prompt, len(rest), ()
    if facts.attention != "full":
        message = (
            f"canvas: {facts.architecture} is block-causal and cannot see fixed text behind a hole, expected text and "
            "one hole at the end, or a model with full attention"
        )
        raise UnsupportedError("canvas", message)
    if "full" not in algorithm.attention:
        message = (
            f"canvas: algorithm {algorithm.name} does not see fixed text behind a hole, expected text and one hole at "
            "the end, or an algorithm that sees the whole canvas"
        )
        raise UnsupportedError("canvas", message)
    last = max(place for place, token in enumerate(rest) if token is None)
    if sampling.stop and any(token is not None for token in rest[:last]):
        message = "sampling.stop: stop strings are not available for a canvas with text between holes"
        raise UnsupportedError("sampling.stop", message)
    return prompt, prompt_ids.holes, tuple(rest)


def _lay_out(canvas: CanvasIds, sampling: SamplingParams, facts: ModelFacts) -> tuple[list[int], list[int | None]]:
    if canvas.length > facts.max_model_len:
        limit = facts.max_model_len
        message = f"canvas: this model's maximum context length is {limit} tokens, got a canvas of {canvas.length}"
        raise ContextLengthError("canvas", message, limit=limit, given=canvas.length)
    if sampling.max_tokens is not None and sampling.max_tokens < canvas.holes:
        message = f"sampling.max_tokens: expected at least {canvas.holes}, as many as the holes hold, got "
        raise InvalidRequestError("sampling.max_tokens", f"{message}{sampling.max_tokens}")
    canvas.check_ids(facts.vocab_size)
    return canvas.lay_out()


def _seeds(sampling: SamplingParams, facts: ModelFacts) -> tuple[int, ...]:
    if (sampling.n or 1) > facts.max_candidates:
        message = f"sampling.n: expected at most {facts.max_candidates} (the waiting queue), got {sampling.n}"
        raise InvalidRequestError("sampling.n", message)
    first = int.from_bytes(os.urandom(8), "little") if sampling.seed is None else sampling.seed
    return tuple((first + candidate) % 2**64 for candidate in range(sampling.n or 1))


def _known_ids(ids: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    for token_id in ids:
        if token_id >= vocab_size:
            message = f"sampling.stop_token_ids: expected ids in [0, {vocab_size - 1}], got {token_id}"
            raise InvalidRequestError("sampling.stop_token_ids", message)
    return ids


def _known_biases(biases: Mapping[int, float], facts: ModelFacts) -> Mapping[int, float]:
    name = "sampling.logit_bias"
    for token_id in biases:
        if token_id >= facts.vocab_size:
            message = f"{name}: expected token ids in [0, {facts.vocab_size - 1}], got {token_id}"
            raise InvalidRequestError(name, message)
    return biases


def _algorithm_params(
    algorithm: _core.AlgorithmInfo, diffusion: DiffusionParams, facts: ModelFacts
) -> dict[str, ParamScalar]:
    params: dict[str, ParamScalar] = {}
    for name in TYPED_PARAMS:
        value = getattr(diffusion, name)
        if value is not None and not _holds_anyway(algorithm, name, value, facts):
            params[name] = value
    for key, value in diffusion.extra.items():
        if key in params:
            raise InvalidRequestError(
                f"diffusion.extra.{key}", f"diffusion.extra.{key}: diffusion.{key} is set as well"
            )
        params[key] = value
    return _suggested_params(algorithm, params, facts) | params


def _holds_anyway(algorithm: _core.AlgorithmInfo, name: str, value: ParamScalar, facts: ModelFacts) -> bool:
    """Whether the value says what an algorithm without this parameter does."""
    if any(spec.name == name for spec in facts.params_of(algorithm)):
        return False
    if name == "block_length" and facts.attention == "block_causal":
        return _is_the_models_block(value, facts)
    return (name, value) in NEUTRAL


def _is_the_models_block(value: ParamScalar, facts: ModelFacts) -> bool:
    block = facts.defaults.block_length
    if value != block:
        message = f"diffusion.block_length: expected the model's {block}, got {shown(value)}"
        raise InvalidRequestError("diffusion.block_length", message)
    return True


def _suggested_params(
    algorithm: _core.AlgorithmInfo, given: Mapping[str, ParamScalar], facts: ModelFacts
) -> dict[str, ParamScalar]:
    """Defaults for what the request leaves unset, under any of its names; the engine's go before the checkpoint's."""
    suggested: dict[str, ParamScalar] = {}
    if facts.defaults.block_length is not None:
        suggested["block_length"] = facts.defaults.block_length
    if algorithm.name == facts.default_algorithm:
        suggested |= facts.algorithm_params
    if given.get("cache", suggested.get("cache")) != suggested.get("cache"):  # parameters of another cache
        suggested = {name: value for name, value in suggested.items() if not name.startswith("cache_")}
    open_names = {
        spec.name for spec in facts.params_of(algorithm) if spec.name not in given and spec.alias not in given
    }
    return {name: value for name, value in suggested.items() if name in open_names}
