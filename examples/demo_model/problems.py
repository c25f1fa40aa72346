"""Writes the held-out problems that `pydllm eval` asks: python examples/demo_model/problems.py [--check]"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import ASKED, held_out_set

if TYPE_CHECKING:
    from tasks import Problem

TARGET = Path(__file__).resolve().parents[2] / "pydllm/evaluate/demo_suite.jsonl"
PER_FAMILY = 200


def entry(problem: Problem) -> dict[str, Any]:
    """The problem as pydllm.evaluate.suite reads it."""
    asked = {"family": problem.family, "prompt": problem.prompt}
    if problem.family == "double":
        return {**asked, "double": [int(end) for end in problem.key.split("-")]}
    return {**asked, "answers": sorted({problem.answer, *problem.also_right})}


def text() -> str:
    """The whole file."""
    problems = [problem for family in ASKED for problem in held_out_set(family, PER_FAMILY)]
    return "".join(json.dumps(entry(problem), ensure_ascii=False) + "\n" for problem in problems)


def main() -> int:
    if sys.argv[1:] != ["--check"]:
        TARGET.write_text(text(), encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") != text():
        print(f"{TARGET.name} is not what problems.py writes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
