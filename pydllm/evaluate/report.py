"""Rows as a table and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydllm.evaluate.run import Row


def markdown(rows: Sequence[Row]) -> str:
    """The table people publish: accuracy with its standard error, TPF and TPS, then each family."""
    families = list(rows[0].families)
    head = ["setting", "batch", "accuracy", "± s.e.", "tokens/forward", "tokens/s", *families]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        numbers = [f"{row.accuracy:.3f}", f"{row.standard_error:.3f}", f"{row.tokens_per_forward:.2f}"]
        each = [f"{row.families[family].accuracy:.2f}" for family in families]
        lines.append(_line([row.setting, str(row.batch), *numbers, f"{row.tokens_per_second:.0f}", *each]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(rows: Sequence[Row], *, about: dict[str, Any]) -> dict[str, Any]:
    """Everything the table was made from."""
    return {**about, "rows": [_entry(row) for row in rows]}


def _entry(row: Row) -> dict[str, Any]:
    return {
        "setting": row.setting,
        "batch": row.batch,
        "accuracy": round(row.accuracy, 4),
        "standard_error": round(row.standard_error, 4),
        "tokens_per_forward": round(row.tokens_per_forward, 3),
        "tokens_per_second": round(row.tokens_per_second, 1),
        "tokens": row.tokens,
        "forward_passes": row.forward_passes,
        "seconds": round(row.seconds, 3),
        "families": {
            family: {"right": score.right, "count": score.count, "standard_error": round(score.standard_error, 4)}
            for family, score in row.families.items()
        },
    }
