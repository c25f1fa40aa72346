"""Runs a module of Python with another build of the extension: with_core.py _core.so -m pytest tests/engine."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Loads the extension under its name, so that whoever imports pydllm._core gets it; then runs the module."""
    path, flag, module, *arguments = sys.argv[1:]
    if flag != "-m":
        sys.exit("with_core.py: expected EXTENSION -m MODULE [ARGUMENT ...]")
    import pydllm

    spec = importlib.util.spec_from_file_location("pydllm._core", path)
    if spec is None or spec.loader is None:
        sys.exit(f"with_core.py: {path} is no extension module")
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    sys.modules["pydllm._core"] = pydllm._core = core
    sys.path[0] = str(Path.cwd())
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


main()
