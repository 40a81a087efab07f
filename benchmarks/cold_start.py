"""Processor seconds from the start of a fresh process to its first vector: with an exported folder, and with torch.

DINOv2 ViT-S/14 at 224, one 640x480 JPEG file, on one core and on all. ``auto`` is measured as it comes, when nothing was
chosen yet, and with what a process before had it choose. The first process finds no file that a runtime caches.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import Goal, report, table
from benchmarks._encoding import cores_to_try, dinov2_small, jpegs, machine_facts

GOAL = 1.0
CODE = """
import sys
from pathlib import Path
from pixdex import encoders
from pixdex.encoders.images import decode
encoder = encoders.load(sys.argv[1])
encoder.encode([encoder.prepare(decode(Path(sys.argv[2]).read_bytes(), min_side=encoder.min_side).pixels)])
"""
SETTLE = "import sys; from pixdex import encoders; print(encoders.load(sys.argv[1]).trunk.settle())"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="fewer processes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = run(Path(name), times=2 if options.quick else 7)
    seconds = results["seconds"]
    for cores, each in seconds.items():
        table((f"processor seconds, {cores}", "first process", "later"), [(k, *v) for k, v in each.items()])
    names = [name for name in seconds["one core"] if name.startswith("exported, auto")]
    goals = {name: Goal(seconds["one core"][name][1], GOAL, at_most=True) for name in names}
    return 0 if report("cold_start", results, goals, as_json=options.json) else 1


def run(folder: Path, *, times: int) -> dict[str, Any]:
    from pixdex import encoders
    from pixdex.encoders.export import export

    os.environ.pop("PIXDEX_RUNTIME", None)
    model = dinov2_small(folder / "dinov2-small")
    (picture,) = jpegs(folder / "pictures", 1, 640, 480)
    exported = folder / "exported"
    export(encoders.load(f"hf:{model}?runtime=torch"), exported)
    references = {
        "exported, auto": f"hf:{exported}",
        "exported, auto that chose": f"hf:{exported}",
        "exported, onnx": f"hf:{exported}?runtime=onnx",
        "exported, openvino": f"hf:{exported}?runtime=openvino",
        "torch, auto": f"hf:{model}",
    }
    seconds: dict[str, dict[str, tuple[float, float]]] = {}
    chosen: dict[str, str] = {}
    for cores, number in cores_to_try().items():
        seconds[cores] = {}
        os.environ["PIXDEX_CACHE"] = str(folder / cores)
        for name, reference in references.items():
            if name == "exported, auto that chose":
                chosen[cores] = _run(SETTLE, reference, cores=number).strip()
            spent = [_seconds(reference, picture, cores=number) for _ in range(times + 1)]
            seconds[cores][name] = (spent[0], sorted(spent[1:])[times // 2])
    return {"machine": machine_facts(), "seconds": seconds, "chosen": chosen}


def _seconds(reference: str, picture: Path, *, cores: int | None) -> float:
    """User and system time of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(CODE, reference, str(picture), cores=cores)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(code: str, *arguments: str, cores: int | None) -> str:
    usable = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(len(usable))},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, usable),
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
