"""Fine-tuning against a head against the frozen network, on classes that neither has seen, at equal CPU time.

ViT-Tiny on grocery_store. A head is trained with its defaults, and what that took in all, reading and encoding the pictures
included, is the unit: the whole network, its last three blocks, and LoRA get as much, and the whole network once more four
times that, each from the frozen start and with all that it does (decoding, judging, choosing) within that time. On a GPU, where there is one,
the whole network gets two minutes. CPU time is that of the process and of those that decode for it, so that what else the
machine does matters little; all networks run in torch, in bfloat16 where the processor has it.

What was trained elsewhere is measured too, on caltech101 as well: ``--weights NAME=FILE``. MAP@R and R@1 over the test classes
(cosine, leave-one-out), differences with paired bootstrap intervals. ``--cache FOLDER`` keeps what was trained and encoded, and
the same command goes on there. Needs the development pictures and weights beside the checkout (``--shared``).
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
    anew,
    compared,
    cpu_seconds,
    labelled_part,
    made_by,
    measured,
    names_of,
    options_of,
    quickest,
    reference,
)

RATES = {"all": 1e-4, "blocks:3": 1e-4, "lora:8": 1e-3}
"""The defaults, but for LoRA, whose narrow matrices want ten times as much (Hu et al.: LoRA, ICLR 2022, appendix D)."""
WHOLE = "whole network, 1 x"
RUNS = {
    WHOLE: ("all", 1),
    "last 3 blocks, 1 x": ("blocks:3", 1),
    "LoRA 8, 1 x": ("lora:8", 1),
    "whole network, 4 x": ("all", 4),
}
"""What is trained, and how many times the CPU time of the head it gets."""
GPU_SECONDS = 120.0
FLOOR = -0.005
"""What the frozen encoder among the candidates is to make sure of: no loss, within what the choice of classes can hide."""
EQUAL = 1.1
"""So many times the time that it was to get, a run may take and still be called equal."""


def main() -> int:
    options = options_of(__doc__, "head, the names of what is tuned, and gpu")
    results = measured("finetune", options, run)
    if results is None:
        return 0
    unseen = {} if options.quick else results["unseen"][SET]
    goals = {
        f"{name} over frozen, lower end": Goal(of["over frozen"]["map@r"]["low"], FLOOR)
        for name, of in unseen.items()
        if name != "frozen"
    }
    if {"head", WHOLE} <= unseen.keys():
        goals[f"{WHOLE} over the head, lower end"] = Goal(unseen[WHOLE]["over head"]["map@r"]["low"], 0.0)
    shares = [cost["cpu"] / cost["budget"] for cost in results["costs"].values() if "budget" in cost]
    if shares:
        goals["CPU time of a run over what it was to get, at most"] = Goal(max(shares), EQUAL, at_most=True)
    return 0 if report("finetune", results, goals, as_json=options.json) else 1


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    names = names_of(options, ["head", *RUNS])
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
    if name == "head":
        return _head(options.shared / "data" / SET / "labels.csv", folder, options)
    if name == "gpu":
        from pixdex.training._loop import Pace
        from pixdex.training.finetune import Recipe

        recipe = Recipe(classes_per_batch=33, per_class=6, retrain=True)
        return _tuned(folder, recipe, Pace(seconds=GPU_SECONDS / 2, steps=10**6, patience=8), options)
    what, times = RUNS[name]
    if options.quick:
        return _on_a_processor(what, folder, options, seconds=1.0)
    note = work / "head.json"
    if not note.is_file():
        raise SystemExit("what the head took is the unit of all others: train that first")
    budget = times * float(orjson.loads(note.read_bytes())["cpu"])
    left = budget - _besides(options, work)
    if left <= 0:
        raise SystemExit(f"{name}: decoding and judging alone take longer than the {budget:.0f} s of CPU time for it")
    return {"budget": budget} | _on_a_processor(what, folder, options, seconds=left)


def _besides(options: argparse.Namespace, work: Path) -> float:
    """The CPU seconds of all that is not training: those of a run of one step."""
    note = work / "one-step.json"
    if not note.is_file():
        anew(work / "one-step")
        note.write_bytes(orjson.dumps(_on_a_processor("all", work / "one-step", options, seconds=0.001)))
    return float(orjson.loads(note.read_bytes())["cpu"])


def _on_a_processor(what: str, folder: Path, options: argparse.Namespace, *, seconds: float) -> dict[str, Any]:
    from pixdex.training._loop import Pace
    from pixdex.training.finetune import Recipe

    # Half a batch of the default: steps are few, and more of them are better than larger ones. So are they than mixtures.
    recipe = Recipe(what=what, rate=RATES[what], classes_per_batch=8, per_class=4, mixes=(1.0,))
    pace = Pace(seconds=seconds, cpu_time=True, steps=10**6, device="cpu", rounds=1, average=0.9)
    return _tuned(folder, recipe, pace, options)


def _tuned(folder: Path, recipe: Any, pace: Any, options: argparse.Namespace) -> dict[str, Any]:
    from pixdex.training._loop import Pace
    from pixdex.training.finetune import Recipe, finetune

    data = labelled_part(options.shared, SET, "train", quick=options.quick)
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
        lambda: train_head(
            source,
            folder,
            encoder=reference(options, quickest()),
            where=where,
            epochs=1 if options.quick else None,
            cache=folder.with_suffix(".features"),  # its own: what was encoded before would cost nothing
            progress=False,
        )
    )
    return {"cpu": cpu, "clock": clock, "steps": 0, "chosen": trained.chosen, "parts": dict(trained.seconds)}


if __name__ == "__main__":
    sys.exit(main())
