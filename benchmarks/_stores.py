"""Build and measure engines of ``_peers`` on one corpus, each in processes of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks._peers import CASES, Corpus, K, Where, missing
from benchmarks._vectors import truth

__all__ = ["GOALS", "best", "measured", "prepared"]

GOALS = (0.95, 0.99)
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "TOKIO_WORKER_THREADS",
        "LANCE_CPU_THREADS",
    ),
    "1",
)
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait let others work: a build on a busy machine takes far longer otherwise."""
QUIET = {"GRPC_VERBOSITY": "ERROR", "LANCE_LOG": "error", "RUST_LOG": "error"}
BUILD_LIMIT, ASK_LIMIT = 3600, 3600


def prepared(
    folder: Path, vectors: NDArray[np.float32], queries: NDArray[np.float32], cases: Mapping[str, Where] = CASES
) -> Corpus:
    """Write vectors, fields, queries and the exact answers, without a filter and under each of ``cases``."""
    corpus = Corpus.make(folder, vectors)
    np.save(folder / "queries.npy", queries)
    truth(vectors, queries, K).save(folder / "all.npz")
    for name, where in cases.items():
        truth(vectors, queries, K, among=where.mask(corpus.columns)).save(folder / f"{name}.npz")
    return corpus


def measured(
    engines: Sequence[str], corpus: Corpus, *, seconds: float, cases: Iterable[str] = CASES, whole: bool = False
) -> dict[str, dict[str, Any]]:
    """What each engine shows; one that cannot be measured has only ``left_out``, the reason.

    Args:
        seconds: about as long is one round of measuring.
        cases: filters, by name.
        whole: measure every setting, also behind the first that reaches all goals.
    """
    asked = [f"--seconds={seconds}", *(f"--goal={goal}" for goal in GOALS), *(f"--case={case}" for case in cases)]
    asked += ["--whole"] if whole else []
    results: dict[str, dict[str, Any]] = {}
    for name in engines:
        reason = missing(name)
        found = {"left_out": reason} if reason else _measured(name, corpus, asked)
        results[name] = found
        print(f"{name} is left out: {found['left_out']}" if "left_out" in found else _line(name, found), flush=True)
    return results


def best(found: Mapping[str, Any], part: str, goal: float, *, case: str | None = None) -> dict[str, Any]:
    """The fastest setting that reaches a recall; empty where there is none."""
    swept = found.get(part, {})
    swept = swept if case is None else swept.get(case, {})
    chosen: dict[str, Any] | None = swept.get("best", swept).get(f"{goal:g}")
    return chosen or {}


def _measured(name: str, corpus: Corpus, how: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pixdex-store-", dir=corpus.folder, ignore_cleanup_errors=True) as folder:
        store = Path(folder)
        try:
            built = _run(["build", name, str(corpus.folder), folder], {}, BUILD_LIMIT)
            disk = _allocated(store) / len(corpus.vectors)
            asked = _run(["ask", name, str(corpus.folder), folder, *how], ONE_THREAD, ASK_LIMIT)
        except (subprocess.SubprocessError, ValueError) as error:
            return {"left_out": str(error)}
        finally:
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir(exist_ok=True)
    return {**built, "disk_per_vector": round(disk, 1), **asked}


def _run(arguments: Sequence[str], more: Mapping[str, str], limit: float) -> dict[str, Any]:
    """The JSON object on the last line of such a process.

    Raises:
        ValueError: it failed; the end of what it said.
        subprocess.TimeoutExpired: it took too long.
    """
    command = [sys.executable, "-m", "benchmarks._peers", *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=limit,
        env={**os.environ, **NO_SPINNING, **QUIET, **more},
        cwd=Path(__file__).parents[1],
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{' '.join(arguments[:2])} failed ({done.returncode}): {last}")
    found: dict[str, Any] = orjson.loads(done.stdout.strip().splitlines()[-1])
    return found


def _allocated(folder: Path) -> int:
    """Bytes on disk: blocks, not lengths, as logs are often allocated ahead and written later."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _line(name: str, found: Mapping[str, Any]) -> str:
    speeds = ", ".join(f"{best(found, 'single', g).get('qps', 0):,.0f}/s at {g}" for g in GOALS)
    return f"{name}: built in {found['build_s']:.0f} s, {speeds}"
