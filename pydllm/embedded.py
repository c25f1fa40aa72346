"""The models that come with the package."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

DEMO = "demo"
_FOLDERS = {DEMO: "demo_model", "demo-block": "demo_block_model"}
"""Name -> folder of the package: the demo model, and its block-causal sibling."""


def embedded_name(model: str | os.PathLike[str] | None) -> str | None:
    """The name of the embedded model that this means, None where it means another; None means the demo model.

    A directory of the same name comes first.
    """
    if model is None:
        return DEMO
    return model if isinstance(model, str) and model in _FOLDERS and not Path(model).is_dir() else None


def embedded_directory(name: str) -> Path:
    """The checkpoint directory of an embedded model."""
    return Path(str(importlib.resources.files("pydllm") / _FOLDERS[name]))
