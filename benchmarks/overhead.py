"""What pixdex adds to a call: microseconds over the raw client that does the same work, by the wall clock.

A search (k = 10, with payloads) and an upsert of 500 records, through ``pixdex.Collection`` and by hand with the client
library: the same request on the same open client, the same columns and JSON, and the answer made into (id, score,
payload). Both sides alternate, A B B A; each figure is the median of the paired differences with a bootstrap 95 %
interval. What is compared with the client is the request that the connector itself sends, recorded once.
"""
# ruff: noqa: SLF001 - both sides need the connector's own client: two of them would not share a directory

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import orjson

import pixdex
from benchmarks import Goal, report, table
from pixdex.connectors._qdrant_filters import split
from pixdex.errors import MissingDependency
from pixdex.spec import Field, Fingerprint, Kind, Spec, Vector
from pixdex.types import Batch

K, DIM, BATCH = 10, 128, 500
SEARCHES, UPSERTS, QUICK_SEARCHES, QUICK_UPSERTS = 1_000, 32, 200, 4
MOST_US, MOST_PERCENT = 60.0, 5.0
SPEC = Spec(
    vectors=(Vector(dim=DIM, fingerprint=Fingerprint(encoder="random", digest="5eed5eed")),),
    fields=(
        Field(name="label", kind=Kind.TEXT),
        Field(name="width", kind=Kind.INT),
        Field(name="price", kind=Kind.FLOAT),
    ),
)
LOCAL = {
    "qdrant+local": "qdrant+local://{folder}/local",
    "qdrant+edge": "qdrant+edge://{folder}/edge?optimize=0",
    "milvus+lite": "milvus+lite://{folder}/lite",
}
GOAL_FOR_UPSERT = ("milvus",)
"""Schemes, by their beginning, whose upsert has a goal."""

Verb = Callable[[Any], Any]


