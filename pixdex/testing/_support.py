"""What the tests of the kit share: small Specs, vectors, and the score written down a second time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, TokenSpec, Vector
from pixdex.types import Batch, Tuning, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors.port import Connector
    from pixdex.types import Payload

DIM = 8
EXACT = Tuning(exact=True)
IDS_ONLY = Want(payload=False)


def fingerprint(encoder: str = "toy") -> Fingerprint:
    """A fingerprint that differs whenever the encoder's name does."""
    return Fingerprint(encoder=encoder, digest=hashlib.blake2b(encoder.encode(), digest_size=16).hexdigest())


def vector(
    name: str = "image", *, dim: int = DIM, metric: Metric = Metric.L2, dtype: Any = "float32", encoder: str = "toy"
) -> Vector:
    """A small named vector."""
    return Vector(name=name, dim=dim, metric=metric, dtype=dtype, fingerprint=fingerprint(encoder))


def plain(*fields: Field, metric: Metric = Metric.L2, dtype: Any = "float32", tokens: TokenSpec | None = None) -> Spec:
    """A Spec of one small vector."""
    return Spec(vectors=(vector(metric=metric, dtype=dtype),), fields=fields, tokens=tokens)


STANDARD = plain(Field(name="label", kind=Kind.TEXT), Field(name="n", kind=Kind.INT))


def some_vectors(count: int, *, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
    """float32 ``[count, dim]``, not of unit length, distinct."""
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32) * 2


def put(
    collection: Collection,
    ids: Sequence[str],
    vectors: NDArray[np.float32] | None = None,
    payloads: Sequence[Payload] | None = None,
    tokens: Sequence[NDArray[Any] | None] | None = None,
) -> None:
    """Write records and make them visible."""
    matrix = some_vectors(len(ids)) if vectors is None else vectors
    collection.upsert(
        Batch(
            tuple(ids),
            {collection.spec.vectors[0].name: matrix},
            None if payloads is None else tuple(payloads),
            None if tokens is None else tuple(tokens),
        )
    )
    collection.flush()


def scanned(collection: Collection, **options: Any) -> list[str]:
    """The ids that a whole scan visits, in its order."""
    return [record for page in collection.scan(**options) for record in page.batch.ids]


def payload_of(collection: Collection, record: str) -> Payload:
    """The payload of one record."""
    batch = collection.fetch([record])
    assert batch.ids == (record,), f"record {record!r} was not found"
    assert batch.payloads is not None, "payloads were asked for"
    return batch.payloads[0]


def similarity(metric: Metric, query: Sequence[float], stored: Sequence[float]) -> float:
    """The score of DESIGN section 3, in plain Python: independent of ``pixdex.scores`` and the oracle."""
    q, x = [float(v) for v in query], [float(v) for v in stored]
    product = math.fsum(a * b for a, b in zip(q, x, strict=True))
    match metric:
        case Metric.DOT:
            return product
        case Metric.L2:
            return -math.fsum((a - b) ** 2 for a, b in zip(q, x, strict=True))
    return product / (math.hypot(*q) * math.hypot(*x))


def allowed(metric: Metric, query: Sequence[float], stored: Sequence[float], dtype: str = "float32") -> float:
    """How far a score may be off: 1e-5 x max(1, |score|, |q|^2, |x|^2), or the rounding of float16."""
    lengths = (
        [1.0, 1.0] if metric is Metric.COSINE else [float(np.dot(v, v)) for v in np.array([query, stored], np.float64)]
    )
    scale = max(1.0, abs(similarity(metric, query, stored)), *lengths)
    return scale * (1e-5 if dtype == "float32" else 2e-3)


class Cases:
    """The fixtures of the kit. The fixture ``connector``, the store under test, is given by who runs it."""

    @pytest.fixture
    def name(self, connector: Connector) -> Iterator[str]:
        """A fresh collection name; what stands under it goes when the test ends."""
        fresh = f"c{uuid4().hex[:16]}"
        yield fresh
        connector.drop(fresh, timeout=60)

    @pytest.fixture
    def other(self, connector: Connector) -> Iterator[str]:
        """A second fresh name."""
        fresh = f"d{uuid4().hex[:16]}"
        yield fresh
        connector.drop(fresh, timeout=60)

    @pytest.fixture
    def collection(self, connector: Connector, name: str) -> Collection:
        """An empty collection: one vector ``image`` under l2, a text field ``label``, an int field ``n``."""
        return Collection.create(connector, name, STANDARD)

    @pytest.fixture
    def untouched(self, kept: Callable[..., Collection]) -> Iterator[Collection]:
        """An empty collection like ``collection``, shared by tests that write nothing in the end: creating
        one costs some stores half a second.
        """
        collection = kept(replace(STANDARD, encoder="untouched"))
        yield collection
        collection.flush()
        assert collection.count() == 0, "something was written that should have been refused"

    @pytest.fixture
    def kept(self, connector: Connector) -> Callable[..., Collection]:
        """A collection per Spec that tests share, for those that only read or are refused."""
        if not _SHARED or _SHARED[0][0] is not connector:
            _SHARED[:] = [(connector, {})]  # one connector at a time, so that a closed one is let go
        made = _SHARED[0][1]

        def get(spec: Spec, fill: Callable[[Collection], None] | None = None) -> Collection:
            key = spec.to_json()
            if key not in made:
                collection = Collection.create(connector, f"s{uuid4().hex[:16]}", spec)
                if fill is not None:
                    fill(collection)
                made[key] = collection
            return made[key]

        return get


_SHARED: list[tuple[Connector, dict[str, Collection]]] = []
