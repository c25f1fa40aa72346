"""What the acceptance programs share: lines of claim and figure, the checks behind them, and the runner.

A line is one command that was run now. Its figure is what the command printed: numbers that tests record as the
property "figure", or the lines of a program that match a pattern.
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
Outcome = tuple[bool | None, str]
"""(kept, figure); None: this machine cannot show it, which is no pass and no failure."""


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


def run(lines: Sequence[Line], description: str | None, *prepare: str) -> int:
    """Prints every line asked for on the command line; the exit code. `prepare`: make targets that they need."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", help="only these lines")
    parser.add_argument("--short", action="store_true", help="without what CI runs as steps of its own")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {line.name for line in lines}
    if unknown:
        parser.error(f"no such line: {', '.join(sorted(unknown))}; known: {', '.join(line.name for line in lines)}")
    chosen = [
        line
        for line in lines
        if line.name in arguments.names or (not arguments.names and (line.in_short or not arguments.short))
    ]
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    if prepare:
        code, output = execute(["make", "--no-print-directory", *prepare])
        if code:
            print(output[-3000:])
            return 1
    outcomes = [_shown(line) for line in chosen]
    skipped = outcomes.count(None)
    print(f"{outcomes.count(True)}/{len(chosen)} lines pass" + (f", {skipped} skipped" if skipped else ""))
    return 1 if False in outcomes else 0


def _shown(line: Line) -> bool | None:
    start = time.monotonic()
    kept, figure = line.check()
    verdict, seconds = "skip" if kept is None else "pass" if kept else "FAIL", time.monotonic() - start
    print(f"{verdict}  {line.name}: {line.claim}\n      {figure} ({seconds:.0f} s)", flush=True)
    return kept
