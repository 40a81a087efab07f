"""The values that travel between facade, ports and stores.

All but ``Hit`` are frozen. The import of this module stays free of numpy: with it it would cost ten times as much. Nothing here
knows a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pixdex.filters import Filter

__all__ = [
    "MAX_ID_BYTES",
    "MAX_INT",
    "MAX_TEXT_BYTES",
    "Batch",
    "Hit",
    "Page",
    "Payload",
    "Scan",
    "Search",
    "Tuning",
    "Want",
    "python_scalar",
]

Payload: TypeAlias = Mapping[str, Any]
Matrix: TypeAlias = "NDArray[np.float32]"

MAX_ID_BYTES = 512
MAX_INT = 2**53 - 1
"""Largest integer of a payload or filter: the largest that every store and JSON reader keeps exactly."""
MAX_TEXT_BYTES = 8 * 1024


def python_scalar(value: Any) -> Any:
    """A scalar of numpy as one of Python's; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "dtype") else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a read brings back besides ids and scores."""

    payload: bool = True
    vectors: tuple[str, ...] = ()
    """Names of vectors (at the port: physical names)."""
    tokens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The one search knob: ``effort`` in [0, 1] trades time for recall; ``exact`` leaves no choice."""

    effort: float = 0.5
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Records as columns.

    Attributes:
        ids: n ids.
        vectors: name -> float32 ``[n, dim]``. At the port the names are physical.
        payloads: n JSON objects, or None when not asked for.
        tokens: n token matrices ``[t, dim]`` or None each; None when not asked for.
        absent: name -> bool ``[n]``, true where a record lacks that vector (its row means nothing).
            A name that is missing here is absent nowhere.
        revs: n revisions. Filled by ``Collection`` on reads; at the port they are payload ``_rev``.
    """

    ids: tuple[str, ...]
    vectors: Mapping[str, Matrix] = field(default_factory=dict)
    payloads: tuple[Payload, ...] | None = None
    tokens: tuple[NDArray[Any] | None, ...] | None = None
    absent: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    revs: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def present(self, name: str) -> NDArray[np.bool_]:
        """Bool ``[n]``: which records have the vector ``name``."""
        import numpy as np

        if name not in self.vectors:
            return np.zeros(len(self.ids), dtype=bool)
        if name not in self.absent:
            return np.ones(len(self.ids), dtype=bool)
        return ~np.asarray(self.absent[name], dtype=bool)

    def take(self, rows: Sequence[int]) -> Batch:
        """The records at ``rows``, in that order."""
        import numpy as np

        index = np.asarray(rows, dtype=np.intp)
        return Batch(
            tuple(self.ids[i] for i in rows),
            {name: matrix[index] for name, matrix in self.vectors.items()},
            None if self.payloads is None else tuple(self.payloads[i] for i in rows),
            None if self.tokens is None else tuple(self.tokens[i] for i in rows),
            {name: mask[index] for name, mask in self.absent.items()},
            None if self.revs is None else tuple(self.revs[i] for i in rows),
        )

    @classmethod
    def concat(cls, batches: Sequence[Batch]) -> Batch:
        """The records of all batches, in order. A vector that a batch lacks is absent there; payloads,
        tokens and revisions are None unless every batch has them.
        """
        import numpy as np

        if len(batches) == 1:
            return batches[0]
        widths = {name: values.shape[1] for batch in batches for name, values in batch.vectors.items()}
        vectors, absent = {}, {}
        for name, dim in widths.items():
            vectors[name] = np.concatenate([b.vectors.get(name, np.zeros((len(b), dim), np.float32)) for b in batches])
            absent[name] = ~np.concatenate([b.present(name) for b in batches])
        return cls(
            tuple(record for batch in batches for record in batch.ids),
            vectors,
            _chained([batch.payloads for batch in batches]),
            _chained([batch.tokens for batch in batches]),
            absent,
            _chained([batch.revs for batch in batches]),
        )

    def hit(self, row: int, score: float) -> Hit:
        """The record at ``row`` as a result, with what the batch holds of it."""
        vectors = {
            name: values[row]
            for name, values in self.vectors.items()
            if name not in self.absent or not self.absent[name][row]
        }
        return Hit(
            self.ids[row],
            score,
            None if self.payloads is None else self.payloads[row],
            vectors or None,
            None if self.tokens is None else self.tokens[row],
        )


def _chained(columns: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    if any(column is None for column in columns):
        return None
    return tuple(item for column in columns if column is not None for item in column)


@dataclass(slots=True)
class Hit:
    """One result. It is the caller's own, so it is not frozen, which would cost as much as the rest of its making.

    ``score`` is a similarity, higher is better, the same number on every store for the same vectors.
    ``trace`` says how it came about: ``{"approximate": 1.0}``, ``{"first": .71, "maxsim": .83, "tokens": "computed"}``.
    """

    id: str
    score: float
    payload: Payload | None = None
    vectors: Mapping[str, NDArray[np.float32]] | None = None
    tokens: NDArray[Any] | None = None
    trace: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search at the port: ``queries`` float32 ``[q, dim]``, ``using`` a physical vector name."""

    queries: Matrix
    k: int
    using: str
    where: Filter | None = None
    tuning: Tuning = Tuning()
    want: Want = Want()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One page of a scan: at most ``size`` records after the cursor ``after`` (None: from the start)."""

    size: int
    after: str | None = None
    where: Filter | None = None
    want: Want = Want()


@dataclass(frozen=True, slots=True)
class Page:
    """Records and the cursor of the next page (None: that was the last)."""

    batch: Batch
    after: str | None
