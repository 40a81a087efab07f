"""What ``benchmarks.swap`` moves, and the same by each store's own client: how fast its rawest reading and writing is.

Run as a module it measures one of them, or a reader of one store beside a writer of another, in a process of its own, and
prints a JSON line: records a second, and the most memory that the process had.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import orjson

from pixdex.spec import Field, Fingerprint, Kind, Spec, TokenSpec, Vector
from pixdex.types import Batch

__all__ = ["DIM", "SPEC", "batches", "peak_mb", "records"]

DIM = 384
_TOKENS, _WIDTH = 16, 32
_PAGE = 1000
_MADE = Fingerprint(encoder="synthetic", digest="5a" * 16)
SPEC = Spec(
    vectors=(Vector(dim=DIM, fingerprint=_MADE),),
    fields=(
        Field(name="product", kind=Kind.TEXT),
        Field(name="category", kind=Kind.TEXT),
        Field(name="price", kind=Kind.FLOAT),
        Field(name="stock", kind=Kind.INT),
        Field(name="organic", kind=Kind.BOOL),
        Field(name="added", kind=Kind.TIME),
        Field(name="tags", kind=Kind.TEXT, many=True),
    ),
    tokens=TokenSpec(count=_TOKENS, dim=_WIDTH, dtype="int8", fingerprint=_MADE),
    encoder="synthetic:384",
)
_KINDS = ("milk", "apple", "bread", "tomato", "yoghurt", "cereal", "coffee", "pepper")
_DAY = datetime(2024, 1, 1, tzinfo=UTC)


def records(count: int, start: int) -> Batch:
    """So many records of a shop, from that number on."""
    rng = np.random.default_rng(start)
    numbers = range(start, start + count)
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tokens = rng.integers(-127, 128, (count, _TOKENS, _WIDTH)).astype(np.int8)
    return Batch(
        tuple(f"shelf/{n % 97:02}/{n:07}.jpg" for n in numbers),
        {"image": vectors},
        tuple(map(_payload, numbers)),
        tuple(tokens),
    )


def _payload(n: int) -> dict[str, Any]:
    kind = _KINDS[n % len(_KINDS)]
    payload: dict[str, Any] = {
        "product": f"{kind} no. {n % 1013}",
        "category": kind,
        "stock": n % 211,
        "organic": n % 3 == 0,
        "added": _DAY + timedelta(minutes=n),
        "tags": ["fresh", "local", "sale"][: n % 4],
        "path": f"/data/shelf/{n % 97:02}/{n:07}.jpg",
        "content": f"{n * 2654435761 % 2**32:032x}",
        "origin": {"farm": n % 59, "note": "washed"},
    }
    return payload if n % 10 == 0 else {**payload, "price": round(0.4 + n % 997 / 100, 2)}


def batches(count: int) -> Iterator[Batch]:
    """All of them, a page at a time."""
    for start in range(0, count, _PAGE):
        yield records(min(_PAGE, count - start), start)


class _Watch(threading.Thread):
    """The most memory of its own that this process had, looked at twenty times a second: what is mapped from files, as the
    stores map theirs, the system takes back when it needs it.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(0.05)

    def look(self) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        now = next(float(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024
        self.most = max(self.most, now)
        return self.most


_WATCH = _Watch()


def peak_mb() -> float:
    """The most memory that this process has had so far, in MB, from the first call on."""
    if not _WATCH.is_alive():
        _WATCH.start()
    return _WATCH.look()


# --- raw ---------------------------------------------------------------------------------------------------------------


def _plain(batch: Batch) -> list[dict[str, Any]]:
    """Payloads as a client takes them, tokens as text."""
    import base64

    return [
        {**payload, "added": payload["added"].isoformat(), "tokens": base64.b64encode(matrix.tobytes()).decode()}
        for payload, matrix in zip(batch.payloads or (), batch.tokens or (), strict=True)
    ]


class _Edge:
    """qdrant-edge-py: one shard."""

    def __init__(self, place: Path, *, make: bool) -> None:
        import qdrant_edge as edge

        self._edge = edge
        if make:
            place.mkdir(parents=True)
            config = edge.EdgeConfig(vectors={"image": edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Cosine)})
            self._shard = edge.EdgeShard.create(str(place), config)
            for name, kind in (
                ("product", edge.PayloadSchemaType.Keyword),
                ("category", edge.PayloadSchemaType.Keyword),
                ("price", edge.PayloadSchemaType.Float),
                ("stock", edge.PayloadSchemaType.Integer),
                ("organic", edge.PayloadSchemaType.Bool),
                ("added", edge.PayloadSchemaType.Datetime),
                ("tags", edge.PayloadSchemaType.Keyword),
            ):
                self._shard.update(edge.UpdateOperation.create_field_index(name, kind))
        else:
            self._shard = edge.EdgeShard.load(str(place))

    def write(self, batch: Batch, number: int) -> None:
        del number
        edge = self._edge
        points = [
            edge.Point(
                str(uuid5(NAMESPACE_URL, record)), {"image": vector}, {**payload, "id": record}
            )  # ids are UUIDs there
            for record, vector, payload in zip(batch.ids, batch.vectors["image"].tolist(), _plain(batch), strict=True)
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))

    def read(self) -> Iterator[int]:
        after: Any = None
        while True:
            asked = self._edge.ScrollRequest(offset=after, limit=_PAGE, with_payload=True, with_vector=True)
            found, after = self._shard.scroll(asked)
            yield len([(point.id, point.vector, point.payload) for point in found])
            if after is None:
                return

    def close(self) -> None:
        self._shard.close()


