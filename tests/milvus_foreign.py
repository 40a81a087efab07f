"""Collections of other tools on Milvus, made with the raw client, for Lite and the server alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from pixdex.collection import Collection
from pixdex.connectors.port import Connector, Survey
from pixdex.filters import F
from pixdex.spec import Field, Fingerprint, Foreign, Kind, Metric, Spec, Vector
from pixdex.types import Want

COUNT = 40
DIM = 4


def make(client: Any, name: str, *, text_ids: bool) -> np.ndarray[Any, Any]:
    """A collection of COUNT rows; returns their vectors, float32 ``[COUNT, DIM]``."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    if text_ids:
        schema.add_field("sku", DataType.VARCHAR, is_primary=True, max_length=64)
    else:
        schema.add_field("sku", DataType.INT64, is_primary=True)
    schema.add_field("title", DataType.VARCHAR, max_length=200)
    schema.add_field("price", DataType.DOUBLE)
    schema.add_field("stock", DataType.INT32)
    schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=8, max_length=50)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIM)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("embedding", index_type="FLAT", metric_type="L2")
    client.create_collection(name, schema=schema)
    client.create_index(name, indexes, sync=False)
    client.load_collection(name)
    vectors = np.random.default_rng(3).standard_normal((COUNT, DIM)).astype(np.float32)
    rows = [
        {
            "sku": f'k"{i}' if text_ids else i - 5,
            "title": f"thing {i}",
            "price": i / 2,
            "stock": i % 3,
            "tags": ["new", f"t{i}"] if i % 2 else ["old"],
            "embedding": vectors[i],
            "colour": "red" if i % 2 else "blue",
        }
        for i in range(COUNT)
    ]
    client.insert(name, rows)
    return vectors


def adopted(survey: Survey) -> Spec:
    """A Spec of what was found."""
    (vector,) = survey.vectors
    assert vector.metric is not None
    return Spec(
        vectors=(
            Vector(
                dim=vector.dim,
                metric=vector.metric,
                fingerprint=Fingerprint(encoder="theirs", digest="3fa9c1d2"),
                stored_as=vector.name,
            ),
        ),
        fields=tuple(Field(name=f.name, kind=f.kind, many=f.many, stored_as=f.name) for f in survey.fields if f.kind),
        layout=Foreign(ids=survey.ids, key=survey.key),
    )


def check(connector: Connector, client: Any, name: str, *, text_ids: bool) -> None:
    """Survey, register, and read what the raw client reads."""
    vectors = make(client, name, text_ids=text_ids)
    ids = [f'k"{i}' if text_ids else str(i - 5) for i in range(COUNT)]
    survey = connector.survey(name, timeout=60)  # type: ignore[attr-defined]
    assert (survey.count, survey.ids, survey.key) == (COUNT, "text" if text_ids else "int", "sku")
    assert [(v.name, v.dim, v.metric, v.searchable) for v in survey.vectors] == [("embedding", DIM, Metric.L2, True)]
    assert {f.name: (f.kind, f.many) for f in survey.fields} == {
        "title": (Kind.TEXT, False),
        "price": (Kind.FLOAT, False),
        "stock": (Kind.INT, False),
        "tags": (Kind.TEXT, True),
    }
    connector.register(name, adopted(survey), timeout=60)  # type: ignore[attr-defined]
    collection = Collection.open(connector, name)
    collection.flush()
    assert collection.count() == COUNT
    hits = collection.search(vectors[:1], k=3)[0]
    raw = client.search(
        name, data=[vectors[0].tolist()], anns_field="embedding", limit=3, search_params={"metric_type": "L2"}
    )[0]
    assert [hit.id for hit in hits] == [str(found.get("sku", found.get("id"))) for found in raw]
    assert hits[0].payload == {"title": "thing 0", "price": 0.0, "stock": 0, "tags": ["old"], "colour": "blue"}
    assert abs(hits[1].score + raw[1]["distance"]) < 1e-5
    assert {record for page in collection.scan(size=7) for record in page.batch.ids} == set(ids)
    batch = collection.fetch([ids[7], "nothing", "007", "1e3"], want=Want(vectors=("image",)))
    assert batch.ids == (ids[7],)
    np.testing.assert_allclose(batch.vectors["image"][0], vectors[7], atol=1e-6)
    assert collection.count((F.stock == 1) & (F.price < 10)) == sum(i % 3 == 1 and i < 20 for i in range(COUNT))
    assert collection.count(~(F.stock == 1)) == sum(i % 3 != 1 for i in range(COUNT))
    assert collection.count(F.tags.contains("new")) == COUNT // 2
    assert collection.count(F.title == 'x" or sku != "') == 0
    connector.register(name, None, timeout=60)  # type: ignore[attr-defined]
