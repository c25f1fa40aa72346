"""`make gpu-check`: everything that a GPU has to show, in one command of less than ten minutes. Prints a line for each
step and tables of timings, writes one JSON file.

build         the extension for the GPU that is here, in build/gpu
ops           every op against float64 (tests/ops)
logits        first logits of the recordings, float32 and, beside torch's own error, bfloat16
recordings    the recordings of the original implementations through the engine, token for token
engine        order in a batch, cancelling, pages that come back, refusals
interchange   tensors from and to torch and CuPy
kernels       bench/kernels.py: every kernel beside torch
first look    bench/first_look.py: whole steps of LLaDA-8B and Dream-7B shapes beside torch
memcheck, racecheck, synccheck   a few of the tests under compute-sanitizer

Usage: python tools/gpu_check.py [--device cuda:0] [--only STEP ...] [--out FILE.json] [--emulated]. Installs nothing:
the Python that runs it must have pybind11, pytest, numpy, torch, safetensors, tokenizers, jinja2 and huggingface_hub;
cmake, ninja and nvcc are in PATH. What CuPy or compute-sanitizer would show is skipped where they are absent, with that
reason. --emulated runs the same on the CPU, with tiny sizes, without a GPU, nvcc and the sanitizer: it shows that the
check works, nothing of a GPU.

Exit code: 0 when no step failed. A step that was skipped has not passed, and one without time left has failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 570
"""Seconds for everything."""
EMULATED_SLOWNESS = 8
"""How much longer the limits are there."""
SHOWN_LINES = 12
"""Of a failed step's output."""

OPS = ("tests/ops",)
LOGITS = (
    "tests/models/test_error_of_bfloat16.py",
    "tests/models/test_llada_golden.py",
    "tests/models/test_dream_golden.py",
    "tests/models/test_llada2_golden.py",
    "tests/models/test_tensors_in_memory.py",
)
RECORDINGS = (
    "tests/engine/test_golden.py",
    "tests/engine/test_golden_d3llm.py",
    "tests/engine/test_dream_golden_runs.py",
)
ENGINE = ("tests/engine/test_threaded_engine.py", "tests/engine/test_device.py")
LONG_ENGINE = (
    "tests/engine/test_bit_identity.py::test_same_bits_with_fifteen_random_neighbours",
    "tests/engine/test_llm.py::test_lists_and_candidates_come_flat_in_order",
    "tests/engine/test_llm.py::test_leaving_a_stream_cancels_it",
    "tests/engine/test_llm.py::test_a_list_far_longer_than_the_queue",
)
"""Minutes in the emulation, which leaves them out."""
INTERCHANGE = ("tests/engine/test_cuda_interchange.py", "tests/engine/test_dlpack.py")
SANITIZED = (
    "tests/models/test_llada_golden.py::test_logits_are_bit_identical_alone_and_in_a_batch",
    "tests/ops/test_sequences.py::test_a_sequence_attends_the_same_alone_and_in_a_batch",
    "tests/ops/test_products.py::test_experts_add_what_their_tokens_chose",
    "tests/ops/test_products.py::test_a_row_of_linear_is_the_same_alone_and_among_others",
    "tests/ops/test_logits.py::test_filters_keep_what_their_formula_keeps_and_draw_the_token_of_the_cpu",
)
SANITIZERS = ("memcheck", "racecheck", "synccheck")


@dataclass
class Step:
    """One line of the table."""

    name: str
    outcome: str
    """ "pass", "FAIL" or "skip"."""
    figure: str
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What tests measured, what was skipped and why."""
    output: list[str] = field(default_factory=list)
    """The lines of a failure that say most."""


@dataclass
class Done:
    """A command that ended or was ended."""

    code: int
    output: str
    seconds: float
    timed_out: bool = False


@dataclass
class Check:
    """What the steps share."""

    device: str
    emulated: bool
    architectures: str
    deadline: float
    report: dict[str, object] = field(default_factory=dict)
    """What the benchmarks wrote, by step."""

    @property
    def build(self) -> Path:
        """Where the extension of this check is."""
        return ROOT / "build" / ("gpu-emulated" if self.emulated else "gpu")

    def left(self, most: float) -> float:
        """Seconds for a step that may take so many on a GPU."""
        return min(most * (EMULATED_SLOWNESS if self.emulated else 1), self.deadline - time.monotonic())


def run(command: list[str], timeout: float, **environment: str) -> Done:
    """A command in the repository's root; at the timeout it ends with everything that it started."""
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        timed_out = False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        timed_out = True
    return Done(process.returncode, output, time.monotonic() - start, timed_out)


