"""Whether a calibrated reranker makes any search worse, and whether its probabilities are true.

For each set, encoder and reranker, what ``pixdex calibrate`` fits on the training part of the set is judged on the test part:
mAP of the calibrated order over that of the first stage, which may be the order that was chosen; and the expected calibration
error (ECE, 15 parts of equal width) of all pairs of a query and one of its 100 nearest. Of classes 500 queries; intervals by
the paired bootstrap, classes drawn whole; mAP is of the 100 nearest, a match beyond counts as not found. Beside it the ECE of
held-out pairs: of the training part, each fifth of classes or pictures judging what was fitted to the others.

Sets: copies (edits of training pictures ask for what they were made of; judged by the set's own edits, which nothing was
trained or fitted on), groceries and caltech101 (training classes by label, judged by classes that nothing has seen).
Encoders: ViT-Tiny with the projection that comes with its rerankers, mini, and (with ``--cache``) MobileNetV2 with a projection
fitted to training pictures. Needs the development pictures and weights beside the checkout (``--shared``); ``--cache`` keeps
what was encoded and reranked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Goal, report, table
from benchmarks._reranking import Encoded, encoded, rows_of
from pixdex import encoders, rerankers
from pixdex._calibrating import Asking, by_copies, by_label, shortlists
from pixdex.calibrating import Held
from pixdex.collection import Collection
from pixdex.connectors.memory import MemoryConnector
from pixdex.encoders.tokens import fit_projection
from pixdex.errors import FingerprintMismatch
from pixdex.rerankers.calibrated import uncalibrated
from pixdex.rerankers.choosing import Lists, fit
from pixdex.rerankers.learned import graphs_digest, shipped
from pixdex.rerankers.port import Query
from pixdex.spec import Field, Kind, Spec, Vector
from pixdex.types import Batch

COUNT = 100
FITTED, JUDGED = 500, 500
COPIED, BESIDE = 400, 1600
QUICK = 60
WAYS = ("maxsim", "transport", "cross", "cross:classes")
VIT, MOBILE = "vit-tiny-16-224", "mobilenet-v2-backbone"
SPLITS = {"groceries": ("grocery_store", "zero_shot_split"), "caltech101": ("caltech101", "split")}
LEFT_OUT = ("copies", "smoke")
NOT_WORSE, RELIABLE = -0.005, 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps encoded pictures and scores")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="copies by mini, few queries")
    options = parser.parse_args(arguments)
    if not options.shared.is_dir():
        print(f"skipped: no pictures in {options.shared}")
        return 0
    results: dict[str, Any] = {}
    for name, encoder in _encoders(options):
        for set_ in ("copies",) if options.quick else ("copies", *SPLITS):
            for way, row in _rows(options, name, encoder, set_):
                results[f"{set_}, {name}, {way}"] = row
                print(f"{set_}, {name}, {way}: {row['choice']}", file=sys.stderr)
    lines = []
    for name, row in results.items():
        of = row["test"]
        over = of["map"]["difference"]
        first, then = (of["map"][each]["mean"] for each in ("first stage", "calibrated"))
        recall = " > ".join(f"{of['recall@1'][each]:.3f}" for each in ("first stage", "calibrated"))
        lines.append((name, row["choice"], first, then, _range(over), recall, of["ece"], row["train"]["ece"]))
    head = ("", "what orders", "mAP", "calibrated", "over the first stage, 95 %", "R@1", "ECE", "ECE, held out")
    table(head, lines)
    return 0 if report("never_worse", results, goals(results), as_json=options.json) else 1


def goals(results: Mapping[str, Any]) -> dict[str, Goal]:
    """Of every row the lower end of the interval of mAP over the first stage, on the test part; and the ECE on pairs of the
    training part that it was not fitted to. That of the test part, where other classes ask, stands in the table.
    """
    made = {}
    for name, row in results.items():
        made[f"{name}: mAP over the first stage, low"] = Goal(row["test"]["map"]["difference"]["low"], NOT_WORSE)
        made[f"{name}: ECE of held-out pairs"] = Goal(row["train"]["ece"], RELIABLE, at_most=True)
    return made


def _rows(options: Any, name: str, encoder: Any, set_: str) -> Iterator[tuple[str, dict[str, Any]]]:
    learns, asks = _parts(options, encoder, set_)
    for way in WAYS:
        reranker = _reranker(way, encoder)
        if reranker is None:
            continue
        parts = {}
        for part, make in (("train", learns), ("test", asks)):
            file = f"{name}-{set_}-{part}-{way.replace(':', '-')}{'-quick' if options.quick else ''}"
            parts[part] = _kept(options, file, encoder, reranker, make)
        learned = fit(parts["train"])
        yield (
            way,
            {
                "choice": learned.choice.value,
                "calibration": learned.calibration.to_json(),
                "cross-validated": {choice.value: asdict(each) for choice, each in learned.over.items()},
                "train": Held.crossed(parts["train"]).to_json(),
                "test": Held.of(parts["test"], learned.calibration).to_json(),
            },
        )


def _kept(options: Any, name: str, encoder: Any, reranker: Any, make: Callable[[], tuple[Collection, Asking]]) -> Lists:
    """Shortlists, from the cache where they are."""
    key = f"{encoder.token_spec.fingerprint.digest[:12]}-{_digest(reranker)}"
    file = None if options.cache is None else options.cache / f"lists-{name}-{key}.npz"
    if file is not None and file.is_file():
        return Lists(**np.load(file))
    collection, asking = make()
    lists = shortlists(collection, asking, reranker, using="image", candidates=COUNT, count=None)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{each: getattr(lists, each) for each in Lists.__slots__})
    return lists


def _digest(reranker: Any) -> str:
    folder = getattr(reranker, "folder", None)
    return "plain" if folder is None else graphs_digest(folder)[:12]


def _parts(options: Any, encoder: Any, set_: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What makes the collection and the queries of the training part, and those of the test part; each once."""
    if set_ == "copies":
        made = (lambda: _copies_to_learn(options, encoder), lambda: _copies_to_find(options, encoder))
    else:
        folder, column = SPLITS[set_]
        made = (
            lambda: _by_label(options, encoder, rows_of(options.shared, folder, **{column: "train"}), FITTED),
            lambda: _by_label(options, encoder, rows_of(options.shared, folder, **{column: "test"}), JUDGED),
        )
    return _once(made[0]), _once(made[1])


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    held: list[Any] = []

    def once() -> Any:
        if not held:
            held.append(make())
        return held[0]

    return once


