"""Processor seconds from the start of a fresh process to its first vector: with an exported folder, and with torch.

DINOv2 ViT-S/14 at 224, one 640x480 JPEG file. What ``auto`` measures once was remembered by a process before; the table
also says what that first process took.
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
from benchmarks._encoding import dinov2_small, jpegs, machine_facts

GOAL = 1.0
CODE = """
import sys
from pathlib import Path
from pixdex import encoders
from pixdex.encoders.images import decode
encoder = encoders.load(sys.argv[1])
encoder.encode([encoder.prepare(decode(Path(sys.argv[2]).read_bytes(), min_side=encoder.min_side).pixels)])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="fewer processes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = run(Path(name), times=2 if options.quick else 7)
    table(("processor seconds", "first process", "later"), [(k, *v) for k, v in results["seconds"].items()])
    best = min(later for _, later in (results["seconds"][k] for k in ("exported, onnx", "exported, openvino")))
    goals = {
        "exported, auto": Goal(results["seconds"]["exported, auto"][1], GOAL, at_most=True),
        "exported, best runtime": Goal(best, GOAL, at_most=True),
    }
    return 0 if report("cold_start", results, goals, as_json=options.json) else 1


def run(folder: Path, *, times: int) -> dict[str, Any]:
    from pixdex import encoders
    from pixdex.encoders.export import export

    os.environ["PIXDEX_CACHE"] = str(folder / "cache")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PIXDEX_RUNTIME", None)
    model = dinov2_small(folder / "dinov2-small")
    (picture,) = jpegs(folder / "pictures", 1, 640, 480)
    exported = folder / "exported"
    export(encoders.load(f"hf:{model}?runtime=torch"), exported)
    references = {
        "exported, auto": f"hf:{exported}?runtime=auto",
        "exported, onnx": f"hf:{exported}?runtime=onnx",
        "exported, openvino": f"hf:{exported}?runtime=openvino",
        "torch": f"hf:{model}?runtime=torch",
    }
    seconds = {}
    for name, reference in references.items():
        spent = [_seconds(reference, picture) for _ in range(times + 1)]
        seconds[name] = (spent[0], sorted(spent[1:])[times // 2])
    return {"machine": machine_facts(), "seconds": seconds}


def _seconds(reference: str, picture: Path) -> float:
    """User and system time of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", CODE, reference, str(picture)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
