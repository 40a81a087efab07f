"""One module a claim. ``python -m benchmarks.NAME`` prints a table; ``--json`` ends it with one JSON object.

The object stands on the last line:
``{"benchmark": ..., "machine": {...}, "results": {...}, "goals": {name: {"value": v, "goal": g, "met": true}}}``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

__all__ = ["Goal", "machine", "report", "table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A measured value beside the target that the project set itself: to reach, or (``at_most``) not to exceed."""

    value: float
    goal: float
    at_most: bool = field(default=False, kw_only=True)

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return bool(self.value <= self.goal if self.at_most else self.value >= self.goal)


def report(name: str, results: Mapping[str, Any], goals: Mapping[str, Goal], *, as_json: bool) -> bool:
    """Print the goals as a table and, with ``as_json``, everything as the last line. True when all are met."""
    print()
    table(
        ("goal", "value", "target", ""), [(n, g.value, g.goal, "met" if g.met else "MISSED") for n, g in goals.items()]
    )
    if as_json:
        document = {
            "benchmark": name,
            "machine": machine(),
            "results": results,
            "goals": {n: {"value": g.value, "goal": g.goal, "met": g.met} for n, g in goals.items()},
        }
        print(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY).decode(), flush=True)
    return all(goal.met for goal in goals.values())


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned columns: text to the left, numbers to the right."""
    cells = [tuple(map(str, head)), *(tuple(map(_shown, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    for line in cells:
        print("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip())


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, memory, system, Python."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
