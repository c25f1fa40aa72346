"""From the engine's final tokens to the text of one candidate: detokenization, stop strings, release by
blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydllm.text.detokenizer import IncrementalDetokenizer
from pydllm.text.stop import StopMatcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydllm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class StopHit:
    """A stop string ended the candidate. `token_count`: tokens up to and including the one that completed
    it."""

    stop: str
    token_count: int


@dataclass(frozen=True)
class Released:
    """What take() hands out: the next stretch of the text and the next tokens.

    Text may lag behind its tokens while it could be a part of a character or the beginning of a stop string.
    """

    text: str
    token_ids: list[int]
    token_offset: int
    """Generated tokens released before these."""


class CandidateAssembler:
    """One candidate's tokens and text. Feed what became final, take what may be shown.

    The concatenation of everything taken is the same for every way of feeding and taking. Not thread-safe.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        field: str = "sampling.stop",
    ) -> None:
        """InvalidRequestError(field) when `stop` is out of range (StopMatcher)."""
        self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
        self._matcher = StopMatcher(stop, field=field)
        self._include_stop = include_stop
        self._token_ids: list[int] = []
        self._text_ends: list[int] = []
        self._new_text: list[str] = []
        self._kept = ""
        self._text_end = 0
        self._taken_text = 0
        self._taken_tokens = 0
        self._finished = False
        self._stop_hit: StopHit | None = None

    @property
    def finished(self) -> bool:
        """A stop string matched, the ending token came, or finish() was called. Later tokens are dropped."""
        return self._finished

    @property
    def stop_hit(self) -> StopHit | None:
        """The stop string that ended the candidate."""
        return self._stop_hit

    @property
    def token_count(self) -> int:
        """Tokens that belong to the candidate so far."""
        return len(self._token_ids)

    @property
    def token_ids(self) -> list[int]:
        """All of them, a copy."""
        return list(self._token_ids)

    def feed(self, final_tokens: Sequence[int], *, ending_token: bool = False) -> StopHit | None:
        """Adds tokens that became final. ending_token: the last one is the EOS or stop token that ended the
        candidate.

        Returns the stop string that matched in the text before the ending token, when one did: it wins over
        the ending token. The text of the ending token is dropped, or with include_stop kept even when the
        token is special.
        """
        body = final_tokens[:-1] if ending_token else final_tokens
        for token_id in body:
            if self._finished:
                return self._stop_hit
            self._add_token(token_id)
            self._add_text(self._detokenizer.push_token(token_id))
        if ending_token and final_tokens and not self._finished:
            self._end_with(final_tokens[-1])
        return self._stop_hit

    def finish(self) -> StopHit | None:
        """Ends the text: nothing is held back any more. Idempotent. Returns the stop string that matched, if
        any."""
        if not self._finished:
            self._add_text(self._detokenizer.flush())
            self._finished = True
        return self._stop_hit

    def take(self, upto_token: int | None = None) -> Released:
        """Releases the tokens before generated position `upto_token` (None: all) and the text certain by
        then.

        Positions beyond what was fed are allowed; what was released before is never repeated.
        """
        last = len(self._token_ids) if upto_token is None else min(upto_token, len(self._token_ids))
        last = max(last, self._taken_tokens)
        tokens = self._token_ids[self._taken_tokens : last]
        released = Released(self._take_text(self._text_limit(last)), tokens, self._taken_tokens)
        self._taken_tokens = last
        return released

    def _add_token(self, token_id: int) -> None:
        self._token_ids.append(token_id)
        self._text_ends.append(self._text_end)

    def _add_text(self, text: str) -> None:
        """Text that became certain with the last token."""
        match = self._matcher.push(text)
        if match is None:
            self._append(text)
            return
        end = match.end if self._include_stop else match.start
        self._append(text[: max(0, match.end - self._text_end)])
        self._text_end = end
        self._finished = True
        self._stop_hit = StopHit(match.stop, len(self._token_ids))

    def _append(self, text: str) -> None:
        self._new_text.append(text)
        self._text_end += len(text)
        if self._text_ends:
            self._text_ends[-1] = self._text_end

    def _end_with(self, token_id: int) -> None:
        self._add_text(self._detokenizer.flush())
        if self._finished:
            return
        self._add_token(token_id)
        if self._include_stop:
            self._append(self._detokenizer.push_token(token_id, keep_special=True))
            self._append(self._detokenizer.flush())
        self._finished = True

    def _text_limit(self, tokens: int) -> int:
        """How far the text may be shown when `tokens` tokens are."""
        own = self._text_ends[tokens - 1] if tokens else 0
        certain = self._text_end if self._finished or self._include_stop else self._text_end - self._matcher.held
        return min(own, certain)

    def _take_text(self, limit: int) -> str:
        self._kept += "".join(self._new_text)
        self._new_text.clear()
        count = max(0, limit - self._taken_text)
        text, self._kept = self._kept[:count], self._kept[count:]
        self._taken_text += count
        return text
