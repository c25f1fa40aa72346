"""Runs Python on this tree with another build of the extension: with_core.py _core.so -m pytest tests, or
with_core.py _core.so bench/kernels.py."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Loads the extension under its name, so that whoever imports pydllm._core gets it; then runs the module."""
    path, *rest = sys.argv[1:]
    is_module = rest[:1] == ["-m"]
    if len(rest) < (2 if is_module else 1):
        sys.exit("with_core.py: expected EXTENSION (-m MODULE | SCRIPT) [ARGUMENT ...]")
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
    sys.argv = rest[1:] if is_module else rest
    if is_module:
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(rest[0]).resolve().parent))
        runpy.run_path(rest[0], run_name="__main__")


main()
