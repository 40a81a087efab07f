"""What reranking 100 candidates costs: milliseconds a query on one core, and bytes a picture.

Tokens are random, which costs what real ones cost: 64 of 64 values as int8 on both sides (4 kB a picture, what the rerankers
that come with pixdex take), the shapes of those. Milliseconds are the core's time spent on a query, the best of many; by the
clock it is the same on a machine that does nothing else. Fetching counts by the clock: 100 records with such tokens by id,
from a store of 5,000; from a Milvus server too, where one can be started (see ``tests.milvus_server``), which has the other cores.
Rerankers over whole vectors are given random ones of 256 values about 20 centres.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks import Goal, report, table
from benchmarks._encoding import in_process
from pixdex import rerankers
from pixdex.rerankers.learned import Learned, shipped
from pixdex.rerankers.maxsim import MaxSim
from pixdex.rerankers.port import Candidate, Query

COUNT, TOKENS, DIM = 100, 64, 64
RECORDS, QUICK_RECORDS = 5_000, 500
NEIGHBOURS = ("alpha-qe", "dba", "diffusion", "k-reciprocal")
WIDTH, CENTRES = 256, 20
GOALS = {"cross": 50.0, "transport": 20.0, "maxsim": 3.0, "fetch pq": 10.0}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part or options.server:
        made = on_server(quick=options.quick) if options.server else measured(quick=options.quick)
        print(orjson.dumps(made).decode())
        return 0
    flags = ["--quick"] if options.quick else []
    results = in_process("benchmarks.rerank_cost", "--part", *flags, cores=1)
    results["ms"] |= in_namespace(flags)
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
    made: dict[str, Any] = {"maxsim": MaxSim()}
    for kind in ("transport", "cross"):
        for name, folder in shipped(kind).items():
            made.setdefault(kind, Learned(folder, kind))
            made.setdefault(f"{kind}:{name}", Learned(folder, kind))
    rounds = 5 if quick else 40
    ms = {name: timed(lambda r=each: r.rerank(query, candidates), rounds) for name, each in made.items()}
    ms |= neighbours(rng, rounds)
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


def neighbours(rng: np.random.Generator, rounds: int) -> dict[str, dict[str, float]]:
    """Rerankers over whole vectors, of 100 candidates and of 1000."""
    made = {}
    for count in (100, 1000):
        about = rng.standard_normal((CENTRES, WIDTH))[rng.integers(0, CENTRES, count + 1)]
        vectors = (about + rng.standard_normal(about.shape)).astype(np.float32)
        query = Query(vectors[0])
        candidates = [Candidate(str(row), 0.5, vector=each) for row, each in enumerate(vectors[1:])]
        for name in NEIGHBOURS:
            reranker = rerankers.load(name)
            made[f"{name} of {count}"] = timed(lambda r=reranker, q=query, c=candidates: r.rerank(q, c), rounds)
    return made


def in_namespace(flags: Sequence[str]) -> dict[str, dict[str, float]]:
    """Fetching from a Milvus server; nothing where none can be started."""
    from tests.milvus_server import command, refusal

    reason = refusal()
    if reason:
        print(f"fetch milvus is left out: {reason}", file=sys.stderr)
        return {}
    inner = [sys.executable, "-m", "benchmarks.rerank_cost", "--server", *flags]
    done = subprocess.run(command(inner), stdout=subprocess.PIPE, check=True, text=True)
    return dict(orjson.loads(done.stdout.splitlines()[-1]))


def on_server(*, quick: bool) -> dict[str, dict[str, float]]:
    """As ``fetching``, in the namespace."""
    from tests.milvus_server import Server

    tokens = np.random.default_rng(0).integers(-127, 128, (COUNT + 1, TOKENS, DIM)).astype(np.int8)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder)).start()
        try:
            place = {"fetch milvus": f"{server.url}/tokens"}
            return fetching(QUICK_RECORDS if quick else RECORDS, 5 if quick else 40, tokens, place)
        finally:
            server.kill()


def fetching(
    records: int, rounds: int, tokens: Any, places: Mapping[str, str] | None = None
) -> dict[str, dict[str, float]]:
    """One round trip for 100 token sets by id, in no order; ``places`` are addresses, embedded stores by default."""
    import pixdex
    from pixdex.errors import MissingDependency
    from pixdex.spec import Fingerprint, Spec, TokenSpec, Vector
    from pixdex.types import Batch, Want

    mark = Fingerprint(encoder="random", digest="5eed5eed")
    spec = Spec(vectors=(Vector(dim=16, fingerprint=mark),), tokens=TokenSpec(count=TOKENS, dim=DIM, fingerprint=mark))
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((records, 16)).astype(np.float32)
    ids = [f"picture/{row}" for row in range(records)]
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        places = places or {
            "fetch pq": f"pq://{folder}/store.pix",
            "fetch qdrant+local": f"qdrant+local://{folder}/local",
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
            collection.flush()
            chosen = [ids[row] for row in rng.choice(records, COUNT, replace=False)]
            want = Want(payload=False, tokens=True)
            made[name] = timed(lambda c=collection, w=want, i=chosen: c.fetch(i, want=w), rounds)
            connector.close()
    return made


if __name__ == "__main__":
    sys.exit(main())