def _by_label(options: Any, encoder: Any, rows: Sequence[dict[str, str]], limit: int) -> tuple[Collection, Asking]:
    collection = _collection(encoder, encoded(encoder, rows, options.cache), rows)
    return collection, by_label(collection, "label", using="image", limit=limit, seed=0, tokens=True, count=None)


def _copies_to_learn(options: Any, encoder: Any) -> tuple[Collection, Asking]:
    """Edits of some training pictures, to be found among more of them; nothing that the test's copies were made of."""
    out = {row["source"] for name in LEFT_OUT for row in rows_of(options.shared, name)}
    rows = [
        row
        for folder, column in SPLITS.values()
        for row in rows_of(options.shared, folder, **{column: "train"})
        if str(Path(row["path"]).relative_to(options.shared / "data")) not in out
    ]
    order = np.random.default_rng(11).permutation(len(rows))[: 5 * QUICK if options.quick else COPIED + BESIDE]
    some = [rows[place] for place in order.tolist()]
    asking = QUICK if options.quick else COPIED
    collection = _collection(encoder, encoded(encoder, some, options.cache), some, paths=asking)
    return collection, by_copies(collection, encoder, limit=asking, seed=0, tokens=True, count=None)


def _copies_to_find(options: Any, encoder: Any) -> tuple[Collection, Asking]:
    """The set's own: each original asks for its edits."""
    asks, rows = (rows_of(options.shared, "copies", split=part) for part in ("query", "gallery"))
    queries, gallery = (encoded(encoder, each, options.cache) for each in (asks, rows))
    right: dict[str, set[str]] = {}
    for row, label in enumerate(gallery.labels.tolist()):
        right.setdefault(label, set()).add(str(row))
    asking = Asking(
        queries=[Query(v, t) for v, t in zip(queries.vectors, queries.tokens, strict=True)],
        own=[frozenset()] * len(asks),
        right=[frozenset(right[label]) for label in queries.labels.tolist()],
        groups=np.arange(len(asks)),
    )
    return _collection(encoder, gallery, rows), asking


