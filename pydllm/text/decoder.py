"""What the decoder of a tokenizer.json means for streaming, and the bytes of single tokens."""

from __future__ import annotations

import enum
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class DecoderKind(enum.Enum):
    """How far the text of a token depends on its neighbours."""

    BYTES = "bytes"
    """Byte-level: the text is the concatenated bytes of the tokens, decoded as UTF-8."""
    BYTE_FALLBACK = "byte_fallback"
    """Sentencepiece: pieces with "▁"; runs of <0xNN> tokens are characters, or U+FFFD each when the run is
    broken."""
    PIECES = "pieces"
    """Pieces that depend on at most the text before them (Metaspace, WordPiece, BPE suffixes, no decoder)."""
    WHOLE = "whole"
    """Unknown: only the text of all tokens together is certain."""


_LOCAL_TYPES = {"Metaspace", "WordPiece", "BPEDecoder"}
_BYTE_TOKEN = re.compile(r"<0x(?:[0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")


def decoder_kind(decoder: Any) -> DecoderKind:
    """Classifies the decoder component of a `tokenizers.Tokenizer` (None when it has none)."""
    if decoder is None:
        return DecoderKind.PIECES
    state = json.loads(decoder.__getstate__())
    chain = _flatten(state)
    types = [component.get("type") for component in chain]
    if types == ["ByteLevel"]:
        return DecoderKind.BYTES
    if len(types) == 1 and types[0] in _LOCAL_TYPES:
        return DecoderKind.PIECES
    return _sentencepiece_kind(chain)


def is_byte_token(text: str) -> bool:
    """Whether a token spells one byte: <0xNN>."""
    return _BYTE_TOKEN.fullmatch(text) is not None


def byte_level_bytes(text: str) -> bytes:
    """GPT-2's byte alphabet undone; a token with any other character stands for itself."""
    try:
        return bytes(_BYTE_OF[c] for c in text)
    except KeyError:
        return text.encode("utf-8")


def piece_bytes(text: str, kind: DecoderKind) -> bytes:
    """The bytes of a sentencepiece-style token: "▁" is a space, <0xNN> a byte."""
    if kind is DecoderKind.BYTE_FALLBACK and is_byte_token(text):
        return bytes([int(text[3:5], 16)])
    return text.replace("▁", " ").encode("utf-8")


def _flatten(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if state.get("type") != "Sequence":
        return [state]
    return [part for child in state["decoders"] for part in _flatten(child)]


def _sentencepiece_kind(chain: list[Mapping[str, Any]]) -> DecoderKind:
    """Replace* ByteFallback Fuse Strip*: everything before Fuse looks at one token, or at one run of byte
    tokens."""
    types = [str(component.get("type")) for component in chain]
    shape = "".join({"Replace": "R", "ByteFallback": "B", "Fuse": "F", "Strip": "S"}.get(t, "?") for t in types)
    if not re.fullmatch(r"R*BR*FS?|R*FS?", shape) or not all(map(_replaces_inside_tokens, chain)):
        return DecoderKind.WHOLE
    return DecoderKind.BYTE_FALLBACK if "B" in shape else DecoderKind.PIECES


def _replaces_inside_tokens(component: Mapping[str, Any]) -> bool:
    return component.get("type") != "Replace" or "String" in component.get("pattern", {})


def _byte_alphabet() -> dict[str, int]:
    """Printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
