"""Applies each committed patch to a copy of the tree and expects the test it names to turn red, two at a time.

A patch file begins with header lines: `test:` (a GoogleTest filter, or a pytest node id, for which the extension is not
built again: it notices changed Python only), `why:` and, where only some processors run the code, `needs:` (a flag of
/proc/cpuinfo; elsewhere the mutant is skipped). Usage: python tests/mutants/run.py [NAME ...]
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"
# Without a compiler cache a second tree takes longer to build than it saves.
WORKERS = min(2, len(os.sched_getaffinity(0))) if shutil.which("ccache") else 1

# Imports the mutated package instead of the installed one (an editable install hooks sys.meta_path).
RUN_PYTEST = (
    "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Redirect' not in type(f).__name__]; "
    "sys.path[:0] = ['.', 'proto/python', 'gateway']; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
)


@dataclass(frozen=True)
class Mutant:
    """One patch and the test that must notice it."""

    path: Path
    test: str
    why: str
    needs: str = ""

    @property
    def is_python(self) -> bool:
        return ".py" in self.test


def read(path: Path) -> Mutant:
    headers = dict(line.split(": ", 1) for line in path.read_text().split("\n---", 1)[0].splitlines() if ": " in line)
    return Mutant(path, headers["test"].strip(), headers["why"].strip(), headers.get("needs", "").strip())


def processor_flags() -> set[str]:
    """Empty where the kernel does not list them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


class Tree:
    """A copy of the working tree with a build of its own, as git sees it, plus the built extension."""

    def __init__(self, number: int) -> None:
        self.source = WORK / f"source-{number}"
        # As deep below its source as build/cpp below the tree: ccache then knows what has been compiled there.
        self.cpp = self.source / "build" / "cpp"
        self.binary = self.cpp / "pydllm_tests"

    def run(self, command: list[str], timeout: int = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.source, capture_output=True, text=True, timeout=timeout, check=False)

    def copy(self) -> None:
        """Unchanged files keep their times."""
        self.source.mkdir(parents=True, exist_ok=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        names = [name for name in listed if name and (ROOT / name).is_file()]
        there = [path for path in self.source.rglob("*") if path.is_file() and not path.is_relative_to(self.cpp)]
        for stale in {str(path.relative_to(self.source)) for path in there} - set(names):
            (self.source / stale).unlink()
        for name in names:
            target = self.source / name
            if target.exists() and target.read_bytes() == (ROOT / name).read_bytes():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        import pydllm._core

        shutil.copy(pydllm._core.__file__, self.source / "pydllm")

    def build(self) -> str:
        """ "" or the end of what failed."""
        configure = ["cmake", "-S", ".", "-B", str(self.cpp), "-G", "Ninja", "-DPYDLLM_TESTS=ON"]
        configure += ["-DPYDLLM_CUDA=EMULATED"]
        for command in (configure, ["cmake", "--build", str(self.cpp), "--target", "pydllm_tests"]):
            done = self.run(command)
            if done.returncode:
                return done.stdout[-2000:] + done.stderr[-2000:]
        return ""

    def prepare(self) -> None:
        self.copy()
        if failure := self.build():
            raise SystemExit(f"the unchanged tree does not build:\n{failure}")


def test_is_green(tree: Tree, mutant: Mutant) -> bool:
    if mutant.is_python:
        command = [
            sys.executable,
            "-c",
            RUN_PYTEST,
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *mutant.test.split(),
        ]
    else:
        command = [str(tree.binary), "--gtest_brief=1", f"--gtest_filter={mutant.test}"]
    try:
        done = tree.run(command, timeout=300)
    except subprocess.TimeoutExpired:
        return False
    if mutant.is_python and done.returncode not in (0, 1):
        raise SystemExit(f"{mutant.path.name}: pytest could not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if not mutant.is_python and "] 0 tests from" in done.stdout:
        raise SystemExit(f"{mutant.path.name}: no test matches {mutant.test}")
    return done.returncode == 0


def judge(tree: Tree, mutant: Mutant) -> str:
    """ "" when the mutant was noticed, else what went wrong."""
    patch = ["patch", "-p1", "--no-backup-if-mismatch", "-s"]
    applied = tree.run([*patch, "-i", str(mutant.path)])
    if applied.returncode:
        return f"the patch does not apply: {applied.stdout.strip().splitlines()[-1]}"
    try:
        failure = "" if mutant.is_python else tree.build()
        if failure:
            return f"does not build:\n{failure}"
        return "survived: the test stayed green" if test_is_green(tree, mutant) else ""
    finally:
        tree.run([*patch, "-R", "-i", str(mutant.path)]).check_returncode()


def failures(trees: list[Tree], mutants: list[Mutant], check: Callable[[Tree, Mutant], str]) -> list[str]:
    """What check says of the mutants, unless that is "". A thread for each tree."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)
    found: list[str] = []

    def work(tree: Tree) -> None:
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            problem = f"{mutant.path.name}: the check itself failed"
            try:
                problem = check(tree, mutant)
            except SystemExit as error:  # would end this thread without a word
                problem = str(error)
            finally:
                if problem:
                    found.append(problem)

    workers = [threading.Thread(target=work, args=(tree,)) for tree in trees]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def red_without(tree: Tree, mutant: Mutant) -> str:
    return "" if test_is_green(tree, mutant) else f"{mutant.path.name}: red without the mutant: {mutant.test}"


def report(tree: Tree, mutant: Mutant) -> str:
    start = time.monotonic()
    problem = judge(tree, mutant)
    print(f"{'FAIL' if problem else 'pass'}  {mutant.path.stem}: {mutant.why} [{mutant.test}] "
          f"{time.monotonic() - start:.0f} s\n", end="", flush=True)  # fmt: skip
    return f"{mutant.path.name}: {problem}" if problem else ""


def main() -> int:
    names = sys.argv[1:]
    mutants = [read(p) for p in sorted(Path(__file__).parent.glob("*.patch")) if not names or p.stem in names]
    flags = processor_flags()
    for mutant in [mutant for mutant in mutants if mutant.needs and mutant.needs not in flags]:
        print(f"skip  {mutant.path.stem}: this processor has no {mutant.needs}")
        mutants.remove(mutant)
    trees = [Tree(number) for number in range(min(WORKERS, len(mutants)))]
    for tree in trees:
        tree.prepare()
    if red := failures(trees, mutants, red_without):
        raise SystemExit("\n".join(red))
    failed = failures(trees, mutants, report)
    for problem in failed:
        print(problem)
    print(f"{len(mutants) - len(failed)}/{len(mutants)} mutants noticed")
    return 1 if failed or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
