"""Fine-tuning against a head against the frozen network, on classes that neither has seen, at equal CPU time.

ViT-Tiny on grocery_store: a head is trained with its defaults; then the whole network, its last three blocks, and LoRA get
as much time as that took, each from the frozen start. On a GPU, where there is one, the whole network gets two minutes.
What was trained elsewhere is measured too, on caltech101 as well: ``--weights NAME=FILE``. MAP@R and R@1 over the test classes (cosine, leave-one-out),
differences with paired bootstrap intervals. Needs the development pictures and weights beside the checkout (``--shared``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from benchmarks import Goal, report, table
from benchmarks._tuning import DATA, cpu_seconds, found, from_weights, labelled_part, shown, vectors_of
from pixdex import encoders

SET = "grocery_store"
MODEL = "vit-tiny-16-224"
WHATS = {"whole network": "all", "last 3 blocks": "blocks:3", "LoRA 8": "lora:8"}
GPU_SECONDS = 120.0
FLOOR = -0.005
"""What the frozen encoder among the candidates is to make sure of: no loss, within what the choice of classes can hide."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps; figures mean nothing")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--work", type=Path, help="keep encoders and vectors here, and go on from what is there")
    parser.add_argument("--only", nargs="*", help="of head, the names of what is tuned, and gpu; default: all")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE", help="trunks trained elsewhere")
    options = parser.parse_args()
    if not options.shared.is_dir():
        print(f"skipped: no pictures in {options.shared}")
        report("finetune", {"skipped": "no pictures"}, {}, as_json=options.json)
        return 0
    with tempfile.TemporaryDirectory() as name:
        results = run(options, options.work or Path(name))
    goals = {
        f"{name} over frozen, lower end": Goal(of["over the baseline"]["map@r"]["low"], FLOOR)
        for name, of in results["unseen"][SET].items()
        if name != "frozen" and not options.quick
    }
    return 0 if report("finetune", results, goals, as_json=options.json) else 1


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    work.mkdir(parents=True, exist_ok=True)
    base: Any = encoders.load(f"hf:{options.shared / 'models' / MODEL}?runtime=torch")
    made: dict[str, Any] = {"frozen": base}
    costs: dict[str, Any] = {}
    for name in _names(options):
        folder = work / name.replace(" ", "-")
        note = work / f"{folder.name}.json"
        if not (folder / "pixdex.json").is_file():
            cost = _train(name, folder, options, work)
            note.write_bytes(orjson.dumps(cost))
        made[name] = encoders.load(f"{folder}?runtime=torch")
        costs[name] = orjson.loads(note.read_bytes()) if note.is_file() else {}
    for pair in options.weights:
        name, _, file = pair.partition("=")
        made[name], words = from_weights(base, Path(file), work / f"weights-{name.replace(' ', '-')}")
        costs[name] = {"elsewhere": orjson.loads(words.get("report", "{}")).get("runs", [])[-1:]}
    table(
        ("training", "CPU s", "s", "steps", "chosen"),
        [(n, c["cpu"], c["clock"], c["steps"], c["chosen"]) for n, c in costs.items() if "cpu" in c],
    )
    elsewhere = {name for name in made if name == "frozen" or name not in _names(options)}
    unseen = {}
    for data in (SET, *(["caltech101"] if len(elsewhere) > 1 else [])):
        test = labelled_part(options.shared, data, "test", quick=options.quick)
        some = {name: encoder for name, encoder in made.items() if data == SET or name in elsewhere}
        vectors = {name: vectors_of(encoder, test, work / "vectors") for name, encoder in some.items()}
        unseen[data] = found(vectors, test.labels, "frozen")
        print(f"\n{data}, {len(test)} pictures of {len(test.names)} unseen classes")
        shown(unseen[data])
    return {"unseen": unseen, "costs": costs}


def _names(options: argparse.Namespace) -> list[str]:
    import torch

    names = ["head", *WHATS, *(["gpu"] if torch.cuda.is_available() else [])]
    return [name for name in names if options.only is None or name in options.only]


def _train(name: str, folder: Path, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    source = options.shared / "data" / SET / "labels.csv"
    reference = f"hf:{options.shared / 'models' / MODEL}?runtime=torch"
    if name == "head":
        return _head(source, reference, folder, options)
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
    tuned, cpu, clock = cpu_seconds(lambda: finetune(data, folder, encoder=reference, recipe=recipe, pace=pace))
    return {"cpu": cpu, "clock": clock, "steps": tuned.report["steps"], "chosen": tuned.report["chosen"]} | {
        key: tuned.report[key] for key in ("candidates", "history", "recipe", "pace", "device")
    }


def _head(source: Path, reference: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from pixdex.training import train_head

    where: str | None = f'{DATA[SET]} == "train"'
    if options.quick:
        data = labelled_part(options.shared, SET, "train", quick=True)
        rows = [f"{item.picture},{data.names[label]}" for item, label in zip(data.items, data.labels, strict=True)]
        source, where = folder.with_suffix(".csv"), None
        source.write_text("\n".join(["path,label", *rows]))
    trained, cpu, clock = cpu_seconds(
        lambda: train_head(source, folder, encoder=reference, where=where, epochs=1 if options.quick else None)
    )
    return {"cpu": cpu, "clock": clock, "steps": 0, "chosen": trained.chosen}


if __name__ == "__main__":
    sys.exit(main())
