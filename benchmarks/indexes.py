"""The kinds of index of the embedded store side by side: what each costs in memory and time, and what recall it reaches.

200,000 x 384 ``clustered`` unit vectors (see ``_vectors``), k = 10, single queries with payload through the public API on
one core, at the cheapest effort that reaches a recall of .95 and of .99. Memory is of a process that opened the store and
answered; of it, about 30 bytes a vector are ids and row numbers, whatever the kind. Trees are for few dimensions: they are
measured on 8 of them, beside an exact scan. There are no goals: this is what docs/embedded.md advises by.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report, table
from benchmarks._peers import K
from benchmarks._stores import GOALS, best, measured, prepared
from benchmarks._vectors import clustered

ROWS, QUICK_ROWS, DIM, FEW = 200_000, 10_000, 384, 8
KINDS = ("flat", "ivf-pq", "opq", "rabitq", "ivf", "pq", "hnsw", "lsh")
OF_FEW = ("flat", "kdtree", "balltree", "ivf-pq")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.indexes", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--rows", type=int, help=f"vectors (default: {ROWS:,})")
    options = parser.parse_args()
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    queries, seconds = (100, 0.05) if options.quick else (1_000, 1.0)
    many = _found(KINDS, rows, DIM, queries, seconds)
    few = _found(OF_FEW, rows, FEW, queries, seconds)
    results = {"rows": rows, "k": K, f"{DIM} dimensions": many, f"{FEW} dimensions": few}
    return 0 if report("indexes", results, {}, as_json=options.json) else 1


def _found(kinds: Sequence[str], rows: int, dim: int, queries: int, seconds: float) -> dict[str, dict[str, Any]]:
    print(f"\n{rows:,} x {dim}", flush=True)
    vectors, asked = clustered(rows, dim=dim, intrinsic=min(24, dim), queries=queries)
    with tempfile.TemporaryDirectory(prefix="pixdex-", ignore_cleanup_errors=True) as folder:
        corpus = prepared(Path(folder), vectors, asked, {})
        del vectors
        found = measured([f"pq:{kind}" for kind in kinds], corpus, seconds=seconds, cases=())
    found = {name.partition(":")[2]: each for name, each in found.items()}
    head = ("index", "resident B", "build s", "CPU s", "at .95", "", "at .99", "")
    table(head, [(kind, *_row(each)) for kind, each in found.items() if "left_out" not in each])
    return found


def _row(found: Mapping[str, Any]) -> tuple[Any, ...]:
    row: list[Any] = [found["resident_per_vector"], found["build_s"], found["build_cpu_s"]]
    for goal in GOALS:
        reached = best(found, "single", goal)
        row += [round(reached["qps"]), f"({reached['knobs']}: {reached['recall']:.3f})"] if reached else ["-", ""]
    return tuple(row)


if __name__ == "__main__":
    sys.exit(main())
