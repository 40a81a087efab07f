"""Adaptation to training pictures without their labels: what it does for classes that were not among them.

ViT-Tiny, on the pictures of the training classes of grocery_store: MoCo and SimCLR for the same CPU time, a minute and a half of
two cores, and on a GPU, where there is one, MoCo for two minutes. Nothing chooses among them, so that the effect shows
whatever its sign. What was trained elsewhere is measured too: ``--weights NAME=FILE``. MAP@R and R@1 over the test classes of
both data sets (cosine, leave-one-out), differences with paired bootstrap intervals. Needs the development pictures and
weights beside the checkout (``--shared``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from benchmarks import report, table
from benchmarks._tuning import DATA, cpu_seconds, found, from_weights, labelled_part, shown, vectors_of
from pixdex import encoders

SET = "grocery_store"
MODEL = "vit-tiny-16-224"
PRETEXTS = {"MoCo": "moco", "SimCLR": "simclr"}
CPU_SECONDS = 180.0
GPU_SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps; figures mean nothing")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--work", type=Path, help="keep encoders and vectors here, and go on from what is there")
    parser.add_argument("--only", nargs="*", help="of MoCo, SimCLR and gpu; default: all")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE", help="trunks trained elsewhere")
    options = parser.parse_args()
    if not options.shared.is_dir():
        print(f"skipped: no pictures in {options.shared}")
        report("ssl", {"skipped": "no pictures"}, {}, as_json=options.json)
        return 0
    with tempfile.TemporaryDirectory() as name:
        results = run(options, options.work or Path(name))
    report("ssl", results, {}, as_json=options.json)
    return 0


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    work.mkdir(parents=True, exist_ok=True)
    base: Any = encoders.load(f"hf:{options.shared / 'models' / MODEL}?runtime=torch")
    made: dict[str, Any] = {"frozen": base}
    costs: dict[str, Any] = {}
    for name in _names(options):
        folder = work / name
        note = work / f"{name}.json"
        if not (folder / "pixdex.json").is_file():
            note.write_bytes(orjson.dumps(_train(name, folder, options)))
        made[name] = encoders.load(f"{folder}?runtime=torch")
        costs[name] = orjson.loads(note.read_bytes())
    for pair in options.weights:
        name, _, file = pair.partition("=")
        made[name], words = from_weights(base, Path(file), work / f"weights-{name.replace(' ', '-')}")
        costs[name] = {"elsewhere": orjson.loads(words.get("report", "{}")).get("runs", [])[-1:]}
    table(
        ("adaptation", "CPU s", "s", "steps"),
        [(n, c["cpu"], c["clock"], c["steps"]) for n, c in costs.items() if "cpu" in c],
    )
    unseen = {}
    for data in DATA:
        test = labelled_part(options.shared, data, "test", quick=options.quick)
        vectors = {name: vectors_of(encoder, test, work / "vectors") for name, encoder in made.items()}
        unseen[data] = found(vectors, test.labels, "frozen")
        print(f"\n{data}, {len(test)} pictures")
        shown(unseen[data])
    return {"unseen": unseen, "costs": costs}


def _names(options: argparse.Namespace) -> list[str]:
    import torch

    names = [*PRETEXTS, *(["gpu"] if torch.cuda.is_available() else [])]
    return [name for name in names if options.only is None or name in options.only]


def _train(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from pixdex.training._loop import Pace
    from pixdex.training.ssl import Adaptation, adapt

    data = labelled_part(options.shared, SET, "train", quick=options.quick)
    reference = f"hf:{options.shared / 'models' / MODEL}?runtime=torch"
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
        lambda: adapt(data.items, folder, encoder=reference, adaptation=adaptation, pace=pace)
    )
    return {"cpu": cpu, "clock": clock} | {
        key: tuned.report[key] for key in ("steps", "history", "adaptation", "pace", "device")
    }


if __name__ == "__main__":
    sys.exit(main())
