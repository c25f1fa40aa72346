"""`make gpu-check`: builds the extension with CUDA, runs the recordings and the engine's tests on the GPU, a part of
them under compute-sanitizer, and times kernels; prints a table and writes one JSON file.

Usage: python tools/gpu_check.py [--device cuda:0] [--out bench/results/gpu-check-DATE.json] [--emulated]. Installs
nothing: the Python that runs it must have pybind11, pytest, numpy, safetensors, tokenizers, grpcio and protobuf; cmake,
ninja and nvcc are in PATH. --emulated runs the same on the CPU, without a GPU, nvcc and the sanitizer.

Exit code: 0 when everything that was run passed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu"
RECORDINGS = (
    "tests/models/test_llada_golden.py",
    "tests/models/test_dream_golden.py",
    "tests/models/test_llada2_golden.py",
    "tests/engine/test_golden.py",
    "tests/engine/test_golden_d3llm.py",
    "tests/engine/test_dream_golden_runs.py",
)
SANITIZED = ("tests/models/test_llada_golden.py::test_logits_are_bit_identical_alone_and_in_a_batch",)
TOOLS = ("memcheck", "racecheck", "synccheck")


@dataclass
class Step:
    """One line of the table."""

    name: str
    passed: bool
    figure: str
    seconds: float


def run(command: list[str], **environment: str) -> tuple[int, str, float]:
    """Exit code, output and seconds of a command in the repository's root."""
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, time.monotonic() - start


def last_line(output: str) -> str:
    """The last line that says something."""
    lines = [line.strip("= ") for line in output.splitlines() if line.strip("= ")]
    return lines[-1] if lines else "no output"


def build(cuda: str, architectures: str) -> Step:
    """The extension for this machine's GPU, in a folder of its own."""
    import pybind11

    configure = ["cmake", "-S", ".", "-B", str(BUILD), "-G", "Ninja", "-DPYDLLM_PYTHON=ON", f"-DPYDLLM_CUDA={cuda}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    configure += [f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"]
    code, output, seconds = run(configure)
    if code == 0:
        code, output, more = run(["cmake", "--build", str(BUILD), "--target", "_core"])
        seconds += more
    return Step("build", code == 0, f"{architectures}" if code == 0 else last_line(output), seconds)


def extension() -> str:
    """Where `build` left it."""
    return str(next(BUILD.glob("_core*.so")))


def python_tests(name: str, device: str, nodes: tuple[str, ...], prefix: tuple[str, ...] = ()) -> Step:
    """pytest on the device, with the extension that was just built."""
    command = [
        *prefix,
        sys.executable,
        "tools/with_core.py",
        extension(),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    code, output, seconds = run([*command, *nodes], PYDLLM_TEST_DEVICE=device)
    return Step(name, code == 0, last_line(output), seconds)


def sanitize(tool: str, device: str) -> Step:
    """A small part under compute-sanitizer: any finding fails."""
    prefix = ("compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", "--target-processes=all")
    step = python_tests(f"sanitizer {tool}", device, SANITIZED, prefix)
    if re.search(r"ERROR SUMMARY: 0 errors", step.figure):
        step.figure = "no finding"
    return step


def machine() -> dict[str, str]:
    """What was measured on."""
    code, output, _ = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    return {"gpu": output.strip() if code == 0 else "none", "python": sys.version.split()[0]}


def main() -> int:
    """Runs the steps; a failed build ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--architectures", default="90a-real")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--emulated", action="store_true")
    arguments = parser.parse_args()
    steps = [build("EMULATED" if arguments.emulated else "ON", arguments.architectures)]
    show(steps[-1])
    if steps[-1].passed:
        steps += checks(arguments.device, emulated=arguments.emulated)
    passed = all(step.passed for step in steps)
    write(arguments.out, steps, passed=passed, emulated=arguments.emulated)
    print(f"gpu-check: {sum(step.passed for step in steps)}/{len(steps)} steps passed")
    return 0 if passed else 1


def checks(device: str, *, emulated: bool) -> list[Step]:
    """Everything behind the build."""
    steps = []
    for path in RECORDINGS:
        steps.append(python_tests(Path(path).stem, device, (path,)))
        show(steps[-1])
    if not emulated and shutil.which("compute-sanitizer"):
        for tool in TOOLS:
            steps.append(sanitize(tool, device))
            show(steps[-1])
    return steps


def show(step: Step) -> None:
    """One line."""
    print(f"{'pass' if step.passed else 'FAIL'}  {step.name}: {step.figure} ({step.seconds:.0f} s)", flush=True)


def write(out: Path | None, steps: list[Step], *, passed: bool, emulated: bool) -> None:
    """The JSON file."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    target = out or ROOT / "build" / f"gpu-check-{today}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "date": str(today),
        "command": " ".join(["python", *sys.argv]),
        "emulated": emulated,
        "machine": machine() if not emulated else {"gpu": "none: emulated on the CPU"},
        "passed": passed,
        "steps": [asdict(step) for step in steps],
    }
    target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
