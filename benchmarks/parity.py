"""The same answers from every store: random filtered queries on 5,000 records, compared with ``memory``, the oracle.

The records have the fields of the grocery_store pictures (its real labels where the development data lies beside the
checkout, ``--shared``) and a tag list, a price, a time and a place, so that every operator of the filter language is
asked for; vectors are random unit vectors of 64 dimensions under cosine. Equal scores at the last place may stand for
each other. ``--url`` adds a server; a collection is made there and dropped again.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

import pixdex
from benchmarks import Goal, report, table
from pixdex.errors import MissingDependency
from pixdex.filters import F, Filter
from pixdex.spec import Field, Fingerprint, Kind, Spec, Vector
from pixdex.types import Batch, Hit

RECORDS, QUERIES, QUICK_RECORDS, QUICK_QUERIES = 5_000, 1_000, 500, 200
K, DIM = 10, 64
TOLERANCE = 1e-5
"""How far scores of unit vectors may differ: the law of scores, scaled by max(1, |score|), which is 1."""

SPEC = Spec(
    vectors=(Vector(dim=DIM, fingerprint=Fingerprint(encoder="random", digest="5eed5eed")),),
    fields=(
        Field(name="label", kind=Kind.TEXT),
        Field(name="coarse_label", kind=Kind.TEXT),
        Field(name="department", kind=Kind.TEXT),
        Field(name="label_id", kind=Kind.INT),
        Field(name="width", kind=Kind.INT),
        Field(name="price", kind=Kind.FLOAT),
        Field(name="organic", kind=Kind.BOOL),
        Field(name="tags", kind=Kind.TEXT, many=True),
        Field(name="taken", kind=Kind.TIME),
        Field(name="shop", kind=Kind.GEO),
        Field(name="stops", kind=Kind.GEO, many=True),
    ),
)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
TAGS = ("bio", "regional", "offer", "new", 'box "L"', "it's", "a\\b", "Obst & Gemüse")
LOCAL = {
    "pq": "pq://{folder}/parity.pix",
    "qdrant+local": "qdrant+local://{folder}/local",
    "qdrant+edge": "qdrant+edge://{folder}/edge",
    "milvus+lite": "milvus+lite://{folder}/lite",
}


def labelled(shared: Path, count: int) -> list[dict[str, Any]]:
    """Rows of grocery_store, repeated to ``count``; rows of that shape where the data is absent."""
    file = shared / "data" / "grocery_store" / "labels.csv"
    if file.exists():
        with file.open(newline="", encoding="utf-8") as lines:
            rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    else:
        rows = [
            {"label": f"Fine-{i % 81}", "label_id": i % 81, "coarse_label": f"Coarse {i % 43}", "width": 150 + i % 150}
            | {"department": ("Fruit", "Packages", "Vegetables")[i % 3]}
            for i in range(count)
        ]
    return [rows[i % len(rows)] for i in range(count)]


def place(rng: np.random.Generator) -> tuple[float, float]:
    """Somewhere in Sweden."""
    return round(float(rng.uniform(55, 69)), 4), round(float(rng.uniform(11, 24)), 4)


def made(shared: Path, count: int) -> Batch:
    """The records: fixed by their number alone."""
    rng = np.random.default_rng(0)
    payloads = []
    for row in labelled(shared, count):
        payload: dict[str, Any] = {name: row[name] for name in ("label", "coarse_label", "department")}
        payload |= {"label_id": int(row["label_id"]), "width": int(row["width"])}
        drawn = {
            "price": round(float(rng.uniform(0.2, 9.9)), 2),
            "organic": bool(rng.integers(2)),
            "tags": [TAGS[i] for i in rng.choice(len(TAGS), rng.integers(0, 4), replace=False)],
            "taken": NOON + timedelta(microseconds=int(rng.integers(0, 365 * 86_400 * 10**6))),
            "shop": place(rng),
            "stops": [place(rng) for _ in range(rng.integers(0, 3))],
        }
        payloads.append(payload | {name: value for name, value in drawn.items() if rng.random() > 0.1})
    matrix = rng.standard_normal((count, DIM)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return Batch(tuple(f"grocery/{i:05}.jpg" for i in range(count)), {"image": matrix}, tuple(payloads))


def leaf(rng: np.random.Generator, payload: Any) -> Filter:
    """A condition near the values of a record, so that something matches; one operator after another."""
    shop = payload.get("shop", (60.0, 18.0))
    price, taken, tags = payload.get("price", 3.5), payload.get("taken", NOON), payload.get("tags") or ["offer"]
    makers: Sequence[Callable[[], Filter]] = (
        lambda: F.label == payload["label"],
        lambda: F.department != payload["department"],
        lambda: F.coarse_label.is_in([payload["coarse_label"], "Milk", "Pepper"]),
        lambda: F.label_id.not_in([payload["label_id"], 3, 5]),
        lambda: F.price <= price,
        lambda: (F.price > price - 1) & (F.price < price + 1),
        lambda: F.width >= payload["width"],
        lambda: F.organic == bool(payload.get("organic")),
        lambda: F.tags.contains(tags[0]),
        lambda: ~F.tags.contains(tags[0]),
        lambda: F.tags.contains_all(tags[:2]),
        lambda: F.taken >= taken,
        lambda: (F.taken >= taken - timedelta(days=30)) & (F.taken <= taken),
        lambda: F.shop.within(*shop, float(rng.uniform(20, 400))),
        lambda: F.shop.within_box(shop[0] - 1, shop[1] - 1, shop[0] + 1, shop[1] + 2),
        lambda: F.stops.within(*shop, 300) & (F.width > 0),
        lambda: ~F.stops.within_box(shop[0] - 2, shop[1] - 2, shop[0] + 2, shop[1] + 2),
        lambda: F.price.exists() & (F.width > 0),
        lambda: ~F.shop.exists(),
        lambda: F.ids([f"grocery/{i:05}.jpg" for i in rng.choice(QUICK_RECORDS, 20, replace=False)]),
    )
    return makers[rng.integers(len(makers))]()


def drawn_filter(rng: np.random.Generator, batch: Batch) -> Filter:
    """One to three conditions, joined by and, or, not."""
    payloads = batch.payloads or ()
    where = leaf(rng, payloads[rng.integers(len(batch))])
    for _ in range(rng.integers(3)):
        other = leaf(rng, payloads[rng.integers(len(batch))])
        where = (where & other, where | other, where & ~other)[rng.integers(3)]
    return where


def mismatch(hits: Sequence[Hit], truth: Sequence[Hit]) -> bool:
    """Whether other records were found; ``truth`` has one more than asked for, to see ties at the last place."""
    best = truth[: len(hits)]
    if len(hits) != min(K, len(truth)):
        return True
    wrong = {h.id for h in best} ^ {h.id for h in hits}
    if not wrong:
        return False
    scores = {h.id: h.score for h in truth}
    return any(r not in scores or abs(scores[r] - best[-1].score) > TOLERANCE for r in wrong)


def compare(url: str, batch: Batch, asked: Sequence[tuple[Any, Filter]], truth: Sequence[Sequence[Hit]]) -> Any:
    """Fill a new collection there, ask, compare, drop it."""
    connector, _ = pixdex.connect(url)
    name = f"parity{uuid4().hex[:8]}"
    started = time.perf_counter()
    try:
        collection = pixdex.Collection.create(connector, name, SPEC)
        try:
            collection.upsert(batch)
            collection.flush()
            written = time.perf_counter()
            mismatches, counts, worst, example = 0, 0, 0.0, ""
            for (query, where), expected in zip(asked, truth, strict=True):
                hits = collection.search_one(query, k=K, where=where)
                scores = {hit.id: hit.score for hit in expected}
                if mismatch(hits, expected):
                    mismatches += 1
                    example = example or str(where)
                worst = max([worst, *(abs(hit.score - scores[hit.id]) for hit in hits if hit.id in scores)])
                counts += len(hits)
            ended = time.perf_counter()
        finally:
            collection.drop()
    finally:
        connector.close()
    found = {"id_mismatches": mismatches, "max_score_diff": worst, "hits": counts}
    return (
        found
        | {"write_s": round(written - started, 1), "query_s": round(ended - written, 1)}
        | ({"example": example} if example else {})
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--url", action="append", default=[], help="a server to compare besides; may be repeated")
    parser.add_argument("--store", action="append", choices=LOCAL, help="only these local stores; may be repeated")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared", help=argparse.SUPPRESS)
    options = parser.parse_args()
    records, queries = (QUICK_RECORDS, QUICK_QUERIES) if options.quick else (RECORDS, QUERIES)
    batch, rng = made(options.shared, records), np.random.default_rng(1)
    asked = [(rng.standard_normal(DIM).astype(np.float32), drawn_filter(rng, batch)) for _ in range(queries)]
    connector, _ = pixdex.connect("memory://")
    oracle = pixdex.Collection.create(connector, "oracle", SPEC)
    oracle.upsert(batch)
    truth = [oracle.search_one(query, k=K + 10, where=where) for query, where in asked]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pixdex-") as folder:
        urls = {name: url.format(folder=folder) for name, url in LOCAL.items() if name in (options.store or LOCAL)}
        for name, url in {**urls, **{url: url for url in options.url}}.items():
            try:
                results[name] = compare(url, batch, asked, truth)
            except MissingDependency as error:
                print(f"{name} is left out: {error}")
    rows = [(n, r["id_mismatches"], r["max_score_diff"], r["write_s"], r["query_s"]) for n, r in results.items()]
    table(("store", "id mismatches", "max score diff", "write s", "query s"), rows)
    for name, found in results.items():
        if "example" in found:
            print(f"{name} differs on: {found['example']}")
    goals: dict[str, Goal] = {}
    for name, found in results.items():
        goals[f"id_mismatches {name}"] = Goal(found["id_mismatches"], 0, at_most=True)
        goals[f"max_score_diff {name}"] = Goal(found["max_score_diff"], TOLERANCE, at_most=True)
    settings = {"records": records, "queries": queries, "k": K, "dim": DIM}
    met = report("parity", settings | results, goals, as_json=options.json)
    return 0 if met and len(results) == len(urls) + len(options.url) else 1


if __name__ == "__main__":
    sys.exit(main())
