"""How vectors are indexed and searched: options of an address, and what a search passes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymilvus import MilvusClient

from pixdex.errors import ConfigError, nearest
from pixdex.spec import Metric, Vector
from pixdex.types import Tuning

__all__ = ["APPROXIMATE", "EXACT", "METRICS", "Index", "search_params"]

METRICS: Mapping[Metric, str] = {Metric.COSINE: "COSINE", Metric.DOT: "IP", Metric.L2: "L2"}
EXACT = frozenset({"FLAT", "BRUTE_FORCE", ""})
"""Types that compare with every vector; none is one of them."""
APPROXIMATE = frozenset({"IVF_SQ8", "IVF_PQ", "HNSW_SQ", "HNSW_PQ", "HNSW_PRQ", "SCANN", "IVF_RABITQ"})
"""Types whose scores come from shortened vectors."""
_TYPES = ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "AUTOINDEX")
_GRAPHS = frozenset({"HNSW", "HNSW_SQ", "HNSW_PQ", "HNSW_PRQ"})
_LISTS = frozenset({"IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN", "IVF_RABITQ"})
_MOST_EF = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The index that a collection gets when it is created.

    Attributes:
        kind: FLAT, IVF_FLAT, IVF_SQ8, HNSW or AUTOINDEX.
        m: links of a node of HNSW.
        ef_construction: candidates when HNSW is built.
        nlist: cells of an IVF index.
    """

    kind: str
    m: int = 16
    ef_construction: int = 200
    nlist: int = 128

    def __post_init__(self) -> None:
        if self.kind not in _TYPES:
            raise ConfigError(f"option index={self.kind!r}: one of {', '.join(_TYPES)}{nearest(self.kind, _TYPES)}")
        for name, low, high in (("m", 2, 2048), ("ef_construction", 1, 65_536), ("nlist", 1, 65_536)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"option {name}={getattr(self, name)}: {low} to {high}")

    @property
    def params(self) -> dict[str, int]:
        """What Milvus is told to build it with."""
        if self.kind == "HNSW":
            return {"M": self.m, "efConstruction": self.ef_construction}
        return {"nlist": self.nlist} if self.kind in _LISTS else {}

    def of(self, vectors: Sequence[Vector]) -> Any:
        """Such an index on each vector, as ``create_index`` takes them."""
        indexes = MilvusClient.prepare_index_params()
        for vector in vectors:
            metric = METRICS[vector.metric]
            indexes.add_index(vector.column, index_type=self.kind, metric_type=metric, params=self.params)
        return indexes


def search_params(kind: str, metric: Metric, tuning: Tuning, k: int) -> dict[str, Any]:
    """What a search on an index of that type passes on: more effort looks at more candidates."""
    params: dict[str, Any] = {}
    if kind in _GRAPHS:
        params["ef"] = min(_MOST_EF, max(k, round(16 * 32**tuning.effort)))  # 16 to 512
    elif kind in _LISTS:
        params["nprobe"] = max(1, round(128 * tuning.effort**2))
    return {"metric_type": METRICS[metric], "params": params}
