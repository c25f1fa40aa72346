"""Writes the model card of an exported model from what `pydllm eval --json` measured on it:

python examples/demo_model/card.py pydllm/demo_model REPORT.json
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from string import Template
from typing import Any

from safetensors import safe_open
from tasks import LESSONS, MEMORISED, SIBLING_LESSON

_LESSONS = ", ".join(f"{lesson.steps:,}" for lesson in LESSONS)
_KINDS = {
    "LLaDAModelLM": {
        "title": "The demo model",
        "name": "demo",
        "summary": "A masked-diffusion language model trained from nothing on generated problems; what `pydllm` serves "
        "when no model is named.",
        "architecture": "The LLaDA layout (`LLaDAModelLM`): bidirectional attention,",
        "training": f"Lessons of {_LESSONS} steps on two CPU cores, about 75 answers per step, with Muon and Adam.",
    },
    "SDARForCausalLM": {
        "title": "The demo model's block-causal sibling",
        "name": "demo-block",
        "summary": "The demo model, continued with block-causal attention over blocks of 8, 16 and 32 tokens.",
        "architecture": "The SDAR layout (`SDARForCausalLM`, Qwen3's names, normalised queries and keys): attention "
        "sees the own and earlier blocks,",
        "training": f"Started from the demo model's weights, {SIBLING_LESSON.steps:,} steps on two CPU cores.",
    },
}


def table(row: dict[str, Any]) -> str:
    """Family, problems and accuracy with its standard error."""
    lines = ["| family | problems | accuracy | ± s.e. |", "|---|---|---|---|"]
    for family, score in row["families"].items():
        share = score["right"] / score["count"]
        error = math.sqrt(share * (1 - share) / score["count"])
        note = " (learned by heart)" if family in MEMORISED else ""
        lines.append(f"| {family}{note} | {score['count']} | {share:.3f} | {error:.3f} |")
    return "\n".join(lines)


def parameters(folder: Path) -> int:
    """Numbers in model.safetensors."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def card(folder: Path, report: dict[str, Any]) -> str:
    """The text; the first row of the report is the one that is shown."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    row = report["rows"][0]
    words = row["setting"].split()
    kind = _KINDS[config["architectures"][0]]
    return Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(
        **kind,
        vocabulary=config["vocab_size"],
        parameters=f"{parameters(folder):,}",
        setting=f"`{row['setting']}`, {row['tokens_per_forward']:.2f} tokens per forward pass",
        max_tokens=report["max_tokens"],
        command=f'`pydllm eval {kind["name"]} --setting "{" ".join(words)}" --max-tokens {report["max_tokens"]}`',
        table=table(row),
    )


def main() -> int:
    folder, report = Path(sys.argv[1]), Path(sys.argv[2])
    text = card(folder, json.loads(report.read_text(encoding="utf-8")))
    (folder / "README.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
