"""Converts tests/golden/runs/logic_transfer_index into the text that the C++ golden test reads.

Run `python tests/decode/make_logic_golden.py` after the recording changed; tests/decode/test_logic_golden.py
fails while the committed text is not what this script makes.

Format: a header line `rows vocab mask_id`, then per row a line
`id threshold k entropy_threshold ties positions`, six lines of one value per position (ids x, masked 0/1,
chosen by threshold 0/1, predicted ids, chosen by k 0/1, chosen by entropy 0/1) and one line of logits per
position: vocab float32 values, eight hexadecimal digits each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TESTS = Path(__file__).resolve().parent.parent
SOURCE = TESTS / "golden" / "runs" / "logic_transfer_index"
TARGET = TESTS / "core" / "golden_logic" / "transfer_index.txt"
PER_POSITION = ("x", "mask", "thr_sel", "thr_x0", "k_sel", "ent_sel")


def hex_row(logits: npt.NDArray[np.float32]) -> str:
    """The bits of one row of float32 logits, most significant digit first, without separators."""
    return "".join(f"{bits:08x}" for bits in logits.view(np.uint32).tolist())


def row_lines(row: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> list[str]:
    """One table row: its parameters, its per-position columns, its logits ([1, positions, vocab] float32)."""
    column = {name: arrays[f"r{row['id']}_{name}"][0] for name in (*PER_POSITION, "logits")}
    logits = column["logits"]
    if logits.dtype != np.float32:
        raise TypeError(f"row {row['id']}: logits: expected float32, got {logits.dtype}")
    head = (row["id"], row["threshold"], row["k"], row["entropy_threshold"], int(row["ties"]), len(logits))
    lines = [" ".join(str(value) for value in head)]
    lines += [" ".join(str(int(value)) for value in column[name]) for name in PER_POSITION]
    return lines + [hex_row(position) for position in logits]


def render(source: Path = SOURCE) -> str:
    """The whole text of one recorded case directory (case.json, data.npz)."""
    case = json.loads((source / "case.json").read_text())
    with np.load(source / "data.npz") as data:
        arrays = {name: data[name] for name in data.files}
    lines = [f"{len(case['rows'])} {case['vocab']} {case['mask_id']}"]
    for row in case["rows"]:
        lines += row_lines(row, arrays)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(render())
    print(f"{TARGET.relative_to(TESTS.parent)}: {TARGET.stat().st_size} bytes")
