"""Runs a module of Python on this tree with another build of the extension: with_core.py _core.so -m pytest tests."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Loads the extension under its name, so that whoever imports pydllm._core gets it; then runs the module."""
    if len(sys.argv) < 4 or sys.argv[2] != "-m":
        sys.exit("with_core.py: expected EXTENSION -m MODULE [ARGUMENT ...]")
    path, _, module, *arguments = sys.argv[1:]
    # An editable install finds its own extension by a hook; this tree comes first.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirect" not in type(finder).__name__]
    sys.path[:1] = [str(ROOT), str(ROOT / "proto/python"), str(ROOT / "gateway")]
    import pydllm

    spec = importlib.util.spec_from_file_location("pydllm._core", path)
    if spec is None or spec.loader is None:
        sys.exit(f"with_core.py: {path} is no extension module")
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    sys.modules["pydllm._core"] = core
    vars(pydllm)["_core"] = core
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


main()
