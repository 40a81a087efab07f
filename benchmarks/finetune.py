"""Fine-tuning against a head against the frozen network, on classes that neither has seen, at equal CPU time.

ViT-Tiny on grocery_store: a head is trained with its defaults; then the whole network, its last three blocks, and LoRA get
as much time as that took, each from the frozen start. On a GPU, where there is one, the whole network gets two minutes.
What was trained elsewhere is measured too, on caltech101 as well: ``--weights NAME=FILE``. MAP@R and R@1 over the test
classes (cosine, leave-one-out), differences with paired bootstrap intervals. Needs the development pictures and weights beside the checkout (``--shared``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson

from benchmarks import Goal, report, table
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

WHATS = {"whole network": "all", "last 3 blocks": "blocks:3", "LoRA 8": "lora:8"}
GPU_SECONDS = 120.0
FLOOR = -0.005
"""What the frozen encoder among the candidates is to make sure of: no loss, within what the choice of classes can hide."""


def main() -> int:
    options = options_of(__doc__, "head, the names of what is tuned, and gpu")
    results = measured("finetune", options, run)
    if results is None:
        return 0
    goals = {
        f"{name} over frozen, lower end": Goal(of["over the baseline"]["map@r"]["low"], FLOOR)
        for name, of in results["unseen"][SET].items()
        if name != "frozen" and not options.quick
    }
    return 0 if report("finetune", results, goals, as_json=options.json) else 1


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    names = names_of(options, ["head", *WHATS])
    made, costs = made_by(lambda name, folder: _train(name, folder, options, work), names, options, work)
    table(
        ("training", "CPU s", "s", "steps", "chosen"),
        [(n, c["cpu"], c["clock"], c["steps"], c["chosen"]) for n, c in costs.items() if "cpu" in c],
    )
    elsewhere = {name: encoder for name, encoder in made.items() if name not in names}
    unseen = {SET: compared(made, SET, options, work)}
    if len(elsewhere) > 1:  # besides the frozen one
        unseen["caltech101"] = compared(elsewhere, "caltech101", options, work)
    return {"unseen": unseen, "costs": costs}


def _train(name: str, folder: Path, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    source = options.shared / "data" / SET / "labels.csv"
    if name == "head":
        return _head(source, folder, options)
    from pixdex.training._loop import Pace
    from pixdex.training.finetune import Recipe, finetune

    data = labelled_part(options.shared, SET, "train", quick=options.quick)
    if name == "gpu":
        recipe = Recipe(classes_per_batch=33, per_class=6, retrain=True)
        pace = Pace(seconds=GPU_SECONDS / 2, steps=10**6, patience=8)
    else:
        note = work / "head.json"
        # The other half goes to decoding, and to judging the candidates.
        seconds = orjson.loads(note.read_bytes())["cpu"] / 2 if note.is_file() else 60.0
        # Half a batch of the default: steps are few, and more of them are better than larger ones.
        recipe = Recipe(what=WHATS[name], classes_per_batch=8, per_class=4)
        pace = Pace(seconds=seconds, cpu_time=True, steps=10**6, device="cpu", rounds=1, average=0.9)
    if options.quick:
        recipe = Recipe(what=recipe.what, classes_per_batch=2, per_class=2, validation=0.4, mixes=(1.0,))
        pace = Pace(steps=2, rounds=1, device="cpu")
    tuned, cpu, clock = cpu_seconds(
        lambda: finetune(data, folder, encoder=reference(options), recipe=recipe, pace=pace)
    )
    return {"cpu": cpu, "clock": clock, "steps": tuned.report["steps"], "chosen": tuned.report["chosen"]} | {
        key: tuned.report[key] for key in ("candidates", "history", "recipe", "pace", "device")
    }


def _head(source: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from pixdex.training import train_head

    where: str | None = f'{DATA[SET]} == "train"'
    if options.quick:
        data = labelled_part(options.shared, SET, "train", quick=True)
        rows = [f"{item.picture},{data.names[label]}" for item, label in zip(data.items, data.labels, strict=True)]
        source, where = folder.with_suffix(".csv"), None
        source.write_text("\n".join(["path,label", *rows]))
    trained, cpu, clock = cpu_seconds(
        lambda: train_head(source, folder, encoder=reference(options), where=where, epochs=1 if options.quick else None)
    )
    return {"cpu": cpu, "clock": clock, "steps": 0, "chosen": trained.chosen}


if __name__ == "__main__":
    sys.exit(main())