def _collection(encoder: Any, of: Encoded, rows: Sequence[dict[str, str]], *, paths: int = 0) -> Collection:
    """A collection in memory; the first ``paths`` records say where their picture is."""
    spec = Spec(
        vectors=(Vector(dim=of.vectors.shape[1], fingerprint=encoder.fingerprint),),
        tokens=encoder.token_spec,
        fields=(Field(name="label", kind=Kind.TEXT),),
    )
    collection = Collection.create(MemoryConnector(), "never_worse", spec)
    payloads = [
        {"label": row["label"], **({"path": row["path"]} if place < paths else {})} for place, row in enumerate(rows)
    ]
    collection.upsert(
        Batch(
            ids=[str(place) for place in range(len(rows))],
            vectors={"image": of.vectors},
            payloads=payloads,
            tokens=list(of.tokens),
        )
    )
    return collection


def _reranker(way: str, encoder: Any) -> Any:
    """The one for the encoder's tokens, by its own scores; None where there is none."""
    kind, _, what = way.partition(":")
    if kind == "maxsim":
        return rerankers.load(kind)
    name = f"{what}-{encoder.name}" if what else encoder.name
    if name not in shipped(kind):
        return None
    reranker: Any = rerankers.load(f"{kind}:{name}")
    try:
        reranker.check(encoder.token_spec)
    except FingerprintMismatch as error:
        print(f"{way}: {error}", file=sys.stderr)
        return None
    return uncalibrated(reranker)


def _encoders(options: Any) -> Iterator[tuple[str, Any]]:
    yield "mini", encoders.load("mini")
    if options.quick:
        return
    models = options.shared / "models"
    projection = shipped("cross")[VIT] / "token_projection.safetensors"
    yield "ViT-Tiny", encoders.load(f"hf:{models / VIT}?token_projection={projection}")
    if options.cache is not None and (models / MOBILE).is_dir():
        yield (
            "MobileNetV2",
            encoders.load(f"hf:{models / MOBILE}?token_projection={_projection(options, models / MOBILE)}"),
        )


def _projection(options: Any, model: Path) -> Path:
    """One for 64 values, fitted to training pictures, in the cache."""
    file = options.cache / "mobilenet_projection.safetensors"
    if not file.is_file():
        rows = rows_of(options.shared, "caltech101", split="train")[::16]
        whole: Any = encoders.load(f"hf:{model}")
        cells = [
            whole.trunk.forward(np.stack([whole.prepare(_pixels(row["path"]))])).cells.astype(np.float32)
            for row in rows
        ]
        options.cache.mkdir(parents=True, exist_ok=True)
        fit_projection(np.concatenate(cells), 64).save(file)
    return file


def _pixels(path: str) -> Any:
    from pixdex.encoders.images import decode

    return decode(Path(path).read_bytes()).pixels


def _range(values: Mapping[str, float]) -> str:
    return f"{values['mean']:+.4f} [{values['low']:+.4f}, {values['high']:+.4f}]"


if __name__ == "__main__":
    sys.exit(main())
