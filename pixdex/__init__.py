"""pixdex: image search on the vector store you have.

Public names are resolved lazily, so that ``import pixdex`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixdex import aio, errors
    from pixdex.collection import Collection
    from pixdex.connectors import connect
    from pixdex.copying import copy
    from pixdex.encoders.decoding import Decoding, Limits
    from pixdex.filters import F, Filter
    from pixdex.index import ImageIndex, open  # noqa: A004 - pixdex.open, as gzip.open
    from pixdex.policy import Policy
    from pixdex.reindexing import reindex, rollback
    from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, TokenSpec, Vector
    from pixdex.transfer import encode, load
    from pixdex.types import Batch, Hit, Page, Tuning, Want

__version__ = "0.1.0"

_HOME = {
    "Collection": "collection",
    "connect": "connectors",
    "copy": "copying",
    "Decoding": "encoders.decoding",
    "Limits": "encoders.decoding",
    "F": "filters",
    "Filter": "filters",
    "ImageIndex": "index",
    "open": "index",
    "Policy": "policy",
    "reindex": "reindexing",
    "rollback": "reindexing",
    "encode": "transfer",
    "load": "transfer",
    "Field": "spec",
    "Fingerprint": "spec",
    "Kind": "spec",
    "Metric": "spec",
    "Spec": "spec",
    "TokenSpec": "spec",
    "Vector": "spec",
    "Batch": "types",
    "Hit": "types",
    "Page": "types",
    "Tuning": "types",
    "Want": "types",
}

__all__ = [
    "Batch",
    "Collection",
    "Decoding",
    "F",
    "Field",
    "Filter",
    "Fingerprint",
    "Hit",
    "ImageIndex",
    "Kind",
    "Limits",
    "Metric",
    "Page",
    "Policy",
    "Spec",
    "TokenSpec",
    "Tuning",
    "Vector",
    "Want",
    "aio",
    "connect",
    "copy",
    "encode",
    "errors",
    "load",
    "open",
    "reindex",
    "rollback",
]


def __getattr__(name: str) -> Any:
    if name in {"aio", "errors"}:
        return import_module(f"pixdex.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'pixdex' has no attribute {name!r}")
    value = getattr(import_module(f"pixdex.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
