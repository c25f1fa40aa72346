"""tools/cuda_budgets.py: what it reads from cuobjdump and what it calls an error."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("cuda_budgets", ROOT / "tools/cuda_budgets.py")
assert spec is not None
assert spec.loader is not None
cuda_budgets = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = cuda_budgets
spec.loader.exec_module(cuda_budgets)

OUTPUT = """
Fatbin elf code:
================
arch = sm_90a
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _Z1kPf:
  REG:8 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:360 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
USAGE = {"registers": 8, "stack": 16, "shared": 1024}


def test_registers_stack_and_shared_memory_are_read_for_each_architecture() -> None:
    later = OUTPUT.replace("sm_90a", "sm_100a").replace("REG:8", "REG:9")
    table = cuda_budgets.parse(OUTPUT + later)
    assert table == {"sm_90a": {"_Z1kPf": USAGE}, "sm_100a": {"_Z1kPf": {**USAGE, "registers": 9}}}


def test_names_lose_their_namespace_and_parameters() -> None:
    name = "void pydllm::ops::cuda::rms_norm_kernel<pydllm::BFloat16>(float const*, int const*)"
    assert cuda_budgets.short_name(name) == "rms_norm_kernel<BFloat16>"


def test_every_kind_of_excess_is_an_error() -> None:
    measured = {"sm_80": {"a": USAGE, "b": USAGE}}
    assert cuda_budgets.compare(measured, measured) == []
    for field in USAGE:
        budgets = {"sm_80": {"a": USAGE, "b": {**USAGE, field: USAGE[field] - 1}}}
        [line] = cuda_budgets.compare(measured, budgets)
        assert line == f"sm_80 b: {field}: expected at most {USAGE[field] - 1}, got {USAGE[field]}"
    assert cuda_budgets.compare(measured, {"sm_80": {"a": USAGE}}) == ["sm_80 b: has no budget"]
    assert cuda_budgets.compare({}, {"sm_80": {"a": USAGE}}) == ["sm_80 a: has a budget, was not compiled"]


def test_budgets_of_registers_are_whole_allocations() -> None:
    table = {"sm_80": {"a": {**USAGE, "registers": 33}}}
    assert cuda_budgets.as_budgets(table) == {"sm_80": {"a": {**USAGE, "registers": 40}}}


def test_every_kernel_has_a_budget_on_every_architecture_and_spills_at_most_four_registers() -> None:
    budgets = json.loads((ROOT / "core/ops/cuda/budgets.json").read_text())
    kernels = {
        name
        for path in (ROOT / "core/ops/cuda").glob("*.cu")
        for name in re.findall(r"\b(\w+_kernel)\(\s*(?:const |\w+Args|void|float)", path.read_text())
    }
    assert sorted(budgets) == ["sm_100a", "sm_80", "sm_90a"]
    for architecture, table in budgets.items():
        assert {name.split("<")[0] for name in table} == kernels, architecture
        assert all(usage["stack"] <= 16 for usage in table.values()), architecture
