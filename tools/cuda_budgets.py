"""Holds every CUDA kernel to its budget of registers, stack and shared memory, for each GPU architecture.

Usage: python tools/cuda_budgets.py OBJECT ... [--write]. Reads the compiled files with cuobjdump (from PATH, or the
wheel nvidia-cuda-cuobjdump) and compares with core/ops/cuda/budgets.json: {architecture: {kernel: {registers, stack,
shared}}}, bytes except for registers. A kernel over its budget, one without a budget and a budget without a kernel are
errors. A kernel that spills shows it in its stack. `shared` is static shared memory; what a launch asks for beside it
is bounded by the launch itself. --write takes the measured values as the new budgets, registers rounded up to what the
hardware hands out, multiples of 8.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGETS = ROOT / "core/ops/cuda/budgets.json"

Usage = dict[str, int]
Table = dict[str, dict[str, Usage]]

NAMES = {"REG": "registers", "STACK": "stack", "SHARED": "shared"}


def find_cuobjdump() -> str:
    """The program's path; SystemExit with the remedy where there is none."""
    found = shutil.which("cuobjdump")
    if found:
        return found
    package = importlib.util.find_spec("nvidia")
    for place in package.submodule_search_locations or [] if package else []:
        for candidate in sorted(Path(place).glob("cu*/bin/cuobjdump")):
            candidate.chmod(candidate.stat().st_mode | 0o111)
            return str(candidate)
    raise SystemExit("cuobjdump: not found in PATH nor as a wheel; run: pip install nvidia-cuda-cuobjdump")


def parse(output: str) -> Table:
    """The table of `cuobjdump --dump-resource-usage`; names still mangled."""
    table: Table = {}
    architecture = function = ""
    for line in output.splitlines():
        if match := re.search(r"\barch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.search(r"Function (\S+):", line):
            function = match[1]
        elif function and "REG:" in line:
            values = dict(re.findall(r"(\w+):(\d+)", line))
            table.setdefault(architecture, {})[function] = {NAMES[k]: int(values[k]) for k in NAMES}
            function = ""
    return table


def short_name(demangled: str) -> str:
    """`void pydllm::ops::cuda::rms_norm_kernel<float>(float const*, ...)` is `rms_norm_kernel<float>`."""
    name = demangled.replace("pydllm::ops::cuda::", "").replace("pydllm::", "").removeprefix("void ")
    return name[: name.rindex("(")] if name.endswith(")") else name


def demangle(names: list[str]) -> dict[str, str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return {name: short_name(line) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


def measure(files: list[Path]) -> Table:
    """Usage of every kernel in the files, by architecture and readable name."""
    table: Table = {}
    tool = find_cuobjdump()
    for file in files:
        done = subprocess.run([tool, "--dump-resource-usage", str(file)], capture_output=True, text=True, check=False)
        if done.returncode and "does not contain device code" not in done.stdout + done.stderr:
            raise SystemExit(f"{file}: {(done.stderr or done.stdout).strip()}")
        for architecture, kernels in parse(done.stdout).items():
            names = demangle(sorted(kernels))
            table.setdefault(architecture, {}).update({names[k]: usage for k, usage in kernels.items()})
    return table


def compare(measured: Table, budgets: Table) -> list[str]:
    """One line for everything that is wrong."""
    wrong = []
    for architecture in sorted(measured.keys() | budgets.keys()):
        have, allowed = measured.get(architecture, {}), budgets.get(architecture, {})
        wrong += [f"{architecture} {name}: has no budget" for name in sorted(have.keys() - allowed.keys())]
        wrong += [
            f"{architecture} {name}: has a budget, was not compiled" for name in sorted(allowed.keys() - have.keys())
        ]
        for name in sorted(have.keys() & allowed.keys()):
            wrong += [
                f"{architecture} {name}: {field}: expected at most {allowed[name][field]}, got {have[name][field]}"
                for field in NAMES.values()
                if have[name][field] > allowed[name][field]
            ]
    return wrong


def as_budgets(measured: Table) -> Table:
    return {
        architecture: {name: {**usage, "registers": -(-usage["registers"] // 8) * 8} for name, usage in kernels.items()}
        for architecture, kernels in measured.items()
    }


def print_table(measured: Table) -> None:
    print(f"{'':10}{'registers':>10}{'stack':>7}{'shared':>8}  kernel")
    for architecture, kernels in sorted(measured.items()):
        for name, usage in sorted(kernels.items()):
            print(f"{architecture:10}{usage['registers']:10}{usage['stack']:7}{usage['shared']:8}  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="take the measured values as the new budgets")
    arguments = parser.parse_args()
    measured = measure(arguments.files)
    print_table(measured)
    if arguments.write:
        BUDGETS.write_text(json.dumps(as_budgets(measured), indent=1, sort_keys=True) + "\n")
        return 0
    wrong = compare(measured, json.loads(BUDGETS.read_text()))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
