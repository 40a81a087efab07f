"""Indexes of Milvus: options of an address, and that the facade completes what an approximate one leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from pixdex import errors
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.connectors._milvus_client import NAMED_VECTORS, OLDEST, _version
from pixdex.filters import F
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch

SPEC = Spec(
    vectors=(Vector(dim=16, metric=Metric.L2, fingerprint=Fingerprint(encoder="e", digest="3fa9c1d2")),),
    fields=(Field(name="n", kind=Kind.INT),),
)


@pytest.mark.parametrize("index", ["HNSW", "IVF_FLAT"])
def test_what_the_index_leaves_out_is_completed(tmp_path: Path, index: str) -> None:
    """5 of 3000 match: the index of Milvus Lite finds few of them, the facade all."""
    connector, name = connect(f"milvus+lite://{tmp_path}/store?index={index}")
    collection = Collection.create(connector, name, SPEC)
    vectors = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    payloads = tuple({"n": i} for i in range(3000))
    for first in range(0, 3000, 1000):
        part = slice(first, first + 1000)
        ids = tuple(f"r{i}" for i in range(first, first + 1000))
        collection.upsert(Batch(ids, {"image": vectors[part]}, payloads[part]))
    collection.flush()
    connector.close()
    connector, name = connect(f"milvus+lite://{tmp_path}/store?index={index}")
    collection = Collection.open(connector, name)
    found = collection.search(vectors[:10], k=10, where=F.n < 5)
    assert all({hit.id for hit in hits} == {f"r{i}" for i in range(5)} for hits in found)
    assert any(hit.trace.get("completed") for hits in found for hit in hits)  # the engine did leave some out
    connector.close()


def test_a_collection_knows_that_its_index_is_approximate(tmp_path: Path) -> None:
    connector, name = connect(f"milvus+lite://{tmp_path}/store?index=HNSW")
    connector.create(name, SPEC, timeout=None)
    connector.close()
    again, _ = connect(f"milvus+lite://{tmp_path}/store")
    assert again.capabilities.complete
    Collection.open(again, name)
    assert not again.capabilities.complete
    assert not again.capabilities.exact
    again.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("index=HSNW", "HNSW"),
        ("m=1", "2 to 2048"),
        ("nlist=0", "1 to"),
        ("tls=1", "in this process"),
        ("idx=1", "index"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        connect(f"milvus+lite://{tmp_path}/store?{options}")


def test_versions() -> None:
    assert _version("v2.3.5-lite") == (2, 3, 5)
    assert _version("2.6.8") >= NAMED_VECTORS
    assert _version("v2.2.16") < OLDEST
    assert _version("unheard of") < OLDEST