class _Milvus:
    """pymilvus, with Lite or a server."""

    def __init__(self, place: str, *, make: bool) -> None:
        from pymilvus import DataType, MilvusClient

        self._client = MilvusClient(place)
        if make:
            if self._client.has_collection("raw"):
                self._client.drop_collection("raw")
            made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            made.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
            for name, kind, more in (
                ("product", DataType.VARCHAR, {"max_length": 8192}),
                ("category", DataType.VARCHAR, {"max_length": 8192}),
                ("price", DataType.DOUBLE, {}),
                ("stock", DataType.INT64, {}),
                ("organic", DataType.BOOL, {}),
                ("added", DataType.INT64, {}),
                ("tags", DataType.ARRAY, {"element_type": DataType.VARCHAR, "max_capacity": 64, "max_length": 8192}),
                ("payload", DataType.VARCHAR, {"max_length": 65535}),
                ("tokens", DataType.VARCHAR, {"max_length": 65535}),
            ):
                made.add_field(name, kind, **more)
            made.add_field("image", DataType.FLOAT_VECTOR, dim=DIM)
            index = self._client.prepare_index_params()
            index.add_index("image", index_type="FLAT", metric_type="COSINE")
            self._client.create_collection("raw", schema=made, index_params=index)
        self._client.load_collection("raw")

    def write(self, batch: Batch, number: int) -> None:
        del number
        rows = [
            {
                "id": record,
                "product": payload["product"],
                "category": payload["category"],
                "price": payload.get("price", 0.0),
                "stock": payload["stock"],
                "organic": payload["organic"],
                "added": int(datetime.fromisoformat(payload["added"]).timestamp() * 1e6),
                "tags": payload["tags"],
                "tokens": payload.pop("tokens"),
                "payload": orjson.dumps(payload).decode(),
                "image": vector,
            }
            for record, payload, vector in zip(batch.ids, _plain(batch), batch.vectors["image"], strict=True)
        ]
        self._client.upsert("raw", rows)

    def read(self) -> Iterator[int]:
        asked = self._client.query_iterator("raw", batch_size=_PAGE, output_fields=["id", "payload", "tokens", "image"])
        while True:
            found = asked.next()
            if not found:
                asked.close()
                return
            yield len([(row["id"], orjson.loads(row["payload"]), row["tokens"], row["image"]) for row in found])

    def flush(self) -> None:
        """What a copy ends with: Lite writes files for it, in this process."""
        self._client.flush("raw")

    def count(self) -> None:
        """What a copy asks besides, to compare: Lite takes as much memory for it, in this process, as what matches has."""
        self._client.query("raw", filter="stock >= 0", output_fields=["count(*)"])

    def close(self) -> None:
        self._client.close()


class _Parquet:
    """pyarrow: one file."""

    def __init__(self, place: Path, *, make: bool) -> None:
        self._place = place
        self._make = make
        self._writer: Any = None

    def write(self, batch: Batch, number: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        del number
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors["image"].reshape(-1)), DIM)
        payloads = batch.payloads or ()
        columns = {name: [payload.get(name) for payload in payloads] for name in (f.name for f in SPEC.fields)}
        columns |= {"id": list(batch.ids), "payload": [orjson.dumps(payload).decode() for payload in payloads]}
        table = pa.table({**columns, "tokens": [matrix.tobytes() for matrix in batch.tokens or ()], "vector": vectors})
        self._writer = self._writer or pq.ParquetWriter(self._place, table.schema, compression="zstd")
        self._writer.write_table(table)

    def read(self) -> Iterator[int]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._place) as file:
            for rows in file.iter_batches(batch_size=_PAGE, columns=["id", "payload", "tokens", "vector"]):
                matrix = rows.column("vector").flatten().to_numpy()
                payloads = [orjson.loads(text) for text in rows.column("payload").to_pylist()]
                yield len(payloads) if len(matrix) and rows.column("tokens").to_pylist() else 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Pq:
    """The embedded store has no client but its connector: the port's verbs, with records made ready beforehand."""

    def __init__(self, place: Path, *, make: bool) -> None:
        from pixdex.connectors.pq import PqConnector

        self._store = PqConnector(place)
        if make:
            self._store.create("raw", SPEC, timeout=None)

    def write(self, batch: Batch, number: int) -> None:
        column = SPEC.vectors[0].column
        payloads = tuple(
            {**p, "added": p["added"].isoformat(timespec="microseconds"), "_rev": number + row}
            for row, p in enumerate(batch.payloads or ())
        )
        ready = Batch(batch.ids, {column: batch.vectors["image"]}, payloads, batch.tokens)
        self._store.upsert("raw", ready, timeout=None)

    def read(self) -> Iterator[int]:
        from pixdex.types import Scan, Want

        after = None
        want = Want(vectors=(SPEC.vectors[0].column,), tokens=True)
        while True:
            page = self._store.scan("raw", Scan(size=_PAGE, after=after, want=want), timeout=None)
            yield len(page.batch)
            after = page.after
            if after is None:
                return

    def close(self) -> None:
        self._store.close()


