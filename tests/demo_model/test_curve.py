"""The pictures of the curve in docs are what the committed measurements draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pydllm.evaluate import curve
from pydllm.evaluate.run import Row, Score

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "bench" / "results" / "demo-curve.json"


def rows() -> list[Row]:
    def row(entry: dict[str, Any]) -> Row:
        families = {name: Score(score["right"], score["count"]) for name, score in entry["families"].items()}
        numbers = {name: entry[name] for name in ("setting", "batch", "tokens", "forward_passes", "seconds")}
        return Row(families=families, **numbers)

    return [row(entry) for entry in json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]]


@pytest.mark.parametrize(
    ("picture", "family", "title"),
    [
        ("demo-curve.svg", None, "demo: accuracy against speed"),
        ("demo-curve-double.svg", "double", "demo, double: accuracy against speed"),
    ],
)
def test_a_picture_is_drawn_from_the_measurements(picture: str, family: str | None, title: str) -> None:
    drawn = curve.svg(curve.groups_of(rows(), family), title=title)
    assert (ROOT / "docs" / "pictures" / picture).read_text(encoding="utf-8") == drawn
