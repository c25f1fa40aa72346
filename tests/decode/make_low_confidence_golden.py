"""Converts tests/golden/runs/logic_sgl_lowconfidence into the text that the C++ golden test reads.

Run `python tests/decode/make_low_confidence_golden.py` after the recording changed; tests/decode/test_logic_golden.py
fails while the committed text is not what this script makes.

The logits become what the algorithm sees of them, computed here in float64: the arg-max id (lowest on ties) and its
probability. Format: a header line `traces mask_id`, then per trace a line `id block prompt_length threshold steps`,
per step four lines (ids before it, done 0/1, arg-max ids, probabilities as the bits of a float32 in hexadecimal) and
a line of the ids after the last step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TESTS = Path(__file__).resolve().parent.parent
SOURCE = TESTS / "golden" / "runs" / "logic_sgl_lowconfidence"
TARGET = TESTS / "core" / "golden_logic" / "low_confidence.txt"


def joined(values: npt.NDArray[Any]) -> str:
    return " ".join(str(int(value)) for value in values)


def step_lines(logits: npt.NDArray[np.float32], ids: npt.NDArray[np.int16], done: np.bool_) -> list[str]:
    """One step over a block: logits [block, vocab], ids [block] before it."""
    wide = logits.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    confidences = (weights.max(axis=1) / weights.sum(axis=1)).astype(np.float32)
    bits = " ".join(f"{value:08x}" for value in confidences.view(np.uint32).tolist())
    return [joined(ids), str(int(done)), joined(logits.argmax(axis=1)), bits]


def trace_lines(trace: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> list[str]:
    logits, ids, done = (arrays[f"t{trace['id']}_{name}"] for name in ("logits", "ids", "done"))
    head = (trace["id"], trace["block_size"], trace["prompt_len"], trace["config"]["threshold"], len(logits))
    lines = [" ".join(str(value) for value in head)]
    for step in range(len(logits)):
        lines += step_lines(logits[step], ids[step], done[step])
    return [*lines, joined(ids[-1])]


def render(source: Path = SOURCE) -> str:
    """The whole text of one recorded case directory (case.json, data.npz)."""
    case = json.loads((source / "case.json").read_text())
    with np.load(source / "data.npz") as data:
        arrays = {name: data[name] for name in data.files}
    lines = [f"{len(case['traces'])} {case['mask_id']}"]
    for trace in case["traces"]:
        lines += trace_lines(trace, arrays)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
    print(f"{TARGET.relative_to(TESTS.parent)}: {TARGET.stat().st_size} bytes")
