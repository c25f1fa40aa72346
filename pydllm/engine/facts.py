"""What the preparation of a request needs to know of a loaded model. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydllm import _core
from pydllm.checkpoint import GenerationDefaults
from pydllm.params import MAX_CANDIDATES, ParamScalar

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Limits, special ids and algorithms of a loaded model."""

    architecture: str
    vocab_size: int
    max_model_len: int
    mask_token_id: int
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


def find_algorithm(name: str) -> _core.AlgorithmInfo | None:
    """An algorithm of this build by name or alias."""
    return next((known for known in _core.algorithms() if name == known.name or name in known.aliases), None)
