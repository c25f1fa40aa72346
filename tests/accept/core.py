"""`make accept-core`: every promise of the CPU core, one line each with its figure, pass or fail.

A line is one command that was run now. Its figure is what the command printed: numbers that tests record as the
property "figure", or the lines of a program that match a pattern. `--short` leaves out what CI runs as steps of its own
(sanitizers, the instruction sets, the fresh clone); naming lines runs only those.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
Outcome = tuple[bool, str]


@dataclass(frozen=True)
class Line:
    """One promise: what is claimed, and the check that returns (kept, figure)."""

    name: str
    claim: str
    check: Callable[[], Outcome]
    in_short: bool = True


def execute(command: Sequence[str], timeout: float = 1800) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"


def figures(report: Path) -> Iterator[str]:
    for node in ElementTree.parse(report).iter("property"):
        if node.get("name") == "figure":
            yield str(node.get("value"))


def tests(*nodes: str) -> Callable[[], Outcome]:
    """Runs pytest nodes; the figure is what they recorded, and how many ran."""

    def check() -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--junitxml={report}",
                *nodes,
            ]
            code, output = execute(command)
            found = list(figures(report)) if report.exists() else []
        return code == 0, "; ".join([*found, re.sub(r"=+", "", last_line(output)).strip()])

    return check


def cpp(pattern: str, build: str = "cpp", show: str = "") -> Callable[[], Outcome]:
    """Runs GoogleTests; the figure is their count, and printed lines that match `show`."""

    def check() -> Outcome:
        code, output = execute([f"build/{build}/pydllm_tests", f"--gtest_filter={pattern}"])
        ran = re.search(r"\[==========\] (\d+) tests? from .* ran", output)
        printed = [line.strip() for line in output.splitlines() if show and re.search(show, line)]
        return code == 0 and ran is not None and ran[1] != "0", "; ".join(
            [*printed, f"{ran[1] if ran else 0} C++ tests"]
        )

    return check


def make(*targets: str, show: str) -> Callable[[], Outcome]:
    """Runs make targets; the figure is the printed lines that match `show`."""

    def check() -> Outcome:
        code, output = execute(["make", "--no-print-directory", *targets])
        return code == 0, "; ".join(re.findall(show, output, re.MULTILINE)) or last_line(output)

    return check


def program(*command: str, show: str, timeout: float = 1800) -> Callable[[], Outcome]:
    """Runs a program; the figure is the printed lines that match `show`."""

    def check() -> Outcome:
        code, output = execute(command, timeout)
        return code == 0, "; ".join(re.findall(show, output, re.MULTILINE)) or last_line(output)

    return check


PYTHON = sys.executable
LINES = [
    Line("golden", "golden trajectories token for token in fp32, alone, batched, repeated; first logits within 2e-3",
         tests("tests/engine/test_golden.py")),
    Line("transfer-index", "logic_transfer_index: 45 rows exact, 60/60 entropy choices exact, tie rows by count",
         cpp("*TransferIndex*", show=r"\d+/\d+")),
    Line("chat-template", "text_chat_template 18/18", tests("tests/text/test_text_chat_template.py", "-k", "recorded")),
    Line("bit-identity", "bit-identical alone, with 15 random neighbours and after a restart, greedy and seeded",
         tests("tests/engine/test_bit_identity.py")),
    Line("sampling", "sampled frequencies match the filtered softmax (chi-square, fixed seed)",
         cpp("Sampling.Frequencies*", show="chi-square")),
    Line("streams", "64 gRPC streams, random cancels and deadlines: one terminal status each, all pages free",
         tests("tests/server/test_concurrency.py")),
    Line("hostile", "bad checkpoints and bad requests are refused in one line; nothing crashes",
         tests("tests/models/test_safetensors_hostile.py", "tests/models/test_checkpoint.py",
               "tests/server/test_bad_checkpoints.py", "tests/text/test_text_hostile_templates.py",
               "tests/server/test_statuses.py", "tests/engine/test_params.py")),
    Line("sums", "all 10,000 sums 0..99 right through the batched engine at confidence threshold 0.9",
         program(PYTHON, "tests/accept/sums.py", show=r"^sums: (.*)$")),
    Line("clients", "a Python and a TypeScript gRPC client (from the .proto alone) stream an answer",
         tests("tests/clients", "-m", "clients or not clients")),
    Line("linear", "linear beside torch and oneDNN, at least 90 % of oneDNN at M >= 32",
         program(PYTHON, "bench/linear.py", "--quick", show=r"^.*(?:oneDNN|target).*$")),
    Line("qemu", "dispatch under an emulated CPU of each kind", make("qemu", show=r"^.*(?:pass|fail).*$"), False),
    Line("asan", "core tests clean under AddressSanitizer and UndefinedBehaviorSanitizer",
         make("asan", show=r"^\[==========\].* ran.*$|^\[  PASSED  \].*$"), False),
    Line("tsan", "core tests clean under ThreadSanitizer",
         make("tsan", show=r"^\[==========\].* ran.*$|^\[  PASSED  \].*$"), False),
    Line("fresh-clone", "fresh clone: make serve listens in under five minutes, generate prints 42, make test green",
         program(PYTHON, "tests/accept/fresh_clone.py", show=r"^fresh clone: (.*)$", timeout=3600), False),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these lines")
    parser.add_argument("--short", action="store_true", help="without what CI runs as steps of its own")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {line.name for line in LINES}
    if unknown:
        parser.error(f"no such line: {', '.join(sorted(unknown))}; known: {', '.join(line.name for line in LINES)}")
    chosen = [
        line
        for line in LINES
        if line.name in arguments.names or (not arguments.names and (line.in_short or not arguments.short))
    ]
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    code, output = execute(["make", "--no-print-directory", "test-cpp"])
    if code:
        print(output[-3000:])
        return 1
    failed = 0
    for line in chosen:
        start = time.monotonic()
        kept, figure = line.check()
        failed += not kept
        verdict, seconds = "pass" if kept else "FAIL", time.monotonic() - start
        print(f"{verdict}  {line.name}: {line.claim}\n      {figure} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen) - failed}/{len(chosen)} lines pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
