"""Text in and out: tokenizer, chat template, detokenization and stop strings. Names load on first use (PEP
562)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydllm.text.assembler import CandidateAssembler, Released, StopHit
    from pydllm.text.candidate import CandidateProgress
    from pydllm.text.chat_template import ChatTemplate
    from pydllm.text.detokenizer import IncrementalDetokenizer
    from pydllm.text.stop import StopMatch, StopMatcher
    from pydllm.text.tokenizer import SpecialToken, Tokenizer

_MODULE_OF = {
    "CandidateAssembler": "assembler",
    "CandidateProgress": "candidate",
    "ChatTemplate": "chat_template",
    "IncrementalDetokenizer": "detokenizer",
    "Released": "assembler",
    "SpecialToken": "tokenizer",
    "StopHit": "assembler",
    "StopMatch": "stop",
    "StopMatcher": "stop",
    "Tokenizer": "tokenizer",
}

__all__ = [
    "CandidateAssembler",
    "CandidateProgress",
    "ChatTemplate",
    "IncrementalDetokenizer",
    "Released",
    "SpecialToken",
    "StopHit",
    "StopMatch",
    "StopMatcher",
    "Tokenizer",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
