"""Adaptation to training pictures without their labels: what it does for classes that were not among them.

ViT-Tiny, on the pictures of the training classes of grocery_store: MoCo and SimCLR for a minute and a half of CPU time each (of
training itself), and on a GPU, where there is one, MoCo for two minutes. Nothing chooses among them, so that the effect shows
whatever its sign. What was trained elsewhere is measured too: ``--weights NAME=FILE``. MAP@R and R@1 over the test classes of
both data sets (cosine, leave-one-out), differences with paired bootstrap intervals. ``--cache FOLDER`` keeps what was trained
and encoded, and the same command goes on there. Needs the development pictures and weights beside the checkout (``--shared``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import report, table
from benchmarks._tuning import (
    DATA,
    SET,
    compared,
    cpu_seconds,
    labelled_part,
    made_by,
    measured,
    names_of,
    options_of,
    reference,
)

PRETEXTS = {"MoCo": "moco", "SimCLR": "simclr"}
CPU_SECONDS = 90.0
GPU_SECONDS = 120.0


def main() -> int:
    options = options_of(__doc__, "MoCo, SimCLR and gpu")
    results = measured("ssl", options, run)
    if results is not None:
        report("ssl", results, {}, as_json=options.json)
    return 0


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    names = names_of(options, PRETEXTS)
    made, costs = made_by(lambda name, folder: _train(name, folder, options), names, options, work)
    table(
        ("adaptation", "CPU s", "s", "steps"),
        [(n, c["cpu"], c["clock"], c["steps"]) for n, c in costs.items() if "cpu" in c],
    )
    return {"unseen": {data: compared(made, data, options, work) for data in DATA}, "costs": costs}


def _train(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from pixdex.training._loop import Pace
    from pixdex.training.ssl import Adaptation, adapt

    data = labelled_part(options.shared, SET, "train", quick=options.quick)
    if name == "gpu":
        adaptation = Adaptation(pretext="moco", batch=256, rate=5e-5)
        pace = Pace(seconds=GPU_SECONDS, steps=10**6, rounds=4)
    else:
        adaptation = Adaptation(pretext=PRETEXTS[name], batch=32)
        pace = Pace(seconds=CPU_SECONDS, cpu_time=True, steps=10**6, device="cpu", rounds=4, average=0.9)
    if options.quick:
        adaptation = Adaptation(pretext=PRETEXTS.get(name, "moco"), batch=8)
        pace = Pace(steps=2, rounds=1, device="cpu")
    tuned, cpu, clock = cpu_seconds(
        lambda: adapt(data.items, folder, encoder=reference(options), adaptation=adaptation, pace=pace)
    )
    return {"cpu": cpu, "clock": clock} | {
        key: tuned.report[key] for key in ("steps", "history", "adaptation", "pace", "device")
    }


if __name__ == "__main__":
    sys.exit(main())
