"""A ring of stores, pq -> Qdrant Edge -> Milvus Lite -> Milvus server -> Parquet -> pq, by ``pixdex.copy``, killed twice on the way.

What comes out at the end is compared with what went in: ids, payloads, tokens, vectors, exact searches. Beside each copy
stands how fast the raw client of its source reads, and that of its target writes, the same data (``_swapping``), each alone
and both at once in one process, and how much memory they take. The rate of a copy is that of moving the records; what follows,
finishing the target and comparing everything, has columns of its own. The server is left out where it cannot be started: see
``tests.milvus_server``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks import Goal, report, table
from benchmarks._stores import NO_SPINNING
from benchmarks._swapping import DIM

RECORDS, QUICK_RECORDS = 100_000, 3_000
QUERIES, K = 100, 10
TOGETHER = 20_000
"""Records that are read and written at once, at most: they are made beforehand."""
SHARE, ADDED_MB = 0.8, 200
_KILLED = (0, 2)
"""Which copies are killed once, half-way."""
_BOTH = ("from", "to")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RECORDS} records instead of {RECORDS}")
    parser.add_argument("--records", type=int, help="so many records")
    options = parser.parse_args()
    from tests.milvus_server import INSIDE, Server, command, refusal

    reason = refusal()
    if reason is None and INSIDE not in os.environ:
        return subprocess.run(command([sys.executable, "-m", "benchmarks.swap", *sys.argv[1:]]), check=False).returncode
    count = options.records or (QUICK_RECORDS if options.quick else RECORDS)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        os.environ["PIXDEX_STATE"] = f"{folder}/state"
        ring = [
            ("pq", f"pq://{folder}/first.pix"),
            ("edge", f"qdrant+edge://{folder}/edge?optimize=0#swap"),
            ("lite", f"milvus+lite://{folder}/lite.db"),
            ("parquet", f"{folder}/swap.parquet"),
            ("pq", f"pq://{folder}/last.pix"),
        ]
        server = None
        if reason is None:
            server = Server(Path(folder) / "server").start()
            ring.insert(3, ("server", f"{server.url}/swap"))
        else:
            print(f"the Milvus server is left out: {reason}", file=sys.stderr)
        try:
            return _measure(ring, Path(folder), count, options)
        finally:
            if server is not None:
                server.kill()


def _measure(ring: Sequence[tuple[str, str]], folder: Path, count: int, options: argparse.Namespace) -> int:
    _run("fill", "pq", ring[0][1], count)
    raw = _Raw(folder, count, dict(ring).get("server"))
    raw.write(ring[0][0])
    hops = []
    for number, ((one, source), (other, target)) in enumerate(pairwise(ring)):
        together = raw.together(one, other)["rate"]
        before = raw.read(one), raw.write(other)
        hop = _hop(source, target, count // 2 if number in _KILLED else 0, count)
        after = raw.read(one), raw.write(other)  # before and after, as the machine may have other work
        rates = [np.mean([pair[side]["rate"] for pair in (before, after)]) for side in (0, 1)]
        # A copy reads its target too, to compare; both clients share what an interpreter takes.
        needed = before[0]["mb"] + max(before[1]["mb"], raw.read(other)["mb"]) - raw.base
        hop |= {"from": one, "to": other, "raw_read": rates[0], "raw_write": rates[1], "raw": min(rates)}
        hop |= {"share": hop["rate"] / min(rates), "added_mb": hop["mb"] - needed, "raw_together": together}
        hop |= {"share_of_together": hop["rate"] / together}
        hop |= {"comparing": hop["seconds"] - hop["copying"] - hop["finishing"]}
        hops.append(hop)
        print(
            f"{one} -> {other}: {hop['rate']:,.0f}/s, {hop['share']:.2f} of the slower raw rate, "
            f"{hop['share_of_together']:.2f} of both raw at once",
            file=sys.stderr,
            flush=True,
        )
    compared = _compared(ring[0][1], ring[-1][1], count)
    table(
        (*_BOTH, "records/s", "slower raw/s", "share", "both raw/s", "share", "added MB", "again"),
        [
            tuple(
                hop[key]
                for key in (*_BOTH, "rate", "raw", "share", "raw_together", "share_of_together", "added_mb", "again")
            )
            for hop in hops
        ],
    )
    print()
    table(
        (*_BOTH, "moving s", "finishing s", "comparing s"),
        [tuple(hop[key] for key in (*_BOTH, "copying", "finishing", "comparing")) for hop in hops],
    )
    goals = {
        "signed_off": Goal(sum(hop["signed_off"] for hop in hops) / len(hops), 1.0),
        "records_different": Goal(compared["different"], 0, at_most=True),
        "largest_vector_error": Goal(compared["vector_error"], 1e-6, at_most=True),
        "top10_agreement": Goal(compared["agreement"], 1.0),
        "least_share_of_raw_rate": Goal(min(hop["share"] for hop in hops), SHARE),
        "most_added_mb": Goal(max(hop["added_mb"] for hop in hops), ADDED_MB, at_most=True),
    }
    results = {"records": count, "dim": DIM, "hops": hops, "compared": compared}
    return 0 if report("swap", results, goals, as_json=options.json) else 1


def _hop(source: str, target: str, deadly: int, count: int) -> dict[str, Any]:
    """One copy, killed half-way and done again where it is to be: its rate is that of both, since a store that holds half of
    them takes the other half more slowly, and the raw client's rate is of all.
    """
    done, seconds = 0, 0.0
    if deadly:
        line = [sys.executable, "-m", "benchmarks._swapping", "copy", source, target, str(deadly)]
        environment = {**os.environ, **NO_SPINNING}
        place = Path(__file__).parents[1]
        killed = subprocess.run(line, cwd=place, check=False, stdout=subprocess.PIPE, text=True, env=environment)
        if killed.returncode != -9:
            raise RuntimeError(f"the copy to {target} was not killed but ended with {killed.returncode}")
        first = orjson.loads(killed.stdout.splitlines()[-1])
        done, seconds = first["copied"], first["copied"] / first["rate"]
    found = _run("copy", source, target, 0)
    rate = (done + found["copied"]) / (seconds + found["copied"] / found["rate"])
    return {**found, "rate": rate, "again": found["copied"] + found["before"] - count}


class _Raw:
    """What the clients of stores do alone, each call in a process of its own."""

    def __init__(self, folder: Path, count: int, served: str | None) -> None:
        self._folder = folder
        self._count = count
        self._served = (served or "").rpartition("/")[0]
        self.base = _base_mb()

    def write(self, kind: str) -> dict[str, Any]:
        """Write everything, to an empty store."""
        for path in self._folder.glob(f"raw-{kind}.db*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return _run("write", kind, self._place(kind), self._count)

    def read(self, kind: str) -> dict[str, Any]:
        """Read what was written last."""
        return _run("read", kind, self._place(kind), self._count)

    def together(self, one: str, other: str) -> dict[str, Any]:
        """Read what was written last to one while the other is written, to an empty store."""
        place = self._place(other)
        if other != "server":
            place = f"{self._folder}/together.db"
            for path in self._folder.glob("together.db*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return _run("together", one, self._place(one), min(self._count, TOGETHER), other, place)

    def _place(self, kind: str) -> str:
        return self._served if kind == "server" else f"{self._folder}/raw-{kind}.db"


def _run(*arguments: object) -> dict[str, Any]:
    line = [sys.executable, "-m", "benchmarks._swapping", *map(str, arguments)]
    environment = {**os.environ, **NO_SPINNING}
    done = subprocess.run(
        line, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    found: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return found


def _base_mb() -> float:
    """What an interpreter takes that has done nothing but import what all of them import."""
    code = "from benchmarks._swapping import peak_mb; print(peak_mb())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return float(done.stdout)


def _compared(one: str, other: str, count: int) -> dict[str, Any]:
    """The first and the last collection, record by record, and by exact searches."""
    from pixdex import Collection, Tuning, Want, connect

    ours, theirs = (Collection.open(*connect(url)) for url in (one, other))
    want = Want(vectors=("image",), tokens=True)
    seen, different, error = 0, abs(ours.count() - count) + abs(theirs.count() - count), 0.0
    for page in ours.scan(want=want):
        batch, there = page.batch, theirs.fetch(page.batch.ids, want=want)
        seen += len(batch)
        different += len(batch) - len(there)
        row_of = {record: row for row, record in enumerate(there.ids)}
        rows = [row for row, record in enumerate(batch.ids) if record in row_of]
        others = [row_of[batch.ids[row]] for row in rows]
        different += sum(not _same(batch, row, there, its) for row, its in zip(rows, others, strict=True))
        error = max(
            error, float(np.abs(batch.vectors["image"][rows] - there.vectors["image"][others]).max(initial=0.0))
        )
    queries = np.random.default_rng(5).standard_normal((QUERIES, DIM)).astype(np.float32)
    found = [c.search(queries, k=K, tuning=Tuning(exact=True), want=Want(payload=False)) for c in (ours, theirs)]
    same = sum(len({h.id for h in mine} & {h.id for h in its}) for mine, its in zip(*found, strict=True))
    for collection in (ours, theirs):
        collection.connector.close()
    return {"records": seen, "different": different, "vector_error": error, "agreement": same / (QUERIES * K)}


def _same(ours: Any, row: int, theirs: Any, other: int) -> bool:
    mine, its = (
        orjson.dumps(batch.payloads[at], option=orjson.OPT_SORT_KEYS) for batch, at in ((ours, row), (theirs, other))
    )
    return bool(mine == its and np.array_equal(ours.tokens[row], theirs.tokens[other]))


if __name__ == "__main__":
    sys.exit(main())
