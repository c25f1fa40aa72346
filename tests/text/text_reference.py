"""What the text tests share: recorded and small tokenizers, and the specification of stop strings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import tokenizers
from hypothesis import settings
from tokenizers import decoders, models, pre_tokenizers

from pydllm.text import StopMatch, Tokenizer

GOLDEN = Path(__file__).parent.parent / "golden"
CHECKPOINTS = GOLDEN / "checkpoints"
NAMES = ("llada-tiny", "dream-tiny", "llada2-tiny")
FAMILIES = (*NAMES, "sentencepiece", "sentencepiece-strip-3", "metaspace", "wordpiece", "no-decoder", "ctc")


relaxed = settings(deadline=None)
"""For property tests: a busy machine is no failure."""


@cache
def tokenizer_of(family: str) -> Tokenizer:
    """A recorded tokenizer by checkpoint name, or a small one of another family."""
    if family in NAMES:
        return Tokenizer.load(CHECKPOINTS / family)
    with TemporaryDirectory() as directory:
        save(Path(directory), _BACKENDS[family]())
        return Tokenizer.load(Path(directory))


def save(directory: Path, backend: tokenizers.Tokenizer) -> Path:
    """Writes tokenizer.json into `directory` and returns the directory."""
    backend.save(str(directory / "tokenizer.json"))
    return directory


def sentencepiece(strip: int = 1) -> tokenizers.Tokenizer:
    """Llama's layout: "▁" pieces, <0xNN> bytes, the first space dropped."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁a", "b", "▁▁", "é", "\n", "▁stop", "."]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    chain = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", strip, 0),
    ]
    backend.decoder = decoders.Sequence(chain)
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def first_match(text: str, stops: list[str]) -> StopMatch | None:
    """The specification, by search: the smallest end, then the first listed."""
    ends = [(text.find(s) + len(s), i) for i, s in enumerate(stops) if s in text]
    if not ends:
        return None
    end, index = min(ends)
    return StopMatch(stops[index], end - len(stops[index]), end)


def _word_level(decoder: object, pieces: list[str]) -> tokenizers.Tokenizer:
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=pieces[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


_BACKENDS = {
    "sentencepiece": sentencepiece,
    "sentencepiece-strip-3": lambda: sentencepiece(strip=3),
    "metaspace": lambda: _word_level(decoders.Metaspace(), ["u", "▁", "▁a", "b▁c", "▁▁", "é", "🙂"]),
    "wordpiece": lambda: _word_level(decoders.WordPiece(), ["u", "a", "##b", ".", "n't", "##.", "'s", "é"]),
    "no-decoder": lambda: _word_level(None, ["u", "a", "b", "é", "🙂"]),
    "ctc": lambda: _word_level(decoders.CTC(), ["<pad>", "a", "b", "|", "é"]),
}
