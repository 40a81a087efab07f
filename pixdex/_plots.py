"""Plots as inline SVG: a curve over ranks, bars, a distribution, a reliability diagram. They need no script and no file, and follow the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["STYLE", "Bar", "Line", "bars", "curves", "distribution", "reliability"]

STYLE = """
svg { display: block; max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: currentColor; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .soft { fill: var(--soft); }
svg .s0 { stroke: #3b82f6; fill: none; stroke-width: 2; } svg .s1 { stroke: #f59e0b; fill: none; stroke-width: 2; }
svg .s2 { stroke: #10b981; fill: none; stroke-width: 2; }
svg .ideal { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4; } svg circle { fill-opacity: .7; }
svg .f0 { fill: #3b82f6; } svg .f1 { fill: #f59e0b; } svg .f2 { fill: #10b981; }
"""
"""Rules that the page of a plot needs."""

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 34
_LABEL, _ROW = 180, 18
_COLOURS = 3
_SHORT, _NAME = 26, 38
"""Characters of a label and of the name of a series that there is room for."""


@dataclass(frozen=True, slots=True)
class Line:
    """Values in [0, 1] at 1, 2, 3 ..."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A label with a value in [0, 1] of each series."""

    label: str
    values: Sequence[float]


def curves(lines: Sequence[Line], *, title: str) -> str:
    """Lines over k, which grows by powers, from the lowest value to 1."""
    longest = max((len(line.values) for line in lines), default=1)
    lowest = min((min(line.values, default=1.0) for line in lines), default=0.0)
    floor = min(0.9, math.floor(lowest * 10) / 10)
    parts = [_steps(floor)]
    for k in _ticks(longest):
        x = _x(k, longest)
        parts.append(f'<text class="soft" x="{x:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{k}</text>')
    parts.append(f'<text class="soft" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 1}" text-anchor="end">k</text>')
    for number, line in enumerate(lines):
        points = " ".join(f"{_x(k, longest):.1f},{_y(value, floor):.1f}" for k, value in enumerate(line.values, 1))
        if len(line.values) == 1:  # a line of one point cannot be seen
            points += f" {_x(1, longest) + 6:.1f},{_y(line.values[0], floor):.1f}"
        parts.append(f'<polyline class="s{number % _COLOURS}" points="{points}"/>')
        parts.append(_key(number, line.name, below=len(lines) - 1 - number))
    return _svg(_HEIGHT, title, parts)


def bars(rows: Sequence[Bar], *, names: Sequence[str], title: str) -> str:
    """A bar for each series of each label, from 0 to 1."""
    thick = _ROW * max(1, len(names)) - 6
    top = 4 + (_ROW if len(names) > 1 else 0)
    span = _WIDTH - _LABEL - 60
    parts = [_key(number, name) for number, name in enumerate(names)] if len(names) > 1 else []
    for row, bar in enumerate(rows):
        y = top + row * (thick + 6)
        middle = y + thick / 2 + 4
        parts.append(
            f'<text x="{_LABEL - 8}" y="{middle:.1f}" text-anchor="end">{escape(_short(bar.label))}'
            f"<title>{escape(bar.label)}</title></text>"
        )
        high = thick / max(1, len(bar.values))
        for number, value in enumerate(bar.values):
            at = y + number * high
            parts.append(
                f'<rect class="f{number % _COLOURS}" x="{_LABEL}" y="{at:.1f}" width="{max(0.5, span * value):.1f}" '
                f'height="{high - 1:.1f}" rx="2"/>'
                f'<text class="soft" x="{_LABEL + span * value + 6:.1f}" y="{at + high / 2 + 4:.1f}">{value:.3f}</text>'
            )
    return _svg(top + len(rows) * (thick + 6) + 4, title, parts)


def reliability(series: Sequence[tuple[str, Sequence[tuple[float, float, int]]]], *, title: str) -> str:
    """Points of what is said (across) and what is true (up) in [0, 1], by name, over the line where both are the same. A point
    of so many pairs grows with the root of their number.
    """
    side = _HEIGHT + 40
    span = side - _TOP - _BOTTOM
    most = max((count for _, points in series for _, _, count in points), default=1)
    floor, right = side - _BOTTOM, _LEFT + span
    parts = []
    for step in range(6):
        x, y = _LEFT + span * step / 5, floor - span * step / 5
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{step / 5:.1f}</text>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{step / 5:.1f}</text>')
    parts.append(f'<line class="ideal" x1="{_LEFT}" y1="{floor}" x2="{right}" y2="{_TOP}"/>')
    parts.append(f'<text class="soft" x="{right + 28}" y="{floor + 18}">said (across), true (up)</text>')
    for number, (name, points) in enumerate(series):
        for said, true, count in points:
            x, y = _LEFT + span * said, floor - span * true
            size = 2.5 + 7 * math.sqrt(count / most)
            parts.append(
                f'<circle class="f{number % _COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}">'
                f"<title>said {said:.3f}, true {true:.3f}, {count} pairs</title></circle>"
            )
        y = floor - 12 - 18 * (len(series) - 1 - number)
        parts.append(
            f'<rect class="f{number % _COLOURS}" x="{right + 12}" y="{y - 9}" width="10" height="10" rx="2"/>'
            f'<text x="{right + 28}" y="{y}">{escape(name)}</text>'
        )
    return _svg(side, title, parts)


def distribution(series: Sequence[Line], *, title: str, bins: int = 20, root: bool = False) -> str:
    """How many values of each series lie in each part of [0, 1]; with ``root`` bars are as high as the root of that, so that few
    are seen beside many.
    """
    counts = [_histogram(line.values, bins) for line in series]
    highest = max((max(each, default=0) for each in counts), default=0) or 1
    top = _TOP + (_ROW if len(series) > 1 else 0)
    span, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - top - _BOTTOM
    wide = span / bins
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
    ]
    for part in range(0, bins + 1, max(1, bins // 5)):
        x = _LEFT + part * wide
        parts.append(f'<text class="soft" x="{x:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{part / bins:.1f}</text>')
    parts.append(f'<text class="soft" x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{highest}</text>')
    each = (wide - 2) / max(1, len(series))
    for number, (line, of_line) in enumerate(zip(series, counts, strict=True)):
        for part, count in enumerate(of_line):
            share = count / highest
            high = tall * (math.sqrt(share) if root else share)
            parts.append(
                f'<rect class="f{number % _COLOURS}" x="{_LEFT + part * wide + 1 + number * each:.1f}" '
                f'y="{_HEIGHT - _BOTTOM - high:.1f}" width="{each:.1f}" height="{high:.1f}"/>'
            )
        if len(series) > 1:
            parts.append(_key(number, line.name))
    return _svg(_HEIGHT, title, parts)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}</svg>\n"
    )


def _steps(floor: float) -> str:
    """Lines across at even values, named on the left."""
    parts = []
    count = 5
    for step in range(count + 1):
        value = floor + (1 - floor) * step / count
        y = _y(value, floor)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    return "".join(parts)


def _ticks(longest: int) -> list[int]:
    """1, 2, 5, 10, 20 ... and the end."""
    marks = [mark * 10**power for power in range(len(str(longest))) for mark in (1, 2, 5)]
    return [mark for mark in marks if mark <= longest * 0.8] + ([longest] if longest > 1 else [])


def _x(k: int, longest: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log(k) / math.log(longest) if longest > 1 else 0.0)


def _y(value: float, floor: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - floor) / (1 - floor))


def _key(number: int, name: str, *, below: int | None = None) -> str:
    """The name of a series beside its colour: low on the right, where curves leave room, that many from below; or on top."""
    x, y = (_LABEL + 260 * number, 12) if below is None else (_WIDTH - 280, _HEIGHT - _BOTTOM - 12 - 18 * below)
    shown = name if len(name) <= _NAME else f"\N{HORIZONTAL ELLIPSIS}{name[1 - _NAME :]}"  # addresses differ at the end
    return (
        f'<rect class="f{number % _COLOURS}" x="{x}" y="{y - 9}" width="10" height="10" rx="2"/>'
        f'<text x="{x + 16}" y="{y}">{escape(shown)}</text>'
    )


def _histogram(values: Sequence[float], bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value * bins)))] += 1
    return counts


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}\N{HORIZONTAL ELLIPSIS}"
