"""Small line charts as SVG, both axes logarithmic; what the README shows needs no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["Panel", "draw"]

WIDTH, HEIGHT, GAP = 300, 200, 24
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 36
COLOURS = ("#0b6bcb", "#d9480f", "#2b8a3e", "#862e9c")


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a title, and lines by name, each of ``(x, y)`` above zero."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def draw(path: Path, panels: Sequence[Panel], *, across: int = 2) -> None:
    """Write the panels as one picture, ``across`` in a row."""
    down = math.ceil(len(panels) / across)
    width, height = across * (WIDTH + GAP) + GAP, down * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        x, y = GAP + (number % across) * (WIDTH + GAP), GAP + (number // across) * (HEIGHT + GAP)
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    if not points:
        return []
    horizontal = _Axis.over([x for x, _ in points], LEFT, WIDTH - RIGHT)
    vertical = _Axis.over([y for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = [f'<text x="{LEFT}" y="14" font-weight="bold">{escape(panel.title)}</text>']
    for value in horizontal.ticks():
        x = horizontal.at(value)
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_short(value)}</text>')
    for value in vertical.ticks():
        y = vertical.at(value)
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{_short(value)}</text>')
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        drawn = [(horizontal.at(x), vertical.at(y)) for x, y in line]
        path = " ".join(f"{x},{y}" for x, y in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in drawn]
        at = LEFT + number * (WIDTH - LEFT - RIGHT) / len(panel.lines)
        parts.append(f'<text x="{at:.0f}" y="{HEIGHT - 3}" fill="{colour}">{escape(name)}</text>')
    return parts


@dataclass(frozen=True, slots=True)
class _Axis:
    """Powers of ten between two places in the picture."""

    low: int
    high: int
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        low = math.floor(math.log10(min(values)) + 1e-9)
        return cls(low, max(low + 1, math.ceil(math.log10(max(values)) - 1e-9)), start, end)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