def records(number: int) -> Batch:
    """The ``number``-th batch; every number another 500 ids."""
    rng = np.random.default_rng(number)
    matrix = rng.standard_normal((BATCH, DIM)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    ids = tuple(f"pictures/{number}/{i:04}.jpg" for i in range(BATCH))
    payloads = tuple(
        {"label": f"class {i % 81}", "width": 100 + i, "price": i / 4, "path": f"/home/a/{i}.jpg"} for i in range(BATCH)
    )
    return Batch(ids, {"image": matrix}, payloads)


def sent(client: Any, verb: str, action: Callable[[], object]) -> dict[str, Any]:
    """The keywords with which the connector calls ``client.verb`` while ``action`` runs."""
    seen: list[dict[str, Any]] = []
    original = getattr(client, verb)

    def spy(*arguments: Any, **keywords: Any) -> Any:
        seen.append(keywords | {"": arguments})
        return original(*arguments, **keywords)

    setattr(client, verb, spy)
    try:
        action()
    finally:
        delattr(client, verb)
    return seen[-1]


COLUMNS = [(field.column, field.name) for field in SPEC.columns]


def columns(payload: Any) -> list[tuple[str, Any]]:
    """The physical names of fields, and their values."""
    return [(column, payload[name]) for column, name in COLUMNS]


def with_revs(batch: Batch) -> list[dict[str, Any]]:
    """Payloads as they are stored: with a revision each."""
    first = time.time_ns() // 1000
    return [{**payload, "_rev": first + i} for i, payload in enumerate(batch.payloads or ())]


# --- the raw sides ---


def raw_milvus(client: Any, collection: Any) -> tuple[Verb, Verb]:
    """By hand with pymilvus."""
    name, image = collection.name, SPEC.vectors[0].column
    asked = sent(client, "search", lambda: collection.search(records(0).vectors["image"][:1], k=K))
    written = sent(client, "upsert", lambda: collection.upsert(records(0)))
    template = written.pop("")[1][0]
    options = {key: value for key, value in asked.items() if key not in ("", "data")}
    flags = {key: value for key, value in template.items() if value is True}
    most = collection.capabilities.max_batch

    def search(query: Any) -> Any:
        answer = client.search(name, data=[query], **options)[0]
        return [(hit["id"], hit["distance"], orjson.loads(hit["entity"]["payload"])) for hit in answer]

    def upsert(batch: Batch) -> None:
        rows = []
        for record, payload, vector in zip(batch.ids, with_revs(batch), batch.vectors["image"], strict=True):
            row = {"id": record, "payload": orjson.dumps(payload).decode(), image: vector, **flags}
            row.update(columns(payload))
            rows.append(row)
        assert rows[0].keys() == template.keys(), "the connector writes other columns by now"
        for start in range(0, len(rows), most):  # as the connector does
            client.upsert(name, rows[start : start + most], **written)

    return search, upsert


def qdrant_payload(record: str, payload: Any) -> dict[str, Any]:
    """What a point stores: see ``_qdrant_points``."""
    stored = {"_id": record, "payload": orjson.dumps(payload).decode(), **dict(columns(payload))}
    price = next(field.column for field in SPEC.fields if field.name == "price")
    high, low = split(payload["price"])
    return stored | {price: {"high": high, "low": low}}


def raw_qdrant(client: Any, collection: Any) -> tuple[Verb, Verb]:
    """By hand with qdrant-client."""
    from qdrant_client import models

    from pixdex.connectors._qdrant_ids import point_id

    name, image = collection.name, SPEC.vectors[0].column
    asked = sent(client, "query_points", lambda: collection.search(records(0).vectors["image"][:1], k=K))
    written = sent(client, "upsert", lambda: collection.upsert(records(0)))
    written.pop("")
    options = {key: value for key, value in asked.items() if key not in ("", "query")}
    most = collection.capabilities.max_batch

    def search(query: Any) -> Any:
        answer = client.query_points(name, query=query.tolist(), **options)
        return [(p.payload["_id"], p.score, orjson.loads(p.payload["payload"])) for p in answer.points]

    def upsert(batch: Batch) -> None:
        rows = zip(batch.ids, with_revs(batch), batch.vectors["image"].tolist(), strict=True)
        points = [
            models.PointStruct.model_construct(  # as the connector does: validation costs more than the rest
                id=point_id(record),
                vector={image: vector},
                payload=qdrant_payload(record, payload),
            )
            for record, payload, vector in rows
        ]
        for start in range(0, len(points), most):  # as the connector does
            client.upsert(name, points[start : start + most], **written)

    return search, upsert


def raw_edge(shard: Any) -> tuple[Verb, Verb]:
    """By hand with qdrant-edge-py."""
    import qdrant_edge as edge

    from pixdex.connectors._qdrant_edge_models import search_params
    from pixdex.connectors._qdrant_ids import point_id
    from pixdex.types import Tuning

    image, params = SPEC.vectors[0].column, search_params(Tuning(), K)

    def search(query: Any) -> Any:
        nearest = edge.Query.Nearest(query.tolist(), using=image)
        asked = edge.QueryRequest(
            limit=K, query=nearest, with_vector=False, with_payload=["_id", "payload"], filter=None, params=params
        )
        (found,) = shard.query_batch(edge.QueryBatchRequest([asked]))
        answer = [(point.payload, point.score) for point in found]
        return [(stored["_id"], score, orjson.loads(stored["payload"])) for stored, score in answer]

    def upsert(batch: Batch) -> None:
        rows = zip(batch.ids, with_revs(batch), batch.vectors["image"].tolist(), strict=True)
        points = [
            edge.Point(
                id=point_id(record),
                vector={image: vector},
                payload=qdrant_payload(record, payload),
            )
            for record, payload, vector in rows
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))

    return search, upsert


def raw_sides(collection: Any) -> tuple[Verb, Verb]:
    """Search and upsert by hand, on the client that the connector has open."""
    opened = collection.connector._share.lease().resource
    scheme = collection.connector.scheme
    if scheme == "qdrant+edge":
        return raw_edge(opened.shard(collection.name))
    return (raw_milvus if scheme.startswith("milvus") else raw_qdrant)(opened.client, collection)


# --- measuring ---


def timed(verb: Verb, argument: Any) -> float:
    """Microseconds of one call."""
    started = time.perf_counter()
    verb(argument)
    return (time.perf_counter() - started) * 1e6


