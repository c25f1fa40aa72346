"""What `make gpu-check` concludes from its steps."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def steps(gpu_check: Any, *outcomes: str) -> list[Any]:
    return [gpu_check.Step(f"step {i}", outcome, "") for i, outcome in enumerate(outcomes)]


def test_a_skipped_step_has_not_passed(gpu_check: Any) -> None:
    line, code = gpu_check.verdict(steps(gpu_check, "pass", "skip", "skip"))
    assert (line, code) == ("gpu-check: 1/3 steps passed, 2 skipped, 0 failed", 0)


@pytest.mark.parametrize("outcomes", [("pass", "FAIL"), ("skip",), ()])
def test_a_failure_or_nothing_that_passed_is_an_exit_code(gpu_check: Any, outcomes: tuple[str, ...]) -> None:
    assert gpu_check.verdict(steps(gpu_check, *outcomes))[1] == 1


def test_steps_without_time_left_fail_by_name(gpu_check: Any) -> None:
    check = gpu_check.Check(device="cpu", emulated=True, architectures="", deadline=time.monotonic() - 1)
    [step] = gpu_check.run_steps(check, {"ops": lambda _: pytest.fail("was run")})
    assert (step.outcome, step.figure) == ("FAIL", "not run: 570 s are over")


def test_a_failed_build_ends_the_check(gpu_check: Any) -> None:
    check = gpu_check.Check(device="cpu", emulated=True, architectures="", deadline=time.monotonic() + 60)
    built = {"build": lambda _: gpu_check.Step("build", "FAIL", "no compiler"), "ops": lambda _: pytest.fail("was run")}
    assert [step.name for step in gpu_check.run_steps(check, built)] == ["build"]


def test_a_command_that_takes_too_long_ends_with_what_it_started(gpu_check: Any) -> None:
    script = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    done = gpu_check.run([sys.executable, "-c", script], 2)
    assert done.timed_out
    assert done.seconds < 30  # the grandchild held the pipe
    step = gpu_check.failed("ops", done, "")
    assert step.outcome == "FAIL"
    assert step.figure.endswith("its limit")
    assert step.output == ["begun"]


def test_errors_come_before_the_rest_of_the_output(gpu_check: Any) -> None:
    output = (
        "x\n" * 50 + "E   AssertionError: beyond the bound\nFAILED tests/ops/test_rows.py::test_swiglu\n" + "y\n" * 50
    )
    assert gpu_check.telling_lines(output) == [
        "E   AssertionError: beyond the bound",
        "FAILED tests/ops/test_rows.py::test_swiglu",
    ]
    assert gpu_check.telling_lines("one\n\ntwo\n") == ["one", "two"]


@pytest.mark.parametrize(
    ("capability", "expected"), [("8.0", "80-real"), ("8.9", "89-real"), ("9.0", "90a-real"), ("10.0", "100a-real")]
)
def test_kernels_are_built_for_the_gpu_that_is_here(gpu_check: Any, capability: str, expected: str) -> None:
    assert gpu_check.architecture_of({"compute_cap": capability}) == expected


def test_without_a_gpu_the_check_says_so_and_claims_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--out", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={"PATH": "/nowhere"})
    assert done.stdout.startswith("gpu-check: skipped: no GPU")
    assert not report.exists()


def test_the_report_of_an_emulated_run_names_no_gpu(gpu_check: Any, tmp_path: Path) -> None:
    check = gpu_check.Check(device="cuda:0", emulated=True, architectures="", deadline=0.0)
    target = gpu_check.write(tmp_path / "report.json", check, steps(gpu_check, "pass", "skip"), {"name": "NVIDIA H100"})
    report = json.loads(target.read_text())
    assert report["machine"] == {"gpu": "none: emulated on the CPU"}
    assert report["passed"] is False
    assert [step["outcome"] for step in report["steps"]] == ["pass", "skip"]
