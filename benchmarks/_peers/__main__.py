"""Build one engine's store, or open it and measure its answers; the last line is one JSON object.

``python -m benchmarks._peers build ENGINE CORPUS STORE`` may use every core. ``... ask ENGINE CORPUS STORE`` pins
itself to one core before it imports anything that computes. Queries a second are of processor time, of all threads of
the process; medians of three rounds (one while settings are tried). A slow engine is asked fewer queries, at least 20 or a batch,
so that a round takes about ``--seconds``; ``queries`` says how many. Memory is what the process grew by since just
before the store was opened, its own (anonymous) pages and mapped ones apart, after 200 single queries without a filter.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

FIRST, FEWEST, WARM, WARM_SECONDS, ROUNDS, BATCH = 5, 20, 200, 5.0, 3, 100


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._peers", description=__doc__)
    parser.add_argument("verb", choices=("build", "ask"))
    parser.add_argument("engine")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--goal", type=float, action="append", default=[])
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--whole", action="store_true", help="every setting, also behind the first with enough recall")
    options = parser.parse_args()
    if options.verb == "ask" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    import orjson

    found = _built(options) if options.verb == "build" else _asked(options)
    print(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY).decode(), flush=True)
    sys.stdout.flush()
    os._exit(0)  # some libraries wait long for threads of theirs


def _built(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks._peers import Corpus, load

    peer, corpus = load(options.engine), Corpus(options.corpus)
    started, busy = time.perf_counter(), time.process_time()
    peer.build(options.store, corpus)
    return {
        "package": f"{peer.package} {version(peer.package)}",
        "build_s": round(time.perf_counter() - started, 2),
        "build_cpu_s": round(time.process_time() - busy, 2),
        "build_peak_mib": _status().get("VmHWM", 0) // 1024,
    }


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from benchmarks._peers import CASES, CORRELATED, SHARES, Corpus, load
    from benchmarks._vectors import Truth

    corpus = Corpus(options.corpus)
    queries = np.load(options.corpus / "queries.npy")
    truths = {name: Truth.read(options.corpus / f"{name}.npz") for name in ("all", *options.case)}
    filters = {**CASES, **SHARES, **CORRELATED}
    peer, rows = load(options.engine), len(corpus.vectors)
    lines = peer.lines(rows, filtered=False)
    gc.collect()
    before = memory()
    started, busy = time.perf_counter(), time.process_time()
    peer.open(options.store, corpus)
    peer.use(lines[0][len(lines[0]) // 2])
    peer.one(queries[0], None)
    found: dict[str, Any] = {
        "answers": peer.answers,
        "database": peer.database,
        "open_s": round(time.perf_counter() - started, 4),
        "open_cpu_s": round(time.process_time() - busy, 4),
    }
    found |= _grown(peer, queries, before, rows)
    asker = Asker(queries, options.seconds, tuple(options.goal), options.whole, peer.use)
    found["single"] = asker.swept(single(peer, None), lines, truths["all"])
    found["batch"] = asker.swept(batched(peer, payload=False), lines, truths["all"])
    if peer.database:
        found["batch_payload"] = {
            goal: best and asker.measured(batched(peer, payload=True), best["setting"], truths["all"], rounds=ROUNDS)
            for goal, best in found["batch"]["best"].items()
        }
    found["filtered"] = {
        name: asker.swept(single(peer, filters[name]), peer.lines(rows, filtered=True), truths[name])
        for name in (options.case if peer.filters else ())
    }
    return found


def _grown(peer: Any, queries: Any, before: dict[str, int], rows: int) -> dict[str, float]:
    """Bytes a vector since ``before``, once some queries were answered and their answers thrown away."""
    started = time.perf_counter()
    for query in queries[:WARM]:
        peer.one(query, None)
        if time.perf_counter() - started > WARM_SECONDS:
            break
    gc.collect()
    return {f"{name}_per_vector": round((value - before[name]) / rows, 1) for name, value in memory().items()}


@dataclass(frozen=True, slots=True)
class Verb:
    """A way of asking: ``size`` queries at once, None for one without a batch; ``read`` gives the rows of an answer."""

    ask: Callable[[Any], Any]
    read: Callable[[Any], list[list[int]]]
    size: int | None

    def parts(self, queries: Any) -> list[Any]:
        """The queries of each call."""
        if self.size is None:
            return list(queries)
        return [queries[start : start + self.size] for start in range(0, len(queries), self.size)]


def single(peer: Any, where: Any) -> Verb:
    """Single queries, with the payload where there is one."""
    return Verb(lambda query: peer.one(query, where), lambda answer: [peer.rows(answer)], None)


def batched(peer: Any, *, payload: bool) -> Verb:
    """Batches of 100."""
    return Verb(lambda queries: peer.many(queries, payload=payload), peer.all_rows, BATCH)


@dataclass(frozen=True, slots=True)
class Asker:
    """Measures the answers of an engine that is open.

    Attributes:
        seconds: about as long is one round.
        goals: recalls to reach.
        whole: whether to go on behind the first setting that reaches all of them.
        use: sets the engine's knobs.
    """

    queries: Any
    seconds: float
    goals: tuple[float, ...]
    whole: bool
    use: Callable[[Any], None]

    def swept(self, verb: Verb, lines: Sequence[Sequence[Any]], truth: Any) -> dict[str, Any]:
        """Every line up to the first setting with enough recall; and the fastest setting for each goal, once more."""
        swept = []
        for line in lines:
            for setting in line:
                swept.append(self.measured(verb, setting, truth, rounds=1))
                if swept[-1]["recall"] >= max(self.goals) and not self.whole:
                    break
        again: dict[str, dict[str, Any]] = {}
        best: dict[str, Any] = {}
        for goal in self.goals:
            enough = [row for row in swept if row["recall"] >= goal]
            for row in sorted(enough, key=lambda row: -row["qps"]):
                if row["knobs"] not in again:
                    again[row["knobs"]] = self.measured(verb, row["setting"], truth, rounds=ROUNDS)
                if again[row["knobs"]]["recall"] >= goal:  # it may have been asked few queries the first time
                    break
        for goal in self.goals:
            reached = [row for row in again.values() if row["recall"] >= goal]
            best[f"{goal:g}"] = max(reached, key=lambda row: row["qps"], default=None)
        return {"best": best, "sweep": swept}

    def measured(self, verb: Verb, setting: Any, truth: Any, *, rounds: int) -> dict[str, Any]:
        """Speed and recall at one setting."""
        self.use(setting)
        count = self._affordable(verb)
        gc.collect()
        taken = [self._asked(verb, count) for _ in range(rounds)]
        rows = [found for answer in taken[0].answers for found in verb.read(answer)]
        return {
            "knobs": ", ".join(f"{name}={value:g}" for name, value in setting.items()),
            "recall": round(truth.recall(rows), 4),
            "short_by": truth.short_by(rows),
            "qps": round(count / statistics.median(t.busy for t in taken), 1),
            "p50_ms": round(1e3 * statistics.median(wall for t in taken for wall in t.walls), 4),
            "queries": count,
            "setting": setting,
        }

    def _affordable(self, verb: Verb) -> int:
        """How many queries fit into ``seconds``, whole batches; asking some to find out warms up as well."""
        first, least = (FIRST, FEWEST) if verb.size is None else (verb.size, verb.size)
        started = time.perf_counter()
        self._asked(verb, first)
        fit = int(self.seconds / (time.perf_counter() - started)) * first
        if fit > least:
            self._asked(verb, min(fit, WARM))
        return min(len(self.queries), max(least, fit))

    def _asked(self, verb: Verb, count: int) -> Taken:
        parts, answers, walls = verb.parts(self.queries[:count]), [], []
        busy = time.process_time()
        for part in parts:
            started = time.perf_counter()
            answers.append(verb.ask(part))
            walls.append(time.perf_counter() - started)
        return Taken(answers, time.process_time() - busy, walls)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of some queries: the answer, and wall seconds, of each call; processor seconds of all."""

    answers: list[Any]
    busy: float
    walls: list[float]


def memory() -> dict[str, int]:
    """Bytes of this process: pages of its own (``resident``), and pages of files (``mapped``)."""
    found = _status()
    mapped = found.get("RssFile", 0) + found.get("RssShmem", 0)
    return {"resident": 1024 * found.get("RssAnon", 0), "mapped": 1024 * mapped}


def _status() -> dict[str, int]:
    """What Linux says about this process's memory, in KiB; nothing elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}


if __name__ == "__main__":
    main()
