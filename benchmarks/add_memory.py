"""Memory of ``add``: its peak on 10,000 generated pictures beside that on 1,000.

Small JPEG files, the embedded store, the encoder ``classic``, each run in a fresh process. The peak is that of the
process and of the decoders that it starts, added up, as the kernel keeps it (``VmHWM``): Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import pixdex
from benchmarks import Goal, report
from benchmarks import table as show
from pixdex.encoders.images import resize, thumbnail_jpeg

_SIDE = 160
_IN_A_FOLDER = 1000


def main() -> int:
    arguments = _arguments()
    if arguments.child is not None:
        _add(*arguments.child)
        return 0
    small, large = (200, 2_000) if arguments.quick else (1_000, 10_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _generate(root / "small", small)
        _generate(root / "large", large)
        runs = {count: _run(root / name, root / f"{name}.pix") for count, name in ((small, "small"), (large, "large"))}
    show(
        ("pictures", "peak MiB", "of it decoders", "pictures/s"),
        [(count, run["peak_mib"], run["decoders_mib"], run["pictures_per_s"]) for count, run in runs.items()],
    )
    ratio = runs[large]["peak_mib"] / runs[small]["peak_mib"]
    results = {"runs": {str(count): run for count, run in runs.items()}}
    goals = {"peak_ratio": Goal(round(ratio, 3), 1.10, at_most=True)}
    return 0 if report("add_memory", results, goals, as_json=arguments.json) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="200 and 2,000 pictures")
    parser.add_argument("--child", nargs=2, metavar=("PICTURES", "STORE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _generate(root: Path, count: int) -> None:
    """Pictures of coloured blocks, no two alike."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"{number // _IN_A_FOLDER:02}"
        folder.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (folder / f"{number:05}.jpg").write_bytes(thumbnail_jpeg(resize(blocks, (_SIDE, _SIDE), "bicubic")))


def _run(pictures: Path, store: Path) -> dict[str, Any]:
    line = [sys.executable, "-m", "benchmarks.add_memory", "--child", str(pictures), str(store)]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result


def _add(pictures: str, store: str) -> None:
    """In the fresh process: add, and print what it took."""
    peaks: dict[int, float] = {}

    def look(_: object) -> None:
        peaks.update((pid, _peak_mib(pid)) for pid in (me, *_children(me)))

    me = os.getpid()
    with pixdex.open(f"pq://{store}", encoder="classic") as index:
        done = index.add(pictures, progress=look)
    peaks[me] = _peak_mib(me)
    found = {
        "peak_mib": round(sum(peaks.values()), 1),
        "decoders_mib": round(sum(peaks.values()) - peaks[me], 1),
        "pictures_per_s": round(done.added / done.seconds),
    }
    sys.stdout.write(orjson.dumps(found).decode())


def _peak_mib(pid: int) -> float:
    """Of a process that runs. Not ``getrusage``: what that says begins with the peak of the parent."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
