"""What the preparation of a request needs to know of a loaded model. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydllm import _core
from pydllm.checkpoint import GenerationDefaults
from pydllm.params import MAX_CANDIDATES, ParamScalar

if TYPE_CHECKING:
    from collections.abc import Mapping


_NEUTRAL: Mapping[str, Any] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_MAX_TOKENS = {"full": 256, "block_causal": 2048}
"""With full attention every forward pass feeds all of them. Block-causal models write block by block until they end."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Limits, special ids and algorithms of a loaded model."""

    architecture: str
    attention: str
    """ "full" or "block_causal"."""
    vocab_size: int
    max_model_len: int
    mask_token_id: int
    control_token_ids: tuple[int, int] | None = None
    """DELETE and SPLIT of a model that edits by them (LLaDA2.2)."""
    eos_token_ids: tuple[int, ...]
    default_algorithm: str
    """Canonical name: the engine's option, else the architecture's."""
    algorithms: tuple[str, ...]
    """Canonical names this model can run, the default first."""
    algorithm_params: Mapping[str, ParamScalar] = field(default_factory=dict)
    """Defaults for parameters of the default algorithm, under their own names and checked."""
    max_candidates: int = MAX_CANDIDATES
    """Candidates of one request that the waiting queue can hold."""
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    """The checkpoint's, with the engine's options over them."""

    @property
    def edits(self) -> bool:
        """Whether one of its algorithms may change what it has written."""
        return any(known.edits for known in _core.algorithms() if known.name in self.algorithms)

    @property
    def default_sampling(self) -> dict[str, Any]:
        """What applies to fields of SamplingParams that a request leaves unset: the checkpoint's value, else ours.
        max_tokens is cut to what the context leaves."""
        stored = {name: getattr(self.defaults, name) for name in _NEUTRAL}
        given = {name: value for name, value in stored.items() if value is not None}
        max_tokens = self.defaults.max_new_tokens or _MAX_TOKENS[self.attention]
        return {**_NEUTRAL, **given, "max_tokens": max_tokens}

    @property
    def default_params(self) -> dict[tuple[str, str], str]:
        """By (algorithm, parameter), of everything this model can run, in words: the server's option, else the
        checkpoint's, else the family's, else the algorithm's own."""
        known = {algorithm.name: algorithm for algorithm in _core.algorithms()}
        return {
            (name, spec.name): _default_in_words(self, name, spec)
            for name in self.algorithms
            for spec in self.params_of(known[name])
        }

    def params_of(self, algorithm: _core.AlgorithmInfo) -> list[_core.ParamSpec]:
        """The parameters that the algorithm has on this model."""
        return [spec for spec in algorithm.params if self.attention in spec.attention]


def find_algorithm(name: str) -> _core.AlgorithmInfo | None:
    """An algorithm of this build by name or alias."""
    return next((known for known in _core.algorithms() if name == known.name or name in known.aliases), None)


def family_defaults(architecture: str) -> dict[tuple[str, str], str]:
    """What a family has instead of the algorithms' own defaults, by (algorithm, parameter)."""
    found = next((known for known in _core.architectures() if known.name == architecture), None)
    return {} if found is None else {(own.algorithm, own.param): own.value for own in found.defaults}


def _default_in_words(facts: ModelFacts, algorithm: str, spec: _core.ParamSpec) -> str:
    if algorithm == facts.default_algorithm and spec.name in facts.algorithm_params:
        return _in_words(facts.algorithm_params[spec.name])
    if spec.name == "block_length" and facts.defaults.block_length is not None:
        return str(facts.defaults.block_length)
    return family_defaults(facts.architecture).get((algorithm, spec.name), spec.default)


def _in_words(value: ParamScalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
