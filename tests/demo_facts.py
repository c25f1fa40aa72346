"""What tests need to know of the demo model that ships, read from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pydllm.demo_model

FOLDER = Path(next(iter(pydllm.demo_model.__path__)))
VOCABULARY: int = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["vocab_size"]
_IDS: dict[str, int] = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]


def token(text: str) -> int:
    """The id of a token by its spelling in tokenizer.json, where Ġ is a space."""
    return _IDS[text]