def paired(ours: Verb, raw: Verb, make: Callable[[int], Any], pairs: int) -> dict[str, Any]:
    """Both verbs on ``pairs`` arguments in turn: ours first on even ones, the raw side first on odd ones."""
    times = np.empty((pairs, 2))
    gc.collect()
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            argument = make(2 * pair + side)
            times[pair, side] = timed((ours, raw)[side], argument)
    difference = times[:, 0] - times[:, 1]
    resampled = np.random.default_rng(0).choice(difference, (2000, pairs))
    low, high = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    added, alone = float(np.median(difference)), float(np.median(times[:, 1]))
    return {
        "added_us": round(added, 1),
        "added_us_low": round(float(low), 1),
        "added_us_high": round(float(high), 1),
        "raw_us": round(alone, 1),
        "percent": round(100 * added / alone, 2),
    }


def measure(url: str, searches: int, upserts: int) -> dict[str, Any]:
    """Search in 2,000 records; write batches of new records, turn about into two collections of the same Spec."""
    connector, _ = pixdex.connect(url)
    name = f"overhead{uuid4().hex[:8]}"
    try:
        collection = pixdex.Collection.create(connector, name, SPEC)
        other = pixdex.Collection.create(connector, name + "b", SPEC)
        try:
            for number in range(4):
                collection.upsert(records(number))
            search, _ = raw_sides(collection)
            _, upsert = raw_sides(other)
            collection.flush()
            queries = np.concatenate([records(100 + i).vectors["image"] for i in range(4)])
            asked = lambda i: queries[i // 2 % len(queries)]  # noqa: E731 - both sides of a pair ask the same
            ours = lambda query: collection.search_one(query, k=K)  # noqa: E731
            _same(ours(queries[0]), search(queries[0]))
            for warm in range(20):
                ours(queries[warm])
                search(queries[warm])
            found = {"search": paired(ours, search, asked, searches)}
            batches = [records(1000 + i) for i in range(upserts)]
            return found | {"upsert": paired(collection.upsert, upsert, lambda i: batches[i // 2], upserts)}
        finally:
            collection.drop()
            other.drop()
    finally:
        connector.close()


def _same(hits: Any, raw: Any) -> None:
    """Both sides answer the same, or the comparison would be none."""
    by_hand = {record: {k: v for k, v in payload.items() if k != "_rev"} for record, _, payload in raw}
    assert {hit.id: dict(hit.payload) for hit in hits} == by_hand, "the raw side answers something else"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--url", action="append", default=[], help="a server to measure besides; may be repeated")
    parser.add_argument("--store", action="append", choices=LOCAL, help="only these local stores; may be repeated")
    options = parser.parse_args()
    searches, upserts = (QUICK_SEARCHES, QUICK_UPSERTS) if options.quick else (SEARCHES, UPSERTS)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pixdex-") as folder:
        urls = {name: url.format(folder=folder) for name, url in LOCAL.items() if name in (options.store or LOCAL)}
        for name, url in {**urls, **{url: url for url in options.url}}.items():
            try:
                results[name] = measure(url, searches, upserts)
            except MissingDependency as error:
                print(f"{name} is left out: {error}")
    rows = [(n, verb, *found.values()) for n, verbs in results.items() for verb, found in verbs.items()]
    table(("store", "verb", "added us", "95 % from", "to", "raw us", "added %"), rows)
    goals: dict[str, Goal] = {}
    for name, verbs in results.items():
        goals[f"added_us search {name}"] = Goal(verbs["search"]["added_us"], MOST_US, at_most=True)
        if name.startswith(GOAL_FOR_UPSERT):
            goals[f"added_percent upsert {name}"] = Goal(verbs["upsert"]["percent"], MOST_PERCENT, at_most=True)
    settings = {"k": K, "dim": DIM, "batch": BATCH, "searches": searches, "upserts": upserts, "clock": "perf_counter"}
    met = report("overhead", settings | results, goals, as_json=options.json)
    return 0 if met and len(results) == len(urls) + len(options.url) else 1


if __name__ == "__main__":
    sys.exit(main())
