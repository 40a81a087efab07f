"""Filters on the embedded store: complete and exact at every selectivity, and fast.

200,000 x 384 ``clustered`` unit vectors (see ``_vectors``), k = 10, single queries with payload through the public API on
one core, under ranges on an integer field that let 50 to .01 % of the records through, at random. ``correlated`` ranges
let through what is nearest to one record: a corner that most queries are far from, where approximate search has it
hardest; there are no targets for their recall and time.

One ``Tuning(effort)`` serves the whole table: the lowest at which recall reaches .99 at every selectivity, against exact
answers. The goals are for filters that were not asked before ("new filter"); what the last filters selected is remembered.
``short by`` is how many hits the shortest answer lacks of min(k, matches). p50 is by the wall clock.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import Goal, report, table
from benchmarks._peers import CORRELATED, SHARES, K
from benchmarks._stores import measured, prepared
from benchmarks._vectors import clustered

ROWS, QUICK_ROWS, QUERIES, QUICK_QUERIES = 200_000, 10_000, 1_000, 200
RECALL = 0.99
MOST_MS = {"10 %": 0.6, "1 %": 0.4}

Sweep = Mapping[str, Mapping[float, Mapping[str, Any]]]
"""By filter, then effort: recall, hits missing, times."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filtered", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--rows", type=int, help=f"vectors (default: {ROWS:,})")
    options = parser.parse_args()
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    vectors, queries = clustered(rows, queries=QUICK_QUERIES if options.quick else QUERIES)
    cases = {**SHARES, **CORRELATED}
    with tempfile.TemporaryDirectory(prefix="pixdex-") as folder:
        corpus = prepared(Path(folder), vectors, queries, cases)
        del vectors
        engines = measured(["pq", "pq_fresh"], corpus, seconds=0.1 if options.quick else 2.0, cases=cases, whole=True)
    if any("left_out" in found for found in engines.values()):
        return 1
    sweep, fresh = (_by_effort(engines[name]["filtered"]) for name in ("pq", "pq_fresh"))
    effort = enough(sweep, list(SHARES))
    print(f"\nWith Tuning(effort={effort:g})")
    columns = ("recall", "short_by", "p50_ms")
    rows_shown = [(n, *(e[effort][c] for c in columns), fresh[n][effort]["p50_ms"]) for n, e in sweep.items()]
    table(("let through", "recall", "short by", "p50 ms", "new filter"), rows_shown)
    print("\nRecall at every effort")
    efforts = list(next(iter(sweep.values())))
    head = ("let through", *(f"{e:g}" for e in efforts))
    table(head, [(name, *(f"{each[e]['recall']:.3f}" for e in efforts)) for name, each in sweep.items()])
    goals = _goals({name: each[effort] for name, each in fresh.items()})
    results = {"rows": rows, "k": K, "effort": effort, "filters": {n: list(e.values()) for n, e in sweep.items()}}
    results["new_filters"] = {name: list(each.values()) for name, each in fresh.items()}
    return 0 if report("filtered", results, goals, as_json=options.json) else 1


def _by_effort(filtered: Mapping[str, Any]) -> Sweep:
    return {name: {row["setting"]["effort"]: row for row in each["sweep"]} for name, each in filtered.items()}


def enough(sweep: Sweep, names: Sequence[str]) -> float:
    """The lowest effort that has enough recall under all filters; the one nearest to it where none has."""
    worst = {effort: min(sweep[name][effort]["recall"] for name in names) for effort in sweep[names[0]]}
    return min((e for e, recall in worst.items() if recall >= RECALL), default=max(worst, key=lambda e: worst[e]))


def _goals(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Goal]:
    goals = {f"recall {name}": Goal(found[name]["recall"], RECALL) for name in SHARES}
    goals["short_by"] = Goal(max(each["short_by"] for each in found.values()), 0, at_most=True)
    return goals | {f"p50_ms {n}": Goal(found[n]["p50_ms"], most, at_most=True) for n, most in MOST_MS.items()}


if __name__ == "__main__":
    sys.exit(main())
