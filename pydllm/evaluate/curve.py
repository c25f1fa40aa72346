"""The accuracy-versus-speed curve as an SVG picture: a line per group of settings, bars of one standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydllm.evaluate.run import Row

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 46, 56
_COLOURS = ("#0b6e99", "#c4561b", "#3f7d20", "#7a3e9d", "#8a6d00", "#a3284c")


@dataclass(frozen=True)
class Point:
    """One setting. `error` is the standard error of `accuracy`."""

    label: str
    tokens_per_forward: float
    accuracy: float
    error: float


@dataclass(frozen=True)
class _Axes:
    most: float
    lowest: float

    def x(self, tokens_per_forward: float) -> float:
        """Logarithmic: each step to the right multiplies the speed."""
        low = math.log2(0.25)
        share = (math.log2(max(0.25, tokens_per_forward)) - low) / (math.log2(self.most) - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, accuracy: float) -> float:
        share = (accuracy - self.lowest) / (1 - self.lowest)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def groups_of(rows: Sequence[Row], family: str | None = None) -> dict[str, list[Point]]:
    """Rows by algorithm and block length (a fixed schedule by its algorithm); of one family, or of the mean."""
    groups: dict[str, list[Point]] = {}
    for row in rows:
        accuracy, error = row.accuracy, row.standard_error
        if family is not None:
            accuracy, error = row.families[family].accuracy, row.families[family].standard_error
        name = " ".join(word for word in row.setting.split() if "=" not in word or word.startswith("block_length"))
        label = " ".join(word.partition("=")[2] for word in row.setting.split() if "=" in word and "block" not in word)
        groups.setdefault(name, []).append(Point(label, row.tokens_per_forward, accuracy, error))
    return {name: sorted(points, key=lambda point: point.tokens_per_forward) for name, points in groups.items()}


def svg(groups: dict[str, list[Point]], *, title: str) -> str:
    """The picture; deterministic for equal points."""
    points = [point for group in groups.values() for point in group]
    lowest = max(0.0, math.floor((min(p.accuracy - p.error for p in points) - 0.02) * 10) / 10)
    axes = _Axes(2 ** math.ceil(math.log2(max(4.0, *(p.tokens_per_forward for p in points)))), min(lowest, 0.8))
    body = [*_frame(axes, title)]
    for at, (name, group) in enumerate(groups.items()):
        body += _line(axes, group, _COLOURS[at % len(_COLOURS)])
        body += _legend(at, name, _COLOURS[at % len(_COLOURS)])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return "\n".join([head, background, *body, "</svg>", ""])


def _frame(axes: _Axes, title: str) -> Iterable[str]:
    yield _text(WIDTH / 2, 24, title, size=16, anchor="middle")
    yield _text(WIDTH / 2, HEIGHT - 12, "tokens per forward pass (logarithmic)", anchor="middle")
    yield f'<g transform="translate(18 {HEIGHT / 2}) rotate(-90)">{_text(0, 0, "accuracy", anchor="middle")}</g>'
    for power in range(-2, round(math.log2(axes.most)) + 1):
        x = axes.x(2.0**power)
        yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#dddddd"/>'
        yield _text(x, HEIGHT - BOTTOM + 18, f"{2.0**power:g}", anchor="middle")
    for tenth in range(round(axes.lowest * 10), 11):
        y = axes.y(tenth / 10)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield _text(LEFT - 8, y + 4, f"{tenth / 10:.1f}", anchor="end")


def _line(axes: _Axes, points: Sequence[Point], colour: str) -> Iterable[str]:
    places = [(axes.x(point.tokens_per_forward), axes.y(max(axes.lowest, point.accuracy))) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for point, (x, y) in zip(points, places, strict=True):
        high, low = (
            axes.y(min(1.0, point.accuracy + point.error)),
            axes.y(max(axes.lowest, point.accuracy - point.error)),
        )
        yield f'<line x1="{x:.1f}" y1="{high:.1f}" x2="{x:.1f}" y2="{low:.1f}" stroke="{colour}"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(point.label)}</title></circle>'


def _legend(at: int, name: str, colour: str) -> Iterable[str]:
    y = HEIGHT - BOTTOM - 12 - 18 * at
    yield f'<rect x="{LEFT + 12}" y="{y - 9}" width="12" height="10" fill="{colour}"/>'
    yield _text(LEFT + 30, y, name, size=12)


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="#222222" text-anchor="{anchor}">{escape(text)}</text>'
    )
