"""From a model's name to what the services share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from pydllm.embedded import embedded_name
from pydllm.engine import AsyncEngine, EngineConfig, find, start
from pydllm.server.no_tokenizer import NoTokenizer
from pydllm.server.served import Served
from pydllm.text import ChatTemplate, Tokenizer

if TYPE_CHECKING:
    from pydllm.engine.loader import Progress

__all__ = ["EngineConfig", "load_served"]


def load_served(
    model: str | None,
    config: EngineConfig,
    *,
    served_model_name: str | None = None,
    revision: str | None = None,
    skip_tokenizer: bool = False,
    progress: Progress | None = None,
) -> Served:
    """Loads weights and, unless skipped, tokenizer and chat template; any thread.

    Raises CheckpointError and the options' errors.
    """
    found = find(model, config, revision=revision)
    checkpoint = found.checkpoint
    tokenizer = NoTokenizer() if skip_tokenizer else Tokenizer.load(checkpoint.path)
    chat_template = None if skip_tokenizer else ChatTemplate.load(checkpoint.path, tokenizer)
    loaded = start(found, progress=progress)
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return Served(
        name=served_model_name or _default_name(model, checkpoint.name),
        engine=AsyncEngine(loaded),
        tokenizer=tokenizer,
        chat_template=chat_template,
        loaded=stamp,
        source=_source(model, checkpoint.name),
        revision=revision or "",
        longest_token=max((len(tokenizer.token_text(i) or "") for i in range(tokenizer.vocab_size)), default=0),
    )


def _default_name(model: str | None, name: str) -> str:
    """A Hub id is its own name; a directory is called by its last part, so that no path leaves the server."""
    if model is None or embedded_name(model) or os.path.isdir(Path(model).expanduser()):
        return name
    return model


def _source(model: str | None, name: str) -> str:
    """Where the model is from; an embedded one cannot be confused with a directory of its name."""
    embedded = embedded_name(model)
    return f"pydllm:{embedded}" if embedded else _default_name(model, name)
