"""Where answers come from: a model in this process or a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from pydllm.outputs import StreamEvent
    from pydllm.params import DiffusionParams, SamplingParams
    from pydllm.terminal.cells import Key

Message = dict[str, str]
"""{"role": ..., "content": ...}"""


class Backend(Protocol):
    """Answers prompts. Errors are those of pydllm.errors, one line each."""

    @property
    def label(self) -> str:
        """The model's name."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Canonical names of the decoding algorithms that the model can run, the default first."""

    @property
    def default_params(self) -> Mapping[tuple[str, str], str]:
        """What a parameter of an algorithm is when it is not set, in words, by (algorithm, parameter)."""

    @property
    def attention(self) -> str:
        """The model's, "full" or "block_causal": some algorithms have other parameters on the one than on the other."""

    @property
    def block_length(self) -> int:
        """The default length of a block, 0 when unknown."""

    @property
    def embedded(self) -> bool:
        """One of the models that come with pydllm: they know short conversations, and are too quick to watch."""

    def stream(
        self, prompt: str | list[Message], sampling: SamplingParams, diffusion: DiffusionParams, *, snapshots: bool
    ) -> Generator[StreamEvent]:
        """The events of one answer; closing the generator cancels it.

        UnsupportedError("chat") for a conversation when the model has no chat template.
        """

    def texts(self, keys: Sequence[Key]) -> list[str]:
        """The text of each run of tokens, as it reads in the middle of an answer. Never fails."""

    def close(self) -> None:
        """Ends the model or the connection."""
