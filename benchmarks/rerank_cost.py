"""What reranking 100 candidates costs: milliseconds a query on one core, and bytes a picture.

Tokens are random, which costs what real ones cost: 64 of 64 values as int8 on both sides (4 kB a picture, what the rerankers
that come with pixdex take), the shapes of those. Milliseconds are the core's time spent on a query, the best of many; by the
clock it is the same on a machine that does nothing else. Fetching counts by the clock: 100 records with such tokens by id, from a store of 5,000.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import Goal, report, table
from benchmarks._encoding import in_process
from pixdex.rerankers.learned import Learned, shipped
from pixdex.rerankers.maxsim import MaxSim
from pixdex.rerankers.port import Candidate, Query

COUNT, TOKENS, DIM = 100, 64, 64
RECORDS, QUICK_RECORDS = 5_000, 500
GOALS = {"cross": 50.0, "transport": 20.0, "maxsim": 3.0, "fetch pq": 10.0}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        import orjson

        print(orjson.dumps(measured(quick=options.quick)).decode())
        return 0
    flags = ["--part"] + (["--quick"] if options.quick else [])
    results = in_process("benchmarks.rerank_cost", *flags, cores=1)
    rows = [(n, v["best"], v["median"], v["clock"]) for n, v in results["ms"].items()]
    table(("one core", "ms of the core", "median", "ms by the clock"), rows)
    print(f"\n{results['bytes']:,} bytes a picture")
    goals = {
        f"{n}, ms": Goal(v["clock" if n.startswith("fetch") else "best"], GOALS[n], at_most=True)
        for n, v in results["ms"].items()
        if n in GOALS
    }
    return 0 if report("rerank_cost", results, goals, as_json=options.json) else 1


def measured(*, quick: bool) -> dict[str, Any]:
    """The figures, in a process on one core."""
    assert len(os.sched_getaffinity(0)) == 1, "one core"
    rng = np.random.default_rng(0)
    tokens = rng.integers(-127, 128, (COUNT + 1, TOKENS, DIM)).astype(np.int8)
    query = Query(np.zeros(1, np.float32), tokens[0])
    candidates = [Candidate(str(i), 0.5, each) for i, each in enumerate(tokens[1:])]
    rerankers: dict[str, Any] = {"maxsim": MaxSim()}
    for kind in ("transport", "cross"):
        for name, folder in shipped(kind).items():
            rerankers.setdefault(kind, Learned(folder, kind))
            rerankers.setdefault(f"{kind}:{name}", Learned(folder, kind))
    rounds = 5 if quick else 40
    ms = {name: timed(lambda r=each: r.rerank(query, candidates), rounds) for name, each in rerankers.items()}
    ms |= fetching(QUICK_RECORDS if quick else RECORDS, rounds, tokens)
    return {"ms": ms, "bytes": int(tokens[0].nbytes), "candidates": COUNT, "tokens": [TOKENS, DIM]}


def timed(call: Callable[[], object], rounds: int) -> dict[str, float]:
    """Milliseconds of a call: of the core's time (best and median), and the best by the clock."""
    call()
    core, clock = [], []
    for _ in range(rounds):
        began = time.process_time(), time.perf_counter()
        call()
        core.append((time.process_time() - began[0]) * 1e3)
        clock.append((time.perf_counter() - began[1]) * 1e3)
    return {"best": min(core), "median": float(np.median(core)), "clock": min(clock)}


def fetching(records: int, rounds: int, tokens: Any) -> dict[str, dict[str, float]]:
    """One round trip for 100 token sets by id, in no order."""
    import pixdex
    from pixdex.errors import MissingDependency
    from pixdex.types import Batch, Fingerprint, Spec, TokenSpec, Vector, Want

    mark = Fingerprint(encoder="random", digest="5eed5eed")
    spec = Spec(vectors=(Vector(dim=16, fingerprint=mark),), tokens=TokenSpec(count=TOKENS, dim=DIM, fingerprint=mark))
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((records, 16)).astype(np.float32)
    ids = [f"picture/{row}" for row in range(records)]
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        places = {
            "fetch pq": f"pq://{folder}/store.pix",
            "fetch qdrant+edge": f"qdrant+edge://{folder}/edge",
            "fetch milvus+lite": f"milvus+lite://{folder}/lite",
        }
        for name, url in places.items():
            try:
                connector, collection_name = pixdex.connect(url)
            except MissingDependency as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            collection = pixdex.Collection.create(connector, collection_name, spec)
            for start in range(0, records, 500):
                rows = range(start, min(start + 500, records))
                batch = Batch(
                    ids=tuple(ids[row] for row in rows),
                    vectors={"image": vectors[start : rows.stop]},
                    payloads=tuple({} for _ in rows),
                    tokens=tuple(tokens[1 + row % COUNT] for row in rows),
                )
                collection.upsert(batch)
            chosen = [ids[row] for row in rng.choice(records, COUNT, replace=False)]
            want = Want(payload=False, tokens=True)
            made[name] = timed(lambda c=collection, w=want, i=chosen: c.fetch(i, want=w), rounds)
            connector.close()
    return made


if __name__ == "__main__":
    sys.exit(main())
