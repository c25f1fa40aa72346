"""Incremental detokenization: the deltas of any splitting concatenate to the text of all ids."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Protocol

from pydllm.text.decoder import DecoderKind, is_byte_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydllm.text.tokenizer import Tokenizer


class _Stream(Protocol):
    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class IncrementalDetokenizer:
    """Turns a growing token sequence into text deltas.

    Never emits a part of a character: incomplete UTF-8 is held back until the tokens that complete it, or
    flush(). The concatenation of all deltas and of flush() is `tokenizer.decode(all ids)` with the same
    options. Amortised O(1) per token, except for a decoder of kind WHOLE, which emits at flush().
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._stream = _make_stream(tokenizer)

    def push(self, ids: Sequence[int]) -> str:
        """The text that became certain with these tokens."""
        return "".join(self.push_token(i) for i in ids)

    def push_token(self, token_id: int, *, keep_special: bool = False) -> str:
        """push([token_id]); keep_special emits the text of a special token whatever skip_special_tokens
        says."""
        if token_id in self._skipped and not keep_special:
            return ""
        if self._tokenizer.token_text(token_id) is None:
            return ""
        return self._stream.push(token_id)

    def flush(self) -> str:
        """What was held back; incomplete UTF-8 as U+FFFD."""
        return self._stream.flush()


def _make_stream(tokenizer: Tokenizer) -> _Stream:
    if tokenizer.decoder_kind is DecoderKind.BYTES:
        return _ByteStream(tokenizer)
    if tokenizer.decoder_kind is DecoderKind.WHOLE:
        return _WholeStream(tokenizer)
    return _WindowStream(tokenizer)


class _ByteStream:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


class _WindowStream:
    """Decodes the new tokens behind a context whose own text is known, and emits the difference.

    The context always has text of its own, so that what a decoder does to the beginning of a text (dropping
    the first space) happens to the context and not to the new tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._holds_bytes = tokenizer.decoder_kind is DecoderKind.BYTE_FALLBACK
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        self._pending.append(token_id)
        # A later byte can still break the whole run of <0xNN> tokens, so it stays until the run is over.
        if self._holds_bytes and is_byte_token(self._tokenizer.token_text(token_id) or ""):
            return ""
        return self.flush()

    def flush(self) -> str:
        known = self._decode(self._context)
        text = self._decode(self._context + self._pending)
        own = self._decode(self._pending)
        self._context = self._pending if own else self._context + self._pending
        self._pending = []
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class _WholeStream:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return ""

    def flush(self) -> str:
        ids, self._ids = self._ids, []
        return self._tokenizer.decode(ids, skip_special_tokens=False)
