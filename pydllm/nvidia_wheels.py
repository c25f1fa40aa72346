"""Where the libraries of NVIDIA's wheels lie, found without importing anything of them and without torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def library_folders() -> list[str]:
    """The folders `lib` of all installed wheels that share the package `nvidia`, in the order of sys.path.

    nvidia-cublas puts libcublasLt into nvidia/cu13/lib, nvidia-cublas-cu12 into nvidia/cublas/lib.
    """
    spec = importlib.util.find_spec("nvidia")
    if spec is None or spec.submodule_search_locations is None:
        return []
    found = (folder for root in spec.submodule_search_locations for folder in sorted(Path(root).glob("*/lib")))
    return [str(folder) for folder in found if any(folder.glob("libcublasLt.so*"))]
