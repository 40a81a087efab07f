"""What the embedded store costs as it grows: 10,000, 100,000 and 1,000,000 ``clustered`` vectors of 384 dimensions.

k = 10, single queries with payload through the public API on one core, at the cheapest effort that reaches a recall of
.95 and of .99; faiss alone beside it (row and score; see ``store`` for how things are measured). Memory is of a process
that opened the store and answered; the peak of building counts mapped pages of the vectors too. Building may use every
core and takes in writing the records. ``--plot FILE`` draws the curves as SVG.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import Goal, report, table
from benchmarks._peers import K
from benchmarks._plot import Panel, draw
from benchmarks._stores import GOALS, best, measured, prepared
from benchmarks._vectors import clustered

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (1_000, 10_000)
ENGINES = ("pq", "faiss")

Found = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""By number of vectors, then engine."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--rows", type=int, nargs="+", help="how many vectors, one number after another")
    parser.add_argument("--plot", type=Path, help="an SVG file to draw the curves into")
    options = parser.parse_args()
    sizes, found = options.rows or (QUICK_SIZES if options.quick else SIZES), {}
    for rows in sizes:
        print(f"\n{rows:,} x 384", flush=True)
        vectors, queries = clustered(rows, queries=200 if options.quick else 1000)
        with tempfile.TemporaryDirectory(prefix="pixdex-") as folder:
            corpus = prepared(Path(folder), vectors, queries, cases={})
            del vectors
            found[rows] = measured(ENGINES, corpus, seconds=0.1 if options.quick else 1.0, cases=())
    _show(found)
    if options.plot:
        draw(options.plot, _panels(found))
    reached = [rows for rows, engines in found.items() if best(engines["pq"], "single", max(GOALS))]
    goals = {"largest rows at .99": Goal(max(reached, default=0), max(sizes))}
    results = {"k": K, "sizes": {str(rows): engines for rows, engines in found.items()}}
    met = report("scale", results, goals, as_json=options.json)
    return 0 if met and len(reached) == len(found) else 1


def _show(found: Found) -> None:
    columns = ("resident_per_vector", "disk_per_vector", "build_s", "build_peak_mib", "open_s")
    rows = [
        (f"{size:,}", name, *(_qps(each, goal) or "-" for goal in GOALS), *(each[column] for column in columns))
        for size, engines in found.items()
        for name, each in engines.items()
        if "left_out" not in each
    ]
    print()
    head = ("vectors", "engine", "/s at .95", "/s at .99", "resident B", "disk B", "build s", "peak MiB", "open s")
    table(head, rows)


def _panels(found: Found) -> list[Panel]:
    def lines(
        names: Sequence[str], value: Callable[[Mapping[str, Any]], float]
    ) -> dict[str, list[tuple[float, float]]]:
        points = {name: [(float(size), value(found[size].get(name, {}))) for size in found] for name in names}
        return {
            {"pq": "pixdex", "faiss": "faiss alone"}[name]: [(x, y) for x, y in line if y > 0]
            for name, line in points.items()
        }

    return [
        Panel("Queries a second at a recall of .95", lines(ENGINES, lambda e: _qps(e, 0.95))),
        Panel("Queries a second at a recall of .99", lines(ENGINES, lambda e: _qps(e, 0.99))),
        Panel("Memory in bytes a vector", lines(ENGINES, lambda e: e.get("resident_per_vector", 0))),
        Panel("Bulk load and index, seconds", lines(["pq"], lambda e: e.get("build_s", 0))),
        Panel("Open to first answer, milliseconds", lines(["pq"], lambda e: 1e3 * e.get("open_s", 0))),
        Panel("Disk in bytes a vector", lines(["pq"], lambda e: e.get("disk_per_vector", 0))),
    ]


def _qps(engine: Mapping[str, Any], goal: float) -> float:
    return float(best(engine, "single", goal).get("qps", 0.0))


if __name__ == "__main__":
    sys.exit(main())
