"""The indexes of the embedded store: which kinds there are, how they are trained, saved and judged.

An index proposes positions and the store scores them exactly, so that a kind decides time, memory and recall but
never a score. All are derived data: deterministic in the vectors and a seed (``hnsw`` up to the order of threads).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from pixdex.connectors import _pq_index_engines as engines
from pixdex.connectors import _pq_index_lists as lists
from pixdex.connectors import _pq_index_trees as trees
from pixdex.connectors._pq_index_base import Index, Kind, Source, Stopped, faiss
from pixdex.errors import ConfigError, StoreFormat, Unsupported, nearest
from pixdex.spec import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Index", "Kind", "Stopped", "check", "drift", "from_bytes", "kind_named", "resolve", "to_bytes", "train"]

_TINY, _SMALL = 3_000 * 384, 20_000 * 384
"""Numbers in the vectors of a collection, below which nothing beats a scan of them, and below which a scan of all codes
finds nearly everything in a fifth of that time (measured); lists pay beyond.
"""
_MOST_ROTATED = 1024
_HEAD = 4


def kind_named(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return Kind(name)
    except ValueError:
        raise ConfigError(f"index={name!r}: no such index{nearest(name, list(Kind))}") from None


def resolve(kind: Kind, rows: int, dim: int) -> Kind:
    """The kind to use for so many vectors: never ``auto``."""
    if kind is not Kind.AUTO:
        return kind
    numbers = rows * dim
    return Kind.FLAT if numbers < _TINY else Kind.PQ if numbers < _SMALL else Kind.IVF_PQ


def check(kind: Kind, dim: int) -> None:
    """Refuse a kind for vectors that it cannot serve.

    Raises:
        Unsupported: they are too wide for it.
        MissingDependency: it needs a package that is not installed.
    """
    if kind in trees.KINDS:
        trees.check(kind, dim)
    if kind is Kind.OPQ and dim > _MOST_ROTATED:
        raise Unsupported(
            f"index={kind}: to learn a rotation of {dim} dimensions takes hours (it is for {_MOST_ROTATED} at most): "
            "take index='ivf-pq', or fewer dimensions"
        )


def train(
    kind: Kind,
    vectors: NDArray[Any],
    metric: Metric,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
    sample_seed: int = 0,
) -> Index:
    """An index over ``vectors``, float32 or float16 ``[n, d]``, mapped: they are read in chunks.

    Args:
        kind: neither ``auto`` nor ``flat``: a flat collection has no index.
        stop: set it, and training raises within a second or so (trees: when they are done).
        progress: called with the number of positions that are in the index so far.
        sample_seed: two trainings with the same one give the same index.

    Raises:
        ConfigError: a kind that has no index, or no vectors.
        Unsupported, MissingDependency: as ``check``.
        Stopped: told to stop.
    """
    if not len(vectors):
        raise ConfigError("there are no vectors to train an index on")
    source = Source(vectors=vectors, metric=metric, stop=stop, progress=progress, seed=sample_seed)
    check(kind, source.dim)
    if kind in lists.KINDS:
        return lists.train(kind, source)
    if kind in trees.KINDS:
        return trees.train(kind, source)
    if kind is Kind.HNSW:
        return engines.train_graph(source)
    if kind is Kind.LSH:
        return engines.train_codes(source)
    raise ConfigError(f"a collection of kind {kind} has no index: resolve the kind first and scan")


def drift(index: Index, rows: NDArray[np.float32]) -> float:
    """How much worse the index fits ``rows`` ``[n, d]`` than what it was trained on: 1 is as well, 2 twice the error.

    A thousand rows are plenty. It knows nothing of growth: compare ``covers`` with ``fitted`` for that.
    """
    return index.strain(rows) / max(index.error, 1e-12)


def to_bytes(index: Index) -> NDArray[np.uint8]:
    """The index as uint8 ``[size]``, for a derived file."""
    head = orjson.dumps(index.facts)
    size = np.frombuffer(len(head).to_bytes(_HEAD, "little"), dtype=np.uint8)
    return np.concatenate([size, np.frombuffer(head, dtype=np.uint8), index.payload()])


def from_bytes(data: NDArray[np.uint8]) -> Index:
    """What ``to_bytes`` gave. The bytes are copied and may go away.

    Raises:
        StoreFormat: they are no index of this version.
    """
    try:
        size = int.from_bytes(data[:_HEAD].tobytes(), "little")
        facts = orjson.loads(data[_HEAD : _HEAD + size].tobytes())
        facts |= {"kind": Kind(facts["kind"]), "metric": Metric(facts["metric"])}
        return _read(facts, data[_HEAD + size :])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise StoreFormat(f"a saved index cannot be read: {error}") from error


def _read(facts: dict[str, Any], payload: NDArray[np.uint8]) -> Index:
    if facts["kind"] in trees.KINDS:
        trees.check(facts["kind"], facts["dim"])
        vectors = np.frombuffer(payload.tobytes(), dtype=np.float32)
        return trees.rebuilt(facts, vectors.reshape(facts["covers"], facts["dim"]))
    engine = faiss.deserialize_index(payload)
    if facts["kind"] in lists.KINDS:
        return lists.Lists(**facts, engine=engine)
    return (engines.Graph if facts["kind"] is Kind.HNSW else engines.Codes)(**facts, engine=engine)
