"""A run recorded forward by forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.errors import InternalEngineError, InvalidRequestError
from pydllm.llm.candidate import Candidate
from pydllm.outputs import Trace

if TYPE_CHECKING:
    from pydllm import _core
    from pydllm.engine import PreparedRequest
    from pydllm.text import Tokenizer


class Recording:
    """Collects the events of one traced candidate."""

    def __init__(self, tokenizer: Tokenizer, request: PreparedRequest) -> None:
        if len(request.seeds) != 1:
            raise InvalidRequestError("sampling.n", f"sampling.n: expected 1 for a trace, got {len(request.seeds)}")
        self._candidate = Candidate(tokenizer, request)
        self._request = request
        self._canvases: list[list[int]] = []
        self._first_logits: _core.Tensor | None = None
        self._final: dict[int, int] = {}

    @property
    def complete(self) -> bool:
        """The candidate has ended."""
        return self._candidate.output is not None

    def accept(self, event: _core.Event) -> None:
        """Takes the next event."""
        if event.canvas_before:
            self._canvases.append(event.canvas_before)
        if event.first_logits is not None:
            self._first_logits = event.first_logits
        begin = len(self._request.prompt) + event.final_offset
        self._final.update(enumerate(event.final_tokens, begin))
        self._candidate.accept(event)

    def trace(self) -> Trace:
        """The finished recording."""
        output = self._candidate.output
        if output is None:
            raise InternalEngineError("a trace ended before its request")
        last = list(self._canvases[-1])
        for position, token in self._final.items():
            last[position] = token
        return Trace(
            canvases=[*self._canvases, last],
            first_logits=self._first_logits,
            forward_passes=output.stats.forward_passes,
            output=output,
        )