def telling_lines(output: str) -> list[str]:
    """What went wrong, each kind once, and where; else the end."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [
        line
        for line in lines
        if re.match(r"E  |error: |\S+[:)]:? error: |[\w.]*(Error|Unsupported)\b|========= [A-Z]", line)
    ]
    tests = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    half = SHOWN_LINES // 2
    return [*list(dict.fromkeys(errors))[:half], *tests[:half]] or lines[-SHOWN_LINES:]


def failed(name: str, done: Done, figure: str) -> Step:
    why = f"ended after {done.seconds:.0f} s, its limit" if done.timed_out else figure
    return Step(name, "FAIL", why, done.seconds, output=telling_lines(done.output))


def last_line(output: str) -> str:
    lines = [line.strip("= ") for line in output.splitlines() if line.strip("= ")]
    return lines[-1] if lines else "no output"


# --- steps ---


def build(check: Check) -> Step:
    """The extension, in a folder of its own."""
    import pybind11

    cuda = "EMULATED" if check.emulated else "ON"
    configure = [
        "cmake",
        "-S",
        ".",
        "-B",
        str(check.build),
        "-G",
        "Ninja",
        "-DPYDLLM_PYTHON=ON",
        f"-DPYDLLM_CUDA={cuda}",
    ]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    if not check.emulated:
        configure.append(f"-DCMAKE_CUDA_ARCHITECTURES={check.architectures}")
    done = run(configure, check.left(60))
    if done.code == 0:
        compiled = run(["cmake", "--build", str(check.build), "--target", "_core"], check.left(300))
        done = Done(compiled.code, compiled.output, done.seconds + compiled.seconds, compiled.timed_out)
    if done.code != 0:
        return failed("build", done, last_line(done.output))
    return Step("build", "pass", "emulated on the CPU" if check.emulated else check.architectures, done.seconds)


def with_extension(check: Check, *command: str) -> list[str]:
    """Python with what the step `build` left."""
    return [sys.executable, "tools/with_core.py", str(next(check.build.glob("_core*.so"))), *command]


def python_tests(
    name: str, limit: float, nodes: tuple[str, ...], prefix: tuple[str, ...] = ()
) -> Callable[[Check], Step]:
    """pytest on the device. All of it skipped is a skip."""

    def step(check: Check) -> Step:
        with tempfile.TemporaryDirectory() as folder:
            junit = Path(folder) / "report.xml"
            command = with_extension(check, "-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider")
            command = [*prefix, *command, f"--junitxml={junit}", *nodes]
            done = run(command, check.left(limit), PYDLLM_TEST_DEVICE=check.device)
            figures = recorded_figures(junit)
        if done.code != 0:
            return failed(name, done, last_line(done.output))
        skipped = re.findall(r"^SKIPPED (\[\d+\] .*)$", done.output, re.MULTILINE)
        outcome = "pass" if re.search(r"\b\d+ passed", done.output) else "skip"
        counts = re.search(r"^=* ?(\d+ (?:passed|skipped).*?)(?: in .*)?$", done.output, re.MULTILINE)
        return Step(name, outcome, counts[1] if counts else last_line(done.output), done.seconds, [*figures, *skipped])

    return step


def recordings(check: Check) -> Step:
    """Minutes in the emulation: there it is a command of its own."""
    if check.emulated:
        return Step("recordings", "skip", "emulated: make cuda-emulated runs them")
    return python_tests("recordings", 120, RECORDINGS)(check)


def recorded_figures(junit: Path) -> list[str]:
    """What tests recorded as the property "figure"."""
    if not junit.exists():
        return []
    nodes = ElementTree.parse(junit).iter("property")
    return [str(node.get("value")) for node in nodes if node.get("name") == "figure"]


def sanitizer(tool: str) -> Callable[[Check], Step]:
    """A few tests under compute-sanitizer: any finding fails."""
    prefix = ("compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", "--target-processes=all")
    pytest = python_tests(tool, 90, SANITIZED, prefix)

    def step(check: Check) -> Step:
        if check.emulated or not shutil.which("compute-sanitizer"):
            why = "emulated: no device" if check.emulated else "compute-sanitizer is not in PATH"
            return Step(tool, "skip", why)
        found = pytest(check)
        if found.outcome == "FAIL" and any("Device not supported" in line for line in found.output):
            return Step(
                tool, "skip", "compute-sanitizer: Device not supported (it needs more rights here)", found.seconds
            )
        if found.outcome == "pass":
            found.figure = f"no finding in {found.figure}"
        return found

    return step


def benchmark(name: str, limit: float, script: str) -> Callable[[Check], Step]:
    """A program of bench; its table is printed, its JSON goes into the report."""

    def step(check: Check) -> Step:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "report.json"
            command = with_extension(check, script, "--device", check.device, "--output", str(out))
            done = run([*command, *(["--tiny"] if check.emulated else [])], check.left(limit))
            if out.exists():
                check.report[name] = json.loads(out.read_text())
        if done.code != 0:
            return failed(name, done, last_line(done.output))
        rows = len(re.findall(r"^\|", done.output, re.MULTILINE)) - 2
        return Step(name, "pass", f"{rows} rows", done.seconds, done.output.splitlines())

    return step


def all_steps(*, emulated: bool) -> dict[str, Callable[[Check], Step]]:
    """In the order in which they run, the slow ones last."""
    return {
        "build": build,
        "ops": python_tests("ops", 120, OPS),
        "logits": python_tests("logits", 120, LOGITS),
        "recordings": recordings,
        "engine": python_tests("engine", 120, ENGINE if emulated else ENGINE + LONG_ENGINE),
        "interchange": python_tests("interchange", 60, INTERCHANGE),
        "kernels": benchmark("kernels", 120, "bench/kernels.py"),
        "first look": benchmark("first look", 180, "bench/first_look.py"),
        **{tool: sanitizer(tool) for tool in SANITIZERS},
    }


# --- the report ---


def show(step: Step) -> None:
    print(f"{step.outcome}  {step.name}: {step.figure} ({step.seconds:.0f} s)", flush=True)
    for line in [*step.notes, *step.output]:
        print(f"      {line}", flush=True)


def gpu_of_this_machine() -> dict[str, str]:
    """What nvidia-smi says of the first GPU, or nothing."""
    names = ("name", "driver_version", "memory.total", "compute_cap")
    if not shutil.which("nvidia-smi"):
        return {}
    done = run(["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"], 30)
    values = done.output.splitlines()[0].split(", ") if done.code == 0 and done.output.strip() else []
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


def architecture_of(gpu: dict[str, str]) -> str:
    """Of its kernels, as CMake names it: from compute capability 9 on with the instructions of that chip alone."""
    major, _, minor = gpu.get("compute_cap", "9.0").partition(".")
    return f"{major}{minor}{'a' if int(major) >= 9 else ''}-real"


def write(out: Path | None, check: Check, steps: list[Step], gpu: dict[str, str]) -> Path:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    target = out or ROOT / "build" / f"gpu-check-{today}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "date": str(today),
        "command": " ".join(["python", *sys.argv]),
        "emulated": check.emulated,
        "machine": {"gpu": "none: emulated on the CPU"} if check.emulated else gpu,
        "python": sys.version.split()[0],
        "passed": all(step.outcome == "pass" for step in steps),
        "steps": [asdict(step) for step in steps],
        "timings": check.report,
    }
    target.write_text(json.dumps(report, indent=1) + "\n")
    return target


def run_steps(check: Check, chosen: dict[str, Callable[[Check], Step]]) -> list[Step]:
    """A failed build ends it; so does the budget, by name."""
    steps: list[Step] = []
    for name, step in chosen.items():
        if check.left(BUDGET) <= 0:
            steps.append(Step(name, "FAIL", f"not run: {BUDGET} s are over"))
        else:
            steps.append(step(check))
        show(steps[-1])
        if name == "build" and steps[-1].outcome == "FAIL":
            break
    return steps


def verdict(steps: list[Step]) -> tuple[str, int]:
    """The last line and the exit code."""
    count = {outcome: sum(step.outcome == outcome for step in steps) for outcome in ("pass", "FAIL", "skip")}
    line = f"gpu-check: {count['pass']}/{len(steps)} steps passed, {count['skip']} skipped, {count['FAIL']} failed"
    return line, 1 if count["FAIL"] or not count["pass"] else 0


def main() -> int:
    """Runs the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--architectures", help="of the kernels; the GPU's own unless given")
    parser.add_argument("--only", nargs="+", metavar="STEP", default=[], help="these steps, and build")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--emulated", action="store_true")
    arguments = parser.parse_args()
    gpu = {} if arguments.emulated else gpu_of_this_machine()
    if not gpu and not arguments.emulated:
        print("gpu-check: skipped: no GPU (nvidia-smi names none); --emulated runs the same on the CPU")
        return 0
    known = all_steps(emulated=arguments.emulated)
    if unknown := set(arguments.only) - known.keys():
        parser.error(f"--only: expected steps of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    chosen = {name: step for name, step in known.items() if not arguments.only or name in {"build", *arguments.only}}
    check = Check(
        device=arguments.device,
        emulated=arguments.emulated,
        architectures=arguments.architectures or architecture_of(gpu),
        deadline=time.monotonic() + BUDGET * (EMULATED_SLOWNESS if arguments.emulated else 1),
    )
    steps = run_steps(check, chosen)
    print(f"report: {write(arguments.out, check, steps, gpu)}")
    line, code = verdict(steps)
    print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
