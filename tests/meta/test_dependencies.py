"""The directions of dependency of docs/architecture.md, read from includes and imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# module -> modules it may include beside itself
CPP = {
    "base": set(),
    "select": {"base"},
    "tensor": {"base"},
    "ops": {"select", "tensor", "base"},
    "cache": {"tensor", "base"},
    "models": {"ops", "cache", "tensor", "base"},
    "decode": {"select", "base"},
    "engine": {"models", "decode", "cache", "ops", "select", "tensor", "base"},
    "bind": {"engine", "models", "decode", "cache", "ops", "select", "tensor", "base"},
}

# Module prefix -> prefixes of our own modules it may import beside itself. The first matching entry counts.
COMMON = {"pydllm.errors", "pydllm.params", "pydllm.outputs", "pydllm.canvas"}
PYTHON = {
    "pydllm.errors": set(),
    "pydllm.params": {"pydllm.errors"},
    "pydllm.canvas": {"pydllm.errors", "pydllm.params"},
    "pydllm.outputs": {"pydllm._core"},
    "pydllm.console": set(),
    "pydllm.addresses": set(),
    "pydllm.checkpoint": {"pydllm._core", *COMMON},
    "pydllm.text": COMMON,
    "pydllm.engine": {"pydllm._core", "pydllm.checkpoint", "pydllm.embedded", "pydllm.nvidia_wheels", *COMMON},
    "pydllm.llm": {"pydllm.engine", "pydllm.text", "pydllm._core", *COMMON},
    "pydllm.server": {
        "pydllm.engine",
        "pydllm.text",
        "pydllm_proto",
        "pydllm._version",
        "pydllm.console",
        "pydllm.addresses",
        "pydllm.embedded",
        *COMMON,
    },
    "pydllm.supervisor": {"pydllm.addresses"},
    "pydllm.terminal": {"pydllm.llm", "pydllm_proto", "pydllm._core", *COMMON},
    "pydllm.evaluate": {"pydllm.llm", "pydllm_proto", *COMMON},
    "pydllm.cli": {
        "pydllm.evaluate",
        "pydllm.terminal",
        "pydllm.supervisor",
        "pydllm.llm",
        "pydllm._version",
        "pydllm._core",
        "pydllm.console",
        "pydllm.embedded",
        "pydllm.nvidia_wheels",
        *COMMON,
    },
    "pydllm.nvidia_wheels": set(),
    "pydllm.demo_model": set(),
    "pydllm.embedded": set(),
    "pydllm._version": set(),
    "pydllm.__main__": {"pydllm.cli"},
    "pydllm_gateway": {"pydllm_proto"},
    "pydllm_proto": set(),
}


def cpp_edges() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {module: set() for module in CPP}
    for path in sorted((ROOT / "core").rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        module = path.relative_to(ROOT / "core").parts[0]
        for include in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            assert "/" in include, f"{path.name}: include {include!r} by its module path"
            edges[module].add(include.split("/")[0])
    return edges


def test_cpp_modules_include_only_what_lies_below_them() -> None:
    wrong = {
        f"{module} -> {target}"
        for module, targets in cpp_edges().items()
        for target in targets - CPP[module] - {module}
    }
    assert not wrong


def test_declared_cpp_directions_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(CPP):
        ready = {module for module, targets in CPP.items() if module not in done and targets <= done}
        assert ready, f"cycle among {sorted(set(CPP) - done)}"
        done |= ready


def test_cuda_headers_stay_under_the_cuda_folders() -> None:
    for path in sorted((ROOT / "core").rglob("*")):
        if path.suffix in {".h", ".cpp"} and path.parent.name != "cuda":
            assert not re.search(r"#include <cu(da|blas)", path.read_text()), path.name


def test_backends_do_not_include_each_other() -> None:
    for own, other in (("cpu", "cuda"), ("cuda", "cpu")):
        for path in sorted((ROOT / "core/ops" / own).glob("*")):
            assert f'"ops/{other}/' not in path.read_text(), path.name


def python_files() -> list[tuple[str, Path]]:
    files = []
    for top in (ROOT / "pydllm", ROOT / "gateway/pydllm_gateway"):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            files.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return files


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in {"pydllm", "pydllm_gateway", "pydllm_proto"}}


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_python_modules_import_only_what_lies_below_them() -> None:
    wrong = []
    for module, path in python_files():
        owner = next((prefix for prefix in PYTHON if within(module, prefix)), None)
        if owner is None:
            assert module == "pydllm", f"{module}: add it to the directions of dependency"
            continue  # the package itself re-exports lazily
        allowed = PYTHON[owner] | {owner}
        wrong += [
            f"{module} -> {name}"
            for name in imports_of(path)
            if name != "pydllm" and not any(within(name, prefix) for prefix in allowed)
        ]
    assert not wrong


def test_serving_code_never_imports_torch() -> None:
    for _, path in python_files():
        assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.MULTILINE), path.name