RAW: dict[str, Callable[..., Any]] = {
    "pq": lambda place, make: _Pq(Path(place), make=make),
    "edge": lambda place, make: _Edge(Path(place), make=make),
    "lite": lambda place, make: _Milvus(place, make=make),
    "server": lambda place, make: _Milvus(place.replace("milvus://", "http://"), make=make),
    "parquet": lambda place, make: _Parquet(Path(place), make=make),
}


def main() -> None:
    """Measure one store: write, or read what was written; both at once, of two; or copy by pixdex, perhaps until a kill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["write", "read", "copy", "fill", "together"])
    parser.add_argument("store", help="what is measured, or the source of a copy")
    parser.add_argument("place", help="where it lies, or the target")
    parser.add_argument("count", type=int, help="records; of a copy, at how many it is killed, 0 for never")
    parser.add_argument("other", nargs="*", help="together: what is written, and where it lies")
    asked = parser.parse_args()
    peak_mb()
    verbs = {"write": _written, "read": _read, "copy": _copied, "fill": _filled}
    if asked.verb == "together":
        verbs["together"] = lambda store, place, count: _together(store, place, count, *asked.other)
    print(orjson.dumps({**verbs[asked.verb](asked.store, asked.place, asked.count), "mb": peak_mb()}).decode())


def _written(store: str, place: str, count: int) -> dict[str, Any]:
    client, seconds, done = RAW[store](place, make=True), 0.0, 0
    for batch in batches(count):
        began = time.monotonic()
        client.write(batch, done)
        seconds += time.monotonic() - began
        done += len(batch)
    if isinstance(client, _Milvus):
        client.flush()
        client.count()
    client.close()
    return {"records": done, "rate": done / seconds}


def _read(store: str, place: str, count: int) -> dict[str, Any]:
    client, began = RAW[store](place, make=False), time.monotonic()
    done = sum(client.read())
    seconds = time.monotonic() - began
    if isinstance(client, _Milvus):
        client.count()
    client.close()
    if done != count:
        raise ValueError(f"{store} gave {done} records of {count}")
    return {"records": done, "rate": done / seconds}


def _together(store: str, place: str, count: int, other: str, target: str) -> dict[str, Any]:
    """One thread reads a store while another one writes the same records to another, both by their raw clients: what a copy
    in one process could come to that did nothing else. The records are made beforehand.
    """
    ready = list(batches(count))
    reader, writer = RAW[store](place, make=False), RAW[other](target, make=True)

    def read() -> None:
        done = 0
        for found in reader.read():
            done += found
            if done >= count:
                return

    began, done = time.monotonic(), 0
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(read)
        for batch in ready:
            writer.write(batch, done)
            done += len(batch)
        reading.result()
    seconds = time.monotonic() - began
    reader.close()
    writer.close()
    return {"records": done, "rate": done / seconds}


def _filled(store: str, place: str, count: int) -> dict[str, Any]:
    """The first collection of the ring."""
    from pixdex import Collection, connect

    connector, name = connect(place)
    collection = Collection.create(connector, name, SPEC)
    for batch in batches(count):
        collection.upsert(batch)
    collection.flush()
    collection.settle()
    connector.close()
    return {"store": store}


def _copied(source: str, target: str, deadly: int) -> dict[str, Any]:
    import os
    import signal

    from pixdex.copying import Moving, copy

    def follow(moving: Moving) -> None:
        if deadly and moving.phase == "copying" and moving.done >= deadly:
            print(orjson.dumps({"copied": moving.done, "rate": moving.rate}).decode(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    report = copy(source, target, progress=follow)
    return {
        "signed_off": report.signed_off,
        "copied": report.copied,
        "before": report.before,
        "rate": report.rate,
        "seconds": report.seconds,
        "copying": report.copy_seconds,
        "finishing": report.finish_seconds,
        "failed": [check.said for check in report.checks if not check.passed],
    }


if __name__ == "__main__":
    main()
