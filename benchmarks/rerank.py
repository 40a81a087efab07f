"""What rerankers find: edited copies by ViT-Tiny and by mini, and unseen classes of grocery_store.

Needs the development pictures and weights beside the checkout (``--shared``). copies: 100 originals ask for their six edits
among 800 pictures; the first stage is the cosine of whole vectors, the 100 nearest are ordered anew, the whole ranking counts.
Tokens are what an encoder writes with a record: 64 of 64 values as int8, 4 kB a picture; ``full`` are all 196 of ViT-Tiny as
float32, 150 kB. Classes: each picture of unseen classes asks for the others of its class. Nothing here trained or tuned
anything: the options of rerankers over whole vectors are those of their papers, or were chosen on the training classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Goal, report, table
from benchmarks._reranking import Encoded, Searched, encoded, reordered, rows_of, searched
from pixdex import encoders, rerankers
from pixdex.encoders.compose import ComposedEncoder
from pixdex.errors import FingerprintMismatch
from pixdex.evaluation import interval, paired
from pixdex.rerankers.learned import shipped
from pixdex.rerankers.references import for_tokens

COUNT = 100
NEIGHBOURS = ("alpha-qe", "dba", "diffusion", "k-reciprocal")
SHORTLISTS = (100, 300, 1000)
"""Candidates that rerankers over whole vectors see."""
QUICK_QUERIES = 10
VIT = "vit-tiny-16-224"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps encoded pictures")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few queries, no classes")
    options = parser.parse_args(arguments)
    if not options.shared.is_dir():
        print(f"skipped: no pictures in {options.shared}")
        return 0
    results: dict[str, Any] = {}
    model = f"hf:{options.shared / 'models' / VIT}"
    vit = encoders.load(f"{model}?token_projection={shipped('cross')[VIT] / 'token_projection.safetensors'}")
    results["copies, ViT-Tiny"] = copies(options, vit, full=model)
    results["copies, mini"] = copies(options, encoders.load("mini"))
    if not options.quick:
        results["unseen groceries, ViT-Tiny"] = classes(options, vit)
        results["unseen groceries, whole vectors"] = neighbours(options, vit)
    for name, of in results.items():
        print()
        rows = [
            (way, *(v[metric]["mean"] for metric in ("recall@1", "map", "map@r")), _range(v["over the first stage"]))
            for way, v in of.items()
        ]
        over = "MAP@R" if name.endswith("whole vectors") else "mAP"
        table((name, "R@1", "mAP", "MAP@R", f"{over} over the first stage, 95 %"), rows)
    return 0 if report("rerank", results, goals(results), as_json=options.json) else 1


def goals(results: dict[str, Any]) -> dict[str, Goal]:
    vit, mini = results["copies, ViT-Tiny"], results["copies, mini"]
    made = {
        "copies, cross, R@1": Goal(vit["cross"]["recall@1"]["mean"], 0.99),
        "copies, cross, mAP": Goal(vit["cross"]["map"]["mean"], 0.955),
        "copies, maxsim of 4 kB, mAP": Goal(vit["maxsim"]["map"]["mean"], 0.92),
    }
    for way in ("maxsim", "cross", "transport"):
        made[f"copies, mini, {way} over the first stage, mAP, low"] = Goal(
            mini[way]["over the first stage"]["low"], 0.0
        )
    unseen = results.get("unseen groceries, ViT-Tiny")
    if unseen is not None and "cross:classes" in unseen:
        for other in ("the first stage", "maxsim"):
            low = unseen["cross:classes"][f"over {other}"]["low"]
            made[f"groceries, cross of classes over {other}, mAP, low"] = Goal(low, 0.0)
    whole = results.get("unseen groceries, whole vectors", {})
    for way, goal in (("k-reciprocal", 0.68), ("alpha-qe", 0.56), ("dba", 0.68)) if whole else ():
        made[f"groceries, {way} of 1000, MAP@R"] = Goal(whole[f"{way} of 1000"]["map@r"]["mean"], goal)
    return made


def copies(options: Any, encoder: Any, *, full: str | None = None) -> dict[str, Any]:
    """Edits of the same pictures."""
    asks, searched_in = (rows_of(options.shared, "copies", split=part) for part in ("query", "gallery"))
    if options.quick:
        asks = asks[:QUICK_QUERIES]
    queries, gallery = (encoded(encoder, rows, options.cache) for rows in (asks, searched_in))
    first = searched(queries, gallery)
    made = {"first stage": first.figures()}
    if full is not None:
        whole = _whole(encoders.load(full))
        parts = [encoded(whole, rows, options.cache, what="cells") for rows in (asks, searched_in)]
        made["maxsim, full"] = reordered(rerankers.load("maxsim"), *parts, first, COUNT)
    return _over(made | _ways(encoder, queries, gallery, first, ["maxsim", "transport", "cross"]))


def classes(options: Any, encoder: Any) -> dict[str, Any]:
    """Pictures of classes that nothing was trained on."""
    rows = rows_of(options.shared, "grocery_store", zero_shot_split="test")
    every = encoded(encoder, rows, options.cache)
    first = searched(every, every, leave_out=np.arange(len(rows)))
    made = {"first stage": first.figures()}
    return _over(made | _ways(encoder, every, every, first, ["maxsim", "transport", "cross", "cross:classes"]))


def neighbours(options: Any, encoder: Any) -> dict[str, Any]:
    """The same by rerankers over whole vectors, which see more than a hundred."""
    rows = rows_of(options.shared, "grocery_store", zero_shot_split="test")
    every = encoded(encoder, rows, options.cache)
    first = searched(every, every, leave_out=np.arange(len(rows)))
    made = {"first stage": first.figures()}
    for name, count in product(NEIGHBOURS, SHORTLISTS):
        made[f"{name} of {count}"] = reordered(rerankers.load(name), every, every, first, count)
    base = made["first stage"]["map@r"]
    return {
        name: {**_intervals(of), "over the first stage": asdict(paired(of["map@r"], base))} for name, of in made.items()
    }


def _ways(encoder: Any, queries: Encoded, gallery: Encoded, first: Searched, names: Sequence[str]) -> dict[str, Any]:
    made = {}
    for name in names:
        kind, _, what = name.partition(":")
        reference = f"{kind}:{what}-{VIT}" if what else kind
        if what and f"{what}-{VIT}" not in shipped(kind):
            continue
        reranker = rerankers.load(reference)
        try:
            reranker = for_tokens(reranker, encoder.token_spec)
        except FingerprintMismatch as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        made[name] = reordered(reranker, queries, gallery, first, COUNT)
    return made


def _over(made: dict[str, Any]) -> dict[str, Any]:
    """Intervals, and differences from the first stage over the same queries."""
    base, plain = made["first stage"]["map"], made["maxsim"]["map"]
    return {
        name: {
            **_intervals(of),
            "over the first stage": asdict(paired(of["map"], base)),
            "over maxsim": asdict(paired(of["map"], plain)),
        }
        for name, of in made.items()
    }


def _intervals(of: dict[str, Any]) -> dict[str, Any]:
    return {metric: asdict(interval(values)) for metric, values in of.items()}


def _whole(encoder: ComposedEncoder) -> Any:
    """The encoder with all its tokens, as they come from the network."""

    class Whole:
        fingerprint, token_spec, min_side = encoder.fingerprint, encoder.token_spec, encoder.min_side
        prepare = staticmethod(encoder.prepare)

        @staticmethod
        def encode(pictures: Any, *, tokens: bool) -> Any:
            activations = encoder.trunk.forward(np.stack(pictures))
            features = encoder.encode(pictures, tokens=False)
            return replace(features, tokens=tuple(activations.cells)) if tokens else features

    return Whole()


def _range(values: dict[str, float]) -> str:
    return f"{values['mean']:+.4f} [{values['low']:+.4f}, {values['high']:+.4f}]"


if __name__ == "__main__":
    sys.exit(main())
